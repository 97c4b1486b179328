"""What a key may hold is said where it is read: a type, a range, a default."""

from __future__ import annotations

from types import EllipsisType
from typing import Generic, Protocol, TypeVar, cast

from msgov.config.layers import Value
from msgov.errors import Problem, RuleError
from msgov.rule import field, parse, rule

T = TypeVar("T", covariant=True)


class _Cell(Protocol):
    value: object


class Typed(Generic[T]):
    """Read a value as one type, within a range, or refuse it.

    `kind` is bool, int, float (which takes an integer too), str, a container of them, a rule or a pydantic model:
    nothing is converted from text. Without a default a value is required; a default is held to the range as well.
    """

    __slots__ = ("_bounds", "_cell", "_plain", "default", "kind")

    def __init__(
        self,
        kind: type[T],
        *,
        default: T | EllipsisType = ...,
        gt: float | None = None,
        ge: float | None = None,
        lt: float | None = None,
        le: float | None = None,
    ) -> None:
        self.kind = kind
        self.default = default
        self._bounds = (gt, ge, lt, le)
        self._plain = kind in (bool, int, float, str)
        self._cell: type[object] | None = None
        if not isinstance(default, EllipsisType) and self._plain:
            self.read(cast("Value", default), "default")

    def read(self, value: Value | None, key: str) -> T:
        """Return the value, or the default where there is None; raises `RuleError` at `key`."""
        if value is None and not isinstance(self.default, EllipsisType):
            return self.default
        if self._plain and (type(value) is self.kind or (self.kind is float and type(value) is int)):
            found = self.kind(value)  # type: ignore[call-arg]  # one of the four plain types
            if self._within(found):
                return found
        return self._slowly(value, key)

    def same(self, other: Typed[object]) -> bool:
        """Say whether another reads as this one does."""
        return (self.kind, self._bounds, repr(self.default)) == (other.kind, other._bounds, repr(other.default))

    def _within(self, found: object) -> bool:
        if self._bounds == _UNBOUNDED and self.kind is not float:
            return True
        if self.kind is str:
            return False  # a bound on text is a mistake: let the rule machinery say so
        number = cast("float", found)
        gt, ge, lt, le = self._bounds
        return (
            -_LARGEST <= number <= _LARGEST
            and (gt is None or number > gt)
            and (ge is None or number >= ge)
            and (lt is None or number < lt)
            and (le is None or number <= le)
        )

    def _slowly(self, value: Value | None, key: str) -> T:
        """Ask the rule machinery: it reads what is not plain, and says what is wrong with what is."""
        cell = self._cell
        if cell is None:
            gt, ge, lt, le = self._bounds
            made = field(why="the value of a key", gt=gt, ge=ge, lt=lt, le=le)
            cell = self._cell = rule(type("Cell", (), {"__annotations__": {"value": self.kind}, "value": made}))
        try:
            found = parse(cell, {} if value is None else {"value": value})
        except RuleError as error:
            raise RuleError(
                [Problem(key + p.path.removeprefix("value"), p.value, p.allowed) for p in error.problems]
            ) from None
        return cast("T", cast("_Cell", found).value)


_UNBOUNDED = (None, None, None, None)
_LARGEST = 1.7976931348623157e308  # the largest finite float: beyond it stand infinity and NaN
