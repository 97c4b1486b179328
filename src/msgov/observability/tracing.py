"""Every call has a place in a trace; where an OpenTelemetry SDK is at work, it has a span too.

Without one, ids are minted and sent on, nothing more. With one, a call whose trace is not sampled costs no span. The
gates make nothing current: the edge that runs the handler does, with `spans.attached`.
"""

from __future__ import annotations

from typing import Final

from opentelemetry import trace as api
from opentelemetry.trace import INVALID_SPAN, Link, NonRecordingSpan, Span, SpanKind, Status, StatusCode

from msgov import wire
from msgov.call import IGNORED, OK, Call, Outcome
from msgov.clock import Clock, wall
from msgov.errors import MsgovError
from msgov.event import unraisable
from msgov.observability import semconv as names
from msgov.observability.edge import Edge
from msgov.observability.spans import Dropped, Live, context_of, under
from msgov.policy import Gate
from msgov.scope import Trace, current

_KINDS: Final = {
    "client": SpanKind.CLIENT,
    "server": SpanKind.SERVER,
    "producer": SpanKind.PRODUCER,
    "consumer": SpanKind.CONSUMER,
}
_LOOK: Final = 1.0  # seconds between looks for a provider set later; one that was found stays
_NEVER: Final = float("inf")
_FOLLOWS: Final = ("remoteParentNotSampled:AlwaysOffSampler", "localParentNotSampled:AlwaysOffSampler")
_FACTS: Final = 16  # facts of an error that a span keeps

_Ticket = tuple[Call, "Span | None"]
_Attempt = tuple[Call, float, "Trace | None", "Span | None"]


class Tracing:
    """Makes the gates that trace calls.

    `provider` is where spans go; without it, the one that OpenTelemetry is given globally, from the moment it is given
    one (looked for at most once a second). `on=False` only mints ids, whatever provider there is.
    """

    def __init__(self, provider: api.TracerProvider | None = None, *, on: bool = True, clock: Clock = wall) -> None:
        self.clock = clock
        self.follows = False
        self.found: api.Tracer | None = None
        self.look = -_NEVER if on else _NEVER
        if provider is not None and on:
            self._use(provider)

    def calls(self, edge: Edge) -> Gate[_Ticket]:
        """Make the gate that gives each call of an edge its span: put it outermost of all in a pipeline."""
        return _Calls(self, edge)

    def attempts(self, edge: Edge) -> Gate[_Attempt]:
        """Make the gate that shows attempts apart: put it first in the per-attempt part of a pipeline with a plan.

        A second attempt, and each that follows, runs under a span of its own. A first one runs under the call's, and
        gets one of its own only when it failed: most calls need no second.
        """
        return _Attempts(self, edge)

    def tracer(self, now: float) -> api.Tracer | None:
        """Return what makes spans; None where there is no SDK."""
        if self.found is None and now >= self.look:
            self.look = now + _LOOK
            provider = api.get_tracer_provider()
            if not isinstance(provider, api.ProxyTracerProvider | api.NoOpTracerProvider):
                self._use(provider)
        return self.found

    def here(self) -> Trace | None:
        """Return the innermost place of the work under way: a span made by hand, or the scope's."""
        trace = current.get().trace
        if self.found is None:
            return trace
        return (_inner(trace) or trace) if trace is not None else _inner(None)

    def _use(self, provider: api.TracerProvider) -> None:
        describe = getattr(getattr(provider, "sampler", None), "get_description", None)
        told = str(describe()) if callable(describe) else ""
        # Where the sampler follows an unsampled parent, as by default, it need not be asked about its children.
        self.follows = all(part in told for part in _FOLLOWS)
        self.look = _NEVER
        self.found = provider.get_tracer("msgov")


def _inner(trace: Trace | None) -> Live | None:
    """Return the span that is current for OpenTelemetry, if it belongs to this trace.

    One of another trace is what this task was started under, not what it works for.
    """
    span = api.get_current_span()
    found = span.get_span_context()
    if not found.is_valid or (trace is not None and found.trace_id != int(trace.trace_id, 16)):
        return None
    return Live(span)


