"""A handle is always current: its value is a plain attribute, changed only by what passed every reader."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import EllipsisType
from typing import TYPE_CHECKING, Generic, NoReturn, TypeVar

from msgov.config.layers import Path, Tree, at, path
from msgov.config.typed import Typed
from msgov.errors import SourceError

T = TypeVar("T")


class Handle(Generic[T]):
    """A live value: read `value` where it is used, never keep a copy of it.

    It is there from the first configuration on, or from the start where the handle has a default; reading it earlier
    raises `SourceError`. Who needs several values of one version takes a `Snapshot`.
    """

    __slots__ = ("_listeners", "key", "paths", "read", "value")

    value: T

    def __init__(self, key: str, paths: Sequence[Path], read: Callable[[Tree], T]) -> None:
        self.key = key
        self.paths = tuple(paths)
        self.read = read
        self._listeners: tuple[Callable[[T, T], None], ...] = ()

    @property
    def known(self) -> bool:
        """Whether there is a value yet."""
        return not isinstance(self, Unknown)

    def take(self, value: T) -> None:
        """Have a value from now on; for the configuration alone."""
        self.value = value
        self.__class__ = Handle

    def wait(self) -> None:
        """Have none yet; for the configuration alone."""
        self.__class__ = Unknown

    def listen(self, listener: Callable[[T, T], None]) -> Callable[[], None]:
        """Tell `listener` (old, new) of each change, in the thread that makes it; return a function that ends it.

        Where there was no value before, both are the new one.
        """
        self._listeners = (*self._listeners, listener)

        def end() -> None:
            self._listeners = tuple(other for other in self._listeners if other is not listener)

        return end

    @property
    def listeners(self) -> Sequence[Callable[[T, T], None]]:
        """Who is told."""
        return self._listeners

    def __repr__(self) -> str:
        """Name the key, never the value: it may be a secret."""
        return f"Handle({self.key!r})"


class Unknown(Handle[T]):
    """A handle without a value yet says so when it is read.

    A class of its own, since Python reads attributes at half the speed where `__getattr__` is defined.
    """

    __slots__ = ()

    if not TYPE_CHECKING:  # asked only for what is not there, which no type checker need know of

        def __getattr__(self, name: str) -> NoReturn:
            """Say why there is no value yet."""
            if name == "value":
                raise SourceError(f"{self.key}: nothing is known yet, start the configuration first")
            raise AttributeError(name)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The whole configuration at one moment, for who needs one version of it throughout a request."""

    version: str
    tree: Tree

    def value(
        self,
        key: str,
        kind: type[T],
        *,
        default: T | EllipsisType = ...,
        gt: float | None = None,
        ge: float | None = None,
        lt: float | None = None,
        le: float | None = None,
    ) -> T:
        """Read one key; raises `RuleError` when it is missing without a default, of another type, or out of range."""
        return Typed(kind, default=default, gt=gt, ge=ge, lt=lt, le=le).read(at(self.tree, path(key)), key)
