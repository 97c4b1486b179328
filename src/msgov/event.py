"""What happened is told after the lock, as a frozen value; who listens never breaks a call."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import cast

from msgov.errors import Fact


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened: `kind` ("breaker.opened"), the policy's `name`, its `target`, when, and the numbers.

    `at` is on the monotonic clock of whoever told it.
    """

    kind: str
    name: str
    target: str
    at: float
    facts: Mapping[str, Fact]


Observer = Callable[[Event], None]


def unraisable(error: BaseException, source: object) -> None:
    """Report an error that must not break what it happened in, the way Python reports one from a finaliser."""
    facts = SimpleNamespace(
        exc_type=type(error), exc_value=error, exc_traceback=error.__traceback__, err_msg="ignored in", object=source
    )
    try:
        sys.unraisablehook(cast("sys.UnraisableHookArgs", facts))
    except Exception:  # noqa: BLE001  the interpreter's own hook takes no arguments but its own
        if sys.stderr is not None:
            sys.stderr.write(f"Exception ignored in: {source!r}\n")
            traceback.print_exception(error)


class Observers:
    """Who is told; adding one is safe at any time, and a listener that raises is reported and passed over."""

    __slots__ = ("_all",)

    def __init__(self, *observers: Observer) -> None:
        self._all = observers

    def add(self, observer: Observer) -> None:
        """Tell this one too, from now on."""
        self._all = (*self._all, observer)

    def remove(self, observer: Observer) -> None:
        """Tell this one no more; unknown ones are passed over."""
        self._all = tuple(o for o in self._all if o is not observer)

    def tell(self, kind: str, name: str, target: str, at: float, **facts: Fact) -> None:
        """Tell all of them; call it with no lock held."""
        if self._all:
            event = Event(kind, name, target, at, facts)
            for observer in self._all:
                try:
                    observer(event)
                except Exception as error:  # noqa: BLE001  a listener's fault is not the call's
                    unraisable(error, observer)
