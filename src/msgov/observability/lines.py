"""Each request leaves one line that says all about it, written when it is over.

The line goes straight to the encoder: its fields are ours, so only an error's text needs to be looked at.
"""

from __future__ import annotations

import logging
from typing import Final

from msgov import wire
from msgov.call import Call, Outcome
from msgov.observability.edge import Edge, reason
from msgov.observability.levels import Voice
from msgov.observability.logs import described, installed, levels, told
from msgov.observability.redact import clean
from msgov.policy import Gate

LOGGER: Final = "msgov.calls"
_LONGEST_ID: Final = 128  # characters of a request id that are kept
_MOST_NAMES: Final = 500


class Lines(Gate[tuple[Call, float]]):
    """A gate that writes the canonical line of each call of an edge: put it outside of all that may refuse the call.

    The level follows the status: a client's success is a debug line, for the server's own line tells more. `service`
    names another service than the process's, where several share one. A call that took `slow` seconds or more is
    marked and its line is at least an info; None marks none. The loggers are `msgov.calls.server`, `.client`,
    `.consumer` and `.producer`.
    """

    def __init__(self, edge: Edge, *, service: str = "", slow: float | None = None) -> None:
        self._edge = edge
        self._service = service
        self._slow = slow
        self._voice: Voice = levels.voice(f"{LOGGER}.{edge.side}")
        self._cleaned: dict[str, str] = {}

    def admit(self, call: Call, now: float) -> tuple[Call, float]:
        """Note the start."""
        return call, now

    def settle(self, ticket: tuple[Call, float], outcome: Outcome, now: float) -> None:
        """Write the line, if its level is wanted."""
        call, since = ticket
        edge, seconds = self._edge, now - since
        level = edge.level(outcome)
        slow = self._slow is not None and seconds >= self._slow
        if slow:
            level = max(level, logging.INFO)
        if level < self._voice.level:
            return
        logs = installed()
        line = logs.head(level, self._voice.name, edge.event, call.trace)
        if self._service:
            line["service"] = self._service
        request = call.metadata.get(wire.REQUEST_ID)
        if request:
            line["request_id"] = clean(request[:_LONGEST_ID])
        operation = edge.operation(call)
        line[edge.field] = self._cleaned.get(operation) or self._clean(operation)
        if edge.outward:
            line["target"] = clean(call.target)
            line["attempts"] = call.attempt
        line["status"] = edge.status(outcome)
        line["duration_s"] = int(seconds * 1e6) / 1e6  # `round` costs three times as much
        if call.deadline is not None:
            line["deadline_left_s"] = int((call.deadline - now) * 1e6) / 1e6
        if slow:
            line["slow"] = True
        error = outcome.error
        if error is not None:
            line["error"] = {**described(error), "type": reason(error)}
            if level >= logging.ERROR and edge.side != "server":  # a server's edge tells its traceback itself
                line["exception"] = told(error)
        logs.sink.write(logs.render(line))

    def _clean(self, operation: str) -> str:
        """Clean a name once; strangers cannot make us remember more than a few hundred."""
        if len(self._cleaned) >= _MOST_NAMES:
            self._cleaned.clear()
        cleaned = self._cleaned[operation] = clean(operation)
        return cleaned
