"""Every line has a trace id, says which service wrote it, and holds no secret: ours and those of other libraries.

One chain makes them all. JSON where a program reads them, columns where a person does.
"""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Callable, Mapping, MutableMapping
from typing import Final

import structlog
from structlog.contextvars import merge_contextvars
from structlog.typing import EventDict, Processor, WrappedLogger

from msgov import wire
from msgov.clock import Clock, wall
from msgov.observability.levels import NAMES, Levels, Voice, name_of
from msgov.observability.redact import LONGEST, fit, guarded
from msgov.observability.roots import task
from msgov.observability.sink import Sink, Stamp, encode
from msgov.scope import Trace, current

_HEAD: Final = ("timestamp", "level", "event", "logger", "service", "version", "instance", "trace_id", "span_id")


def here() -> Trace | None:
    """Return the trace of the work under way."""
    return current.get().trace


class Logs:
    """The chain: it makes lines of events and hands them to a sink.

    `service`, `version`, `instance` and `env` stand in every line. `human` writes columns instead of JSON. `place`
    tells the trace of the work under way; where there is none, the line belongs to the trace of the process, which is
    minted here.
    """

    def __init__(
        self,
        *,
        service: str = "",
        version: str = "",
        instance: str = "",
        env: str = "",
        sink: Sink | None = None,
        human: bool = False,
        colours: bool = False,
        place: Callable[[], Trace | None] = here,
        clock: Clock = wall,
    ) -> None:
        self.identity: Mapping[str, str] = {"service": service, "version": version, "instance": instance}
        if env:
            self.identity = {**self.identity, "env": env}
        self.sink = sink or Sink()
        self.root = wire.child(None)
        self._place = place
        self.clock = clock
        self.stamp = Stamp().at
        self._human = _Columns(colours=colours) if human else None
        self.plain = not human  # JSON, for programs

    def tell(self, level: int, logger: str, event: str, /, **fields: object) -> None:
        """Write one line, whatever its level: whoever calls has looked at that. Never raises.

        `exc_info` (an exception, or True for the one being handled) is written as a traceback. Fields are redacted; one
        that is named as those of every line are shows up with an underscore before its name.
        """
        try:
            self.sink.write(self.line(level, logger, event, fields))
        except Exception:  # noqa: BLE001  a line must not cost the work that it speaks of
            self.sink.dropped += 1

    def line(self, level: int, logger: str, event: object, fields: MutableMapping[str, object]) -> bytes:
        """Make a line of an event and its fields."""
        error = _exception(fields.pop("exc_info", None))
        stack = fields.pop("stack_info", None)
        line = self.head(level, logger, fit(event if isinstance(event, str) else str(event)))
        for key, value in guarded(fields).items():
            line[f"_{key}" if key in _HEAD else key] = value
        if error is not None:
            line.setdefault("error", described(error))
            line["exception"] = told(error)
        if isinstance(stack, str):
            line["stack"] = fit(stack)
        return self.render(line)

    def head(self, level: int, logger: str, event: str, trace: Trace | None = None) -> dict[str, object]:
        """Begin a line: the fields that all lines have. `trace` is for one that speaks of other work than its own."""
        trace = trace or self._place() or self.root
        line: dict[str, object] = {
            "timestamp": self.stamp(self.clock()),
            "level": name_of(level),
            "event": event,
            "logger": logger,
            **self.identity,
            "trace_id": trace.trace_id,
            "span_id": trace.span_id,
        }
        doing = task.get()
        if doing:
            line["task"] = doing
        return line

    def render(self, line: dict[str, object]) -> bytes:
        """Write a finished line as bytes: nothing in it is redacted any more."""
        return encode(line) if self._human is None else self._human(line)


def _exception(info: object) -> BaseException | None:
    """Find the exception that `exc_info` stands for, in each of its spellings."""
    if isinstance(info, BaseException):
        return info
    if isinstance(info, tuple) and len(info) == 3:
        return info[1] if isinstance(info[1], BaseException) else None
    return sys.exc_info()[1] if info else None


def described(error: BaseException) -> dict[str, object]:
    """Describe an error in two fields: its class, and its text, scrubbed."""
    try:
        text = str(error)
    except Exception:  # noqa: BLE001  a broken __str__ must not cost the line
        text = "(its text raised)"
    return {"type": type(error).__name__, "message": fit(text)}


