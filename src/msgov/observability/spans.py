"""msgov's traces and OpenTelemetry's spans name the same places: here one is turned into the other."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from contextvars import Token
from types import TracebackType
from typing import Final

from opentelemetry import context as otel
from opentelemetry import trace as api
from opentelemetry.trace import NonRecordingSpan, Span, SpanContext, TraceFlags
from opentelemetry.trace.span import TraceState

from msgov.call import Call
from msgov.scope import Trace


class Live(Trace):
    """A place in a trace that a span holds."""

    __slots__ = ("span",)

    def __init__(self, span: Span) -> None:
        found = span.get_span_context()
        super().__init__(
            format(found.trace_id, "032x"),
            format(found.span_id, "016x"),
            sampled=found.trace_flags.sampled,
            state=found.trace_state.to_header() if found.trace_state else "",
        )
        self.span = span


class Dropped(Trace):
    """A place in a trace that is not sampled, although there is an SDK."""

    __slots__ = ()


def context_of(trace: Trace, *, remote: bool) -> SpanContext:
    """Return the place as OpenTelemetry writes it; `remote` says that it came from another process."""
    return SpanContext(
        int(trace.trace_id, 16),
        int(trace.span_id, 16),
        is_remote=remote,
        trace_flags=TraceFlags(TraceFlags.SAMPLED if trace.sampled else TraceFlags.DEFAULT),
        trace_state=TraceState.from_header([trace.state]) if trace.state else None,
    )


def under(span: Span) -> otel.Context:
    """Return the current context with this span in it: not made current, only handed on."""
    return api.set_span_in_context(span)


def attached(call: Call) -> AbstractContextManager[object]:
    """Make the call's span current for OpenTelemetry while a handler runs, so that spans made in it hang below.

    Enter and leave it in the same task or thread, round the handler and nothing else. Without an SDK it does nothing.
    """
    trace = call.trace
    if isinstance(trace, Live):
        return _Attached(trace.span)
    if isinstance(trace, Dropped):
        return _Attached(NonRecordingSpan(context_of(trace, remote=False)))
    return _NOTHING


_NOTHING: Final[AbstractContextManager[object]] = nullcontext()


class _Attached(AbstractContextManager[object]):
    """A span made current for a while."""

    __slots__ = ("_span", "_token")

    def __init__(self, span: Span) -> None:
        self._span = span

    def __enter__(self) -> None:
        self._token: Token[otel.Context] = otel.attach(under(self._span))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        otel.detach(self._token)
