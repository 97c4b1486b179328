"""What is worth a line can change while the program runs, for all loggers or for those under a name."""

from __future__ import annotations

import logging
import threading
from typing import Final

from msgov.errors import RuleError

NAMES: Final = ("debug", "info", "warning", "error", "critical")
_ORDER: Final = {name: getattr(logging, name.upper()) for name in NAMES}


_EXACT: Final = {number: name for name, number in _ORDER.items()}


def name_of(level: int) -> str:
    """Name the level that a number of the standard library belongs to."""
    found = _EXACT.get(level)
    if found is None:  # libraries make levels of their own
        found = next((name for number, name in reversed(_EXACT.items()) if level >= number), NAMES[0])
    return found


class Voice:
    """One logger's name and the level below which it is silent: a plain number, read at each call."""

    __slots__ = ("level", "name")

    def __init__(self, name: str, level: int) -> None:
        self.name = name
        self.level = level


class Levels:
    """The level of every logger, ours and the standard library's, by the longest name that was given one.

    Loggers that exist already follow at once. The default is info.
    """

    def __init__(self) -> None:
        self._given: dict[str, int] = {"": logging.INFO}
        self._voices: dict[str, Voice] = {}
        self._before: dict[str, int] = {}
        self._lock = threading.Lock()

    def voice(self, name: str) -> Voice:
        """Return the voice of a logger: the same for the same name."""
        with self._lock:
            found = self._voices.get(name)
            if found is None:
                found = self._voices[name] = Voice(name, self._of(name))
            return found

    def set(self, level: str, *, logger: str = "") -> None:
        """Set the level of a logger and of all below it ("shop" is also for "shop.orders"); "" is for all.

        Raises `RuleError` for a level that is none of debug, info, warning, error, critical.
        """
        number = _ORDER.get(level.lower())
        if number is None:
            raise RuleError.at("level", level, "one of " + ", ".join(NAMES))
        with self._lock:
            self._given[logger] = number
            for voice in self._voices.values():
                voice.level = self._of(voice.name)
        foreign = logging.getLogger(logger)
        self._before.setdefault(logger, foreign.level)
        foreign.setLevel(number)

    def restore(self) -> None:
        """Give every logger the level back that it had before the first `set`."""
        with self._lock:
            self._given = {"": logging.INFO}
            for voice in self._voices.values():
                voice.level = self._of(voice.name)
            before, self._before = self._before, {}
        for logger, number in before.items():
            logging.getLogger(logger).setLevel(number)

    def of(self, name: str) -> str:
        """Return the level of a logger."""
        with self._lock:
            return name_of(self._of(name))

    def _of(self, name: str) -> int:
        while name not in self._given:
            name = name.rpartition(".")[0]
        return self._given[name]
