"""What the order instances say of the breakers in front of payment, read where Prometheus reads it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

import httpx2

from .child import Child

BREAKER: Final = "payment/Charge"
_SAMPLE: Final = re.compile(r"^(msgov_breaker_(?:state|transitions_total))\{(.*)\} ([0-9.e+-]+)$", re.MULTILINE)
_LABEL: Final = re.compile(r'(\w+)="([^"]*)"')


@dataclass(slots=True)
class Reading:
    """One instance's breakers: the states they are in, and how often they turned to each."""

    states: set[str] = field(default_factory=set)
    turns: Counter[str] = field(default_factory=Counter)


class Gauges:
    """Reads all order instances; what one has said stays when it dies."""

    def __init__(self, instances: Callable[[], Iterable[Child]]) -> None:
        self._instances = instances
        self._heard: dict[int, Reading] = {}
        self._alive: set[int] = set()
        self._http = httpx2.AsyncClient(trust_env=False, timeout=2.0)

    async def look(self) -> None:
        """Read them now; one that does not answer keeps its last reading."""
        alive = set()
        for child in self._instances():
            alive.add(child.pid)
            try:
                page = await self._http.get(f"http://127.0.0.1:{child.admin}/metrics")
            except httpx2.HTTPError:
                continue
            self._heard[child.pid] = read(page.text)
        self._alive = alive

    @property
    def states(self) -> dict[int, set[str]]:
        """The states that each living instance's breakers are in."""
        return {pid: self._heard[pid].states for pid in self._alive if pid in self._heard}

    @property
    def opened(self) -> int:
        """How often a breaker opened."""
        return sum(reading.turns["open"] for reading in self._heard.values())

    @property
    def closed_again(self) -> bool:
        """Whether every breaker that opened has closed."""
        closed = all(states <= {"closed"} for states in self.states.values())
        return closed and sum(reading.turns["closed"] for reading in self._heard.values()) > 0

    async def aclose(self) -> None:
        """Hang up."""
        await self._http.aclose()


def read(page: str) -> Reading:
    """Read one instance's metrics page."""
    reading = Reading()
    for name, labels, value in _SAMPLE.findall(page):
        label = dict(_LABEL.findall(labels))
        if label.get("breaker") != BREAKER or float(value) <= 0:
            continue
        if name == "msgov_breaker_state":
            reading.states.add(label["state"])
        else:
            reading.turns[label["to"]] += int(float(value))
    return reading
