"""One call sets up logs, metrics and traces, and what it returns takes all of it down again.

A second call in the same process joins the first: several services in one process share its page and its lines, each
under its own name.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
from types import TracebackType
from typing import Final, Literal, Self, TypeAlias, cast

from opentelemetry.trace import TracerProvider
from prometheus_client.registry import CollectorRegistry

from msgov.errors import RuleError
from msgov.event import Event
from msgov.observability.edge import Edge
from msgov.observability.events import LOGGER, Events
from msgov.observability.foreign import Capture
from msgov.observability.lines import Lines
from msgov.observability.logs import Logs, here, install, levels
from msgov.observability.metrics import Metrics
from msgov.observability.sink import Sink
from msgov.observability.tracing import Tracing
from msgov.policy import Gate

Format: TypeAlias = Literal["auto", "json", "console", "off"]
FORMATS: Final = ("auto", "json", "console", "off")
STDERR: Final = 2


def observability(
    service: str,
    *,
    version: str = "",
    instance: str = "",
    env: str = "",
    logs: Format = "auto",
    level: str = "info",
    metrics: bool | CollectorRegistry = True,
    traces: bool | TracerProvider = True,
    fd: int = STDERR,
) -> Observability:
    """Set up what this process tells of itself; call it once per service, before anything is served.

    Args:
        service: The name in every line and in `msgov_build_info`.
        version: The service's own version.
        instance: This process among those of the service; by default host name and process id.
        env: "production", say; not written when empty.
        logs: "json" writes JSON lines, "console" columns for people, "auto" columns on a terminal and JSON elsewhere.
            All three take over what the standard library's loggers, warnings and uncaught exceptions would print.
            "off" leaves logging as it is and writes nothing.
        level: The least that is written: debug, info, warning, error or critical.
        metrics: False counts nothing; a registry of yours is joined, otherwise there is a new one.
        traces: True makes spans as soon as OpenTelemetry has a provider, False only mints ids, and a provider of yours
            is used whatever the global one is.
        fd: The file descriptor that lines go to; stderr by default, for stdout belongs to what a program answers.

    A further call joins: it must ask for the same `logs`, and gets a handle under its own name. The process is as it
    was when every handle is shut down. Raises `RuleError` for what cannot be.
    """
    if not service:
        raise RuleError.at("service", service, "a name")
    if logs not in FORMATS:
        raise RuleError.at("logs", logs, "one of " + ", ".join(FORMATS))
    with _lock:
        if not _running:
            identity = (service, version, instance or f"{socket.gethostname()}-{os.getpid()}", env)
            _running.append(_Shared(identity, logs, level, metrics, traces, fd))
        shared = _running[0]
        if logs != shared.format:
            raise RuleError.at("logs", logs, f"{shared.format!r}, which this process writes already")
        shared.handles += 1
    return Observability(shared, service)


_lock = threading.Lock()
_running: list[_Shared] = []  # none, or the one of this process: there is one standard error, and one root logger


class _Shared:
    """What all handles of a process have in common."""

    def __init__(
        self,
        identity: tuple[str, str, str, str],
        logs: Format,
        level: str,
        metrics: bool | CollectorRegistry,
        traces: bool | TracerProvider,
        fd: int,
    ) -> None:
        self.format = logs
        self.handles = 0
        self.service, version, instance, env = identity
        provider = None if isinstance(traces, bool) else traces
        self.tracing = Tracing(provider, on=traces is not False)
        self.sink = Sink(fd)
        terminal = os.isatty(fd)
        self.logs = Logs(
            service=self.service,
            version=version,
            instance=instance,
            env=env,
            sink=self.sink,
            human=logs == "console" or (logs == "auto" and terminal),
            colours=terminal and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb",
            place=here if traces is False else self.tracing.here,
        )
        self.written = logs != "off"
        self.metrics: Metrics | None = None
        if metrics is not False:
            registry = None if metrics is True else metrics
            self.metrics = Metrics(registry, service=self.service, release=version, overflowed=self._overflowed)
        self.events = Events(
            levels.voice(LOGGER),
            tell=self.logs.tell if self.written else _say_nothing,
            count=None if self.metrics is None else self.metrics.counter,
        )
        if self.metrics is not None:
            self.metrics.readings.watch(self.sink)
            self.metrics.readings.add(self.events.read)
        self._capture: Capture | None = None
        if self.written:
            try:
                levels.set(level)
            except RuleError:
                self.close()
                raise
            self._before = install(self.logs)
            self._capture = Capture()

    def _overflowed(self, metric: str, label: str) -> None:
        if self.written:
            self.logs.tell(logging.WARNING, "msgov.metrics", "metric.overflow", metric=metric, label=label or "(all)")

    def close(self) -> None:
        if self._capture is not None:
            self._capture.end()
            self._capture = None
            install(self._before)
            levels.restore()
        if self.metrics is not None:
            self.metrics.close()


class Observability:
    """What one service of this process tells of itself; a context manager that shuts it down.

    `metrics` is None where nothing is counted. `observer` is handed to whatever tells events. Use `gates` and
    `attempts` to make the gates of a pipeline, and `metrics.readings.watch` to show what counts for itself.
    """

    def __init__(self, shared: _Shared, service: str) -> None:
        self._shared = shared
        self._open = True
        self.service = service
        self.metrics = shared.metrics
        self.tracing = shared.tracing
        self.logs = shared.logs

    def gates(self, edge: Edge, *, slow: float | None = None) -> tuple[Gate[object], ...]:
        """Make the gates that observe the calls of an edge, outermost first: put them before all other policies.

        The span stands outside, so that line and metrics fall into it. A call of `slow` seconds or more is marked in
        its line; None marks none.
        """
        made: list[object] = [self.tracing.calls(edge)]
        if self._shared.written:
            service = "" if self.service == self._shared.service else self.service
            made.append(Lines(edge, service=service, slow=slow))
        if self.metrics is not None:
            made.append(self.metrics.calls(edge))
        return cast("tuple[Gate[object], ...]", tuple(made))

    def attempts(self, edge: Edge) -> tuple[Gate[object], ...]:
        """Make the gates that observe the attempts of an edge: put them right after the plan."""
        made: list[object] = [self.tracing.attempts(edge)]
        if self.metrics is not None:
            made.append(self.metrics.attempts(edge))
        return cast("tuple[Gate[object], ...]", tuple(made))

    def observer(self, event: Event) -> None:
        """Take note of an event: an observer for breakers, configuration, registrations, relays."""
        self._shared.events(event)

    def at(self, instance: str) -> None:
        """Name this process in its lines from now on, once it knows where it listens ("10.0.0.7:50051")."""
        self.logs.identity = {**self.logs.identity, "instance": instance}

    def exposition(self, accept: str = "") -> tuple[str, bytes]:
        """Write the page for `/metrics`, for the request's Accept header: its content type and its bytes."""
        if self.metrics is None:
            return "text/plain; charset=utf-8", b""
        return self.metrics.exposition(accept)

    def shutdown(self) -> None:
        """Let go; the last handle of the process puts everything back as it was. Twice is fine."""
        with _lock:
            if not self._open:
                return
            self._open = False
            self._shared.handles -= 1
            if self._shared.handles == 0:
                _running.remove(self._shared)
                self._shared.close()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Shut down."""
        self.shutdown()


def _say_nothing(level: int, logger: str, event: str, /, **fields: object) -> None:
    """Write no line."""