class _Calls(Gate[_Ticket]):
    """Gives each call its place in a trace, and its span where one is wanted."""

    waits = False

    def __init__(self, tracing: Tracing, edge: Edge) -> None:
        self._tracing = tracing
        self._edge = edge
        self._kind = _KINDS[edge.side]

    def admit(self, call: Call, now: float) -> _Ticket:
        """Take the place below whatever is under way, and begin the span."""
        parent = call.trace or current.get().trace
        tracing = self._tracing
        tracer = tracing.found if now < tracing.look else tracing.tracer(now)
        if tracer is None:
            call.trace = wire.child(parent)
            return call, None
        try:
            return call, self._begin(tracer, call, parent)
        except Exception as fault:  # noqa: BLE001  a sampler or a processor of the user's must not cost the call
            unraisable(fault, tracer)
            call.trace = wire.child(parent)
            return call, None

    def _begin(self, tracer: api.Tracer, call: Call, parent: Trace | None) -> Span | None:
        edge = self._edge
        # What comes in without a trace begins one, whatever this task was started under.
        inner = _inner(parent) if parent is not None or edge.outward else None
        above = inner or parent
        if above is not None and not above.sampled and self._tracing.follows:
            call.trace = Dropped(above.trace_id, wire.new_span_id(), state=above.state)
            return None
        if inner is not None:
            around = inner.span
        elif above is not None:
            around = NonRecordingSpan(context_of(above, remote=not edge.outward))
        else:
            around = INVALID_SPAN
        links = (Link(around.get_span_context()),) if edge.side == "consumer" and above is not None else ()
        span = tracer.start_span(
            edge.span(call), under(around), kind=self._kind, attributes=edge.attributes(call), links=links
        )
        call.trace = Live(span)
        return span

    def settle(self, ticket: _Ticket, outcome: Outcome, now: float) -> None:
        """End the span with what became of the call."""
        call, span = ticket
        if span is None:
            return
        try:
            if span.is_recording():
                edge = self._edge
                span.update_name(edge.span(call))  # the route of a request is known only now
                if edge.outward:
                    span.set_attribute(names.ATTEMPTS, call.attempt)
                    span.set_attribute(names.OUTCOME, outcome.verdict.value)
                _conclude(span, edge, call, outcome)
        finally:
            span.end()


class _Attempts(Gate[_Attempt]):
    """Gives each attempt after the first its own place, below the call's."""

    waits = False

    def __init__(self, tracing: Tracing, edge: Edge) -> None:
        self._tracing = tracing
        self._edge = edge

    def admit(self, call: Call, now: float) -> _Attempt:
        """Take a place of its own, but for the first."""
        above = call.trace
        if call.attempt == 1:
            return call, now, above, None
        try:
            span = self._begin(call, above, None)
        except Exception as fault:  # noqa: BLE001  as for calls
            unraisable(fault, self)
            span = None
        call.trace = Live(span) if span is not None else wire.child(above)
        return call, now, above, span

    def _begin(self, call: Call, above: Trace | None, start: int | None) -> Span | None:
        tracer = self._tracing.found
        if tracer is None or not isinstance(above, Live) or not above.span.is_recording():
            return None
        return tracer.start_span(
            f"attempt {call.attempt}",
            under(above.span),
            attributes={names.ATTEMPT: call.attempt},
            start_time=start,
        )

    def settle(self, ticket: _Attempt, outcome: Outcome, now: float) -> None:
        """End the span, and give the call its own place back."""
        call, since, above, span = ticket
        call.trace = above
        if span is None:
            if call.attempt > 1 or outcome.verdict is OK or outcome.verdict is IGNORED:
                return
            started = self._tracing.clock() - (now - since)
            span = self._begin(call, above, int(started * 1e9))
            if span is None:
                return
        try:
            instance = call.instance
            if instance is not None:
                span.set_attribute(names.PEER_ADDRESS, str(getattr(instance, "address", instance.id)))
            _conclude(span, self._edge, call, outcome)
        finally:
            span.end()


def _conclude(span: Span, edge: Edge, call: Call, outcome: Outcome) -> None:
    """Say on a span what became of the call; the text of an error stays in the log, where it is scrubbed."""
    span.set_attributes(edge.answered(call, outcome))
    kind = edge.error_type(outcome)
    if kind:
        span.set_attribute(names.ERROR_TYPE, kind)
        span.set_status(Status(StatusCode.ERROR))
    error = outcome.error
    if isinstance(error, MsgovError):
        for name, fact in list(error.facts.items())[:_FACTS]:
            if fact is not None:
                span.set_attribute(names.FACT + name, fact)
