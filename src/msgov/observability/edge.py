"""What a call is called in metrics, lines and spans depends on its wire and on the side it is seen from: said here.

An edge turns a call and its outcome into words; it keeps nothing, so one value serves every gate.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal

from msgov.call import IGNORED, Call, Outcome
from msgov.errors import DeadlineSpent, MsgovError
from msgov.observability.catalogue import Metric

Side = Literal["client", "server", "producer", "consumer"]


class Edge(ABC):
    """The words of one wire, from one side.

    `side` is client, server, producer or consumer; `system` names the wire; `duration` is the metric that times it;
    `event` is what its canonical line is called; `field` is the key of `operation` in that line.
    """

    side: Side
    system: str
    duration: Metric
    event: str
    field: str

    @property
    def outward(self) -> bool:
        """Whether the call leaves this process."""
        return self.side in ("client", "producer")

    @abstractmethod
    def operation(self, call: Call) -> str:
        """Name what is called: a method, a route, a destination."""

    @abstractmethod
    def status(self, outcome: Outcome) -> str:
        """Return the wire's word for the outcome; empty where nothing came over the wire."""

    @abstractmethod
    def error_type(self, outcome: Outcome) -> str:
        """Say what kind of failure it was; empty when it was none of this side's."""

    @abstractmethod
    def labels(self, call: Call, outcome: Outcome) -> tuple[str, ...]:
        """Return the label values of `duration`, in its order."""

    @abstractmethod
    def level(self, outcome: Outcome) -> int:
        """Return the level of the canonical line, as a number of the standard library."""

    @abstractmethod
    def span(self, call: Call) -> str:
        """Name the span."""

    @abstractmethod
    def attributes(self, call: Call) -> dict[str, str]:
        """Return the attributes that a span has from its start."""

    @abstractmethod
    def answered(self, call: Call, outcome: Outcome) -> dict[str, str | int]:
        """Return the attributes that a span gets at its end, but for the error."""


def late(outcome: Outcome) -> bool:
    """Whether time ran out."""
    return isinstance(outcome.error, TimeoutError | DeadlineSpent) or outcome.status == "DEADLINE_EXCEEDED"


def reason(error: BaseException | None) -> str:
    """Name a failure that came over no wire."""
    if error is None:
        return ""
    return error.reason if isinstance(error, MsgovError) else type(error).__name__


def given_up(outcome: Outcome) -> bool:
    """Whether the caller went away: a cancellation, or a stream closed before its end."""
    error = outcome.error
    return outcome.verdict is IGNORED and (error is None or not isinstance(error, Exception))
