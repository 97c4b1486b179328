"""Each request leaves one line that says all about it, written when it is over.

The line goes straight to the encoder: its fields are ours, so only an error's text needs to be looked at.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Final

from msgov.call import OK, Call, Outcome
from msgov.observability.edge import Edge, reason
from msgov.observability.levels import Voice
from msgov.observability.logs import Logs, described, installed, levels, told
from msgov.observability.redact import clean
from msgov.observability.roots import task
from msgov.observability.sink import encode
from msgov.policy import Gate
from msgov.wire import REQUEST_ID

LOGGER: Final = "msgov.calls"
_LONGEST_ID: Final = 128  # characters of a request id that are kept
_MOST_NAMES: Final = 500

# What differs from line to line of one form, in its order; each stands for itself until a form is made of the line.
_BLANKS: Final = {
    "timestamp": "\ue000",
    "trace_id": "\ue001",
    "span_id": "\ue002",
    "duration_s": "\ue003",
    "deadline_left_s": "\ue004",
}
_NUMBERS: Final = ("duration_s", "deadline_left_s")
_Kind = tuple[str, str, str, int, bool]
_Form = tuple[int, str]  # the level, and the line with blanks for `%`


class Lines(Gate[tuple[Call, float]]):
    """A gate that writes the canonical line of each call of an edge: put it outside of all that may refuse the call.

    The level follows the status: a client's success is a debug line, for the server's own line tells more. `service`
    names another service than the process's, where several share one. A call that took `slow` seconds or more is
    marked and its line is at least an info; None marks none. The loggers are `msgov.calls.server`, `.client`,
    `.consumer` and `.producer`.
    """

    waits = False

    def __init__(self, edge: Edge, *, service: str = "", slow: float | None = None) -> None:
        self._edge = edge
        self._service = service
        self._slow = slow
        self._voice: Voice = levels.voice(f"{LOGGER}.{edge.side}")
        self._cleaned: dict[str, str] = {}
        self._forms: dict[_Kind, _Form] = {}
        self._identity: Mapping[str, str] = {}

    def admit(self, call: Call, now: float) -> tuple[Call, float]:
        """Note the start."""
        return call, now

    def settle(self, ticket: tuple[Call, float], outcome: Outcome, now: float) -> None:
        """Write the line, if its level is wanted.

        Calls that go well leave lines of a few forms: each is encoded once, and then only its blanks are filled in.
        """
        call, since = ticket
        logs, seconds = installed(), now - since
        slow = self._slow is not None and seconds >= self._slow
        if outcome.verdict is OK and not slow and logs.plain and self._filled_in(logs, call, outcome, seconds, now):
            return
        level = self._edge.level(outcome)
        if slow:
            level = max(level, logging.INFO)
        if level < self._voice.level:
            return
        logs.sink.write(logs.render(self._line(level, logs, call, outcome, now - since, now, slow=slow)))

    def _line(
        self, level: int, logs: Logs, call: Call, outcome: Outcome, seconds: float, now: float, *, slow: bool
    ) -> dict[str, object]:
        edge = self._edge
        line = logs.head(level, self._voice.name, edge.event, call.trace)
        if self._service:
            line["service"] = self._service
        request = call.metadata.get(REQUEST_ID)
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
        return line

    def _filled_in(self, logs: Logs, call: Call, outcome: Outcome, seconds: float, now: float) -> bool:
        """Write the line by its form; False where it is of none."""
        trace, deadline = call.trace, call.deadline
        if trace is None or task.get() or REQUEST_ID in call.metadata:
            return False
        if logs.identity is not self._identity:
            self._forms, self._identity = {}, logs.identity
        kind = (call.method, call.target, outcome.status, call.attempt, deadline is None)
        level, form = self._forms.get(kind) or self._form(kind, call, outcome, logs)
        if not form:
            return False
        if level >= self._voice.level:
            stamp = logs.stamp(logs.clock())
            if deadline is None:
                text = form % (stamp, trace.trace_id, trace.span_id, seconds)
            else:
                text = form % (stamp, trace.trace_id, trace.span_id, seconds, deadline - now)
            logs.sink.write(text.encode())
        return True

    def _form(self, kind: _Kind, call: Call, outcome: Outcome, logs: Logs) -> _Form:
        """Make the form of such lines; an empty one where somebody's name looks like a blank."""
        level = self._edge.level(outcome)
        line = self._line(level, logs, call, outcome, 0.0, 0.0, slow=False)
        blanks = {key: blank for key, blank in _BLANKS.items() if key in line}
        text = encode({**line, **blanks}).decode().replace("%", "%%")
        for key, blank in blanks.items():
            if text.count(blank) != 1:
                return level, ""
            text = text.replace(f'"{blank}"', "%.6f") if key in _NUMBERS else text.replace(blank, "%s")
        if len(self._forms) >= _MOST_NAMES:
            self._forms.clear()
        self._forms[kind] = level, text
        return level, text

    def _clean(self, operation: str) -> str:
        """Clean a name once; strangers cannot make us remember more than a few hundred."""
        if len(self._cleaned) >= _MOST_NAMES:
            self._cleaned.clear()
        cleaned = self._cleaned[operation] = clean(operation)
        return cleaned
