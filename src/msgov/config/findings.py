"""What lint says: where, what stands there, why it is wrong, what to do, and how bad it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, TypeVar

from msgov.errors import Fact

Severity: TypeAlias = Literal["error", "warning"]
R = TypeVar("R")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is wrong with rules that are each allowed.

    `check` names the kind of mistake ("inner-timeout"), `path` the place as in the file or "policies[2]" of a pipeline,
    `value` what stands there. An "error" does harm, or does not do what it says; a "warning" may be meant.
    """

    check: str
    path: str
    value: Fact
    why: str
    do: str
    severity: Severity

    def __str__(self) -> str:
        """Read as two lines: the mistake, and the way out of it."""
        shown = "" if self.value is None else f" = {self.value!r}"
        return f"{self.severity}: {self.path}{shown}: {self.why}\n    {self.do}  [{self.check}]"

    def as_dict(self) -> dict[str, Fact]:
        """Return it as plain data."""
        return {name: getattr(self, name) for name in ("check", "severity", "path", "value", "why", "do")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """What rules do not say of themselves; None for what is not known, and then nothing is said about it.

    `calls_per_second` is what one process sends to one method (of one instance, for its breakers); `p50` the median
    time of a call in seconds; `workers` the processes that govern themselves by these rules; `capacity` the calls a
    second that a callee takes from all of them together. `chains` are names of calls, each made while the one before
    it is handled: ("order/Place", "payment/Charge"). `not_idempotent` are names of calls of which a second execution
    does harm; those of HTTP with POST or PATCH are taken for such anyway.
    """

    calls_per_second: float | None = None
    p50: float | None = None
    workers: int = 1
    capacity: float | None = None
    chains: Sequence[Sequence[str]] = ()
    not_idempotent: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Stack:
    """The rules that govern one call together, by policy; `place` says where each is written."""

    rules: Mapping[str, object]
    place: Callable[[str], str]

    def rule(self, policy: str, kind: type[R]) -> R | None:
        """Return the rule of a policy, None where it is off."""
        found = self.rules.get(policy)
        return found if isinstance(found, kind) else None