def told(error: BaseException) -> str:
    """Write a traceback, without the values of any variable: they hold what nobody meant to print."""
    text = "".join(traceback.format_exception(error)).rstrip()
    if len(text) > LONGEST:  # the frames nearest to the failure stand last
        text = text[: LONGEST // 4] + "\n  ...\n" + text[-LONGEST // 2 :]
    return fit(text)


class _Columns:
    """Lines for people: the time, the level, the event, then what is particular to it; the trace id last."""

    def __init__(self, *, colours: bool) -> None:
        self._renderer = structlog.dev.ConsoleRenderer(
            colors=colours, sort_keys=False, exception_formatter=structlog.dev.plain_traceback
        )

    def __call__(self, line: MutableMapping[str, object]) -> bytes:
        for key in ("service", "version", "instance", "env", "span_id"):
            line.pop(key, None)
        line["trace_id"] = line.pop("trace_id")
        line["timestamp"] = str(line["timestamp"])[11:-1]
        line["event"] = str(line["event"]).replace("\n", "\\n")
        return self._renderer(None, "", line).encode("utf-8", "backslashreplace")


class Logger(structlog.BoundLoggerBase):
    """A logger whose fields stay bound and whose level can change at any time; `bind(...)` adds fields.

    An event is a constant text; what varies goes into fields: `log.info("order.placed", order=7)`. Nothing that is
    logged can raise.
    """

    _logger: Voice

    def debug(self, event: str, /, **fields: object) -> None:
        """Write a line for whoever debugs."""
        if self._logger.level <= logging.DEBUG:
            self._say("debug", event, fields)

    def info(self, event: str, /, **fields: object) -> None:
        """Write a line about what is as it should be."""
        if self._logger.level <= logging.INFO:
            self._say("info", event, fields)

    def warning(self, event: str, /, **fields: object) -> None:
        """Write a line about what may need somebody."""
        if self._logger.level <= logging.WARNING:
            self._say("warning", event, fields)

    def error(self, event: str, /, **fields: object) -> None:
        """Write a line about what went wrong."""
        if self._logger.level <= logging.ERROR:
            self._say("error", event, fields)

    def critical(self, event: str, /, **fields: object) -> None:
        """Write a line about what ends the work."""
        if self._logger.level <= logging.CRITICAL:
            self._say("critical", event, fields)

    def exception(self, event: str, /, **fields: object) -> None:
        """Write a line about the exception being handled, with its traceback."""
        if self._logger.level <= logging.ERROR:
            fields.setdefault("exc_info", True)
            self._say("error", event, fields)

    def _say(self, method: str, event: str, fields: dict[str, object]) -> None:
        sink = _process.logs.sink
        try:
            (line,), _ = self._process_event(method, event, fields)
            sink.write(line)
        except structlog.DropEvent:
            pass
        except Exception:  # noqa: BLE001  a line must not cost the work that it speaks of
            sink.dropped += 1


class _Process:
    """The one chain of this process: loggers exist before it is set up, and follow it."""

    def __init__(self) -> None:
        self.logs = Logs()
        self.levels = Levels()


_process = _Process()
levels: Final = _process.levels


def _line(voice: WrappedLogger, method: str, fields: EventDict) -> bytes:
    return _process.logs.line(_NUMBERS[method], voice.name, fields.pop("event", ""), fields)


_NUMBERS: Final = {name: getattr(logging, name.upper()) for name in NAMES}

# One list for all loggers: structlog's own `capture_logs` swaps what is in it.
PROCESSORS: Final[list[Processor]] = [merge_contextvars, _line]


def get_logger(name: str = "", **fields: object) -> Logger:
    """Return the logger of a name, usually `__name__`, with fields bound to it.

    It is bound already, so keep it in a module: a line that its level keeps silent costs a tenth of a microsecond.
    """
    return Logger(levels.voice(name), PROCESSORS, dict(fields))


def installed() -> Logs:
    """Return the chain that this process writes by."""
    return _process.logs


def install(logs: Logs) -> Logs:
    """Write by this chain from now on, in every logger there is; return the one before."""
    before, _process.logs = _process.logs, logs
    return before
