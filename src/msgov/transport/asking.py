"""What both colours of an HTTP client do alike with a request: name it, judge it, make a request of each attempt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast
from urllib.parse import quote

from msgov import scope, wire
from msgov.call import MAYBE, NO, PERMANENT, TRANSIENT, YES, Call, Outcome
from msgov.clock import Clock, monotonic
from msgov.errors import CallFailed, DeadlineSpent, RuleError
from msgov.pipeline import Pipeline, Policy
from msgov.policy import classify
from msgov.transport.body import Dropped, Open, holding
from msgov.transport.problem import outcome

IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE", "QUERY"})
"""The methods of which a second execution does no harm (RFC 9110, 9.2.2; QUERY: RFC 10008)."""

_UNSENT = frozenset({"ConnectError", "ConnectTimeout", "PoolTimeout"})
_OURS = frozenset({"UnsupportedProtocol", "LocalProtocolError"})  # another attempt would meet it again
_SHAPES = 1000  # handlers kept: shapes change with the rules, and old ones are let go

H = TypeVar("H")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientEdge:
    """How a client's requests are governed: the service they go to, and the policies of "VERB /path".

    `policies` gives the same tuple until their shape changes. A call is named by its verb, and by the template that a
    request brings along, `client.get("/orders/7", extensions={"route": "/orders/{id}"})`; never by its path.
    """

    target: str
    policies: Callable[[str], tuple[Policy, ...]]
    clock: Clock = monotonic


class Refused(CallFailed):
    """A reply with an error status; carries the reply itself."""

    def __init__(self, response: Any) -> None:
        found = outcome(response.status_code, wire.lowered(response.headers.raw), None)
        super().__init__(
            f"answered {response.status_code}",
            status=found.status,
            verdict=found.verdict,
            sent=found.sent,
            overloaded=found.overloaded,
            retry_after=found.retry_after,
        )
        self.response = response


class Asked:
    """A request under way: `replies` are those not read yet, `replayable` says whether its body can be sent again.

    Attempts may run beside each other (a hedge), so there may be several replies, of which one is the caller's.
    """

    __slots__ = ("replayable", "replies", "request")

    def __init__(self, request: Any) -> None:
        self.request = request
        self.replayable = _loaded(request)
        self.replies: list[Any] = []

    def checked(self, reply: object) -> object:
        """Return a reply that may be a substitute's; raises `RuleError` for what no client could hand out."""
        if not hasattr(reply, "status_code"):
            raise RuleError.at("fallback", reply, "a Response, for that is what an HTTP client hands out")
        return reply

    def unread(self, kept: object = None) -> list[Any]:
        """Give out the replies that nobody will read: all but the one that is `kept`."""
        replies, self.replies = self.replies, []
        return [reply for reply in replies if reply is not kept]

    def refused(self) -> list[Any]:
        """Give out the replies of attempts that are over: their connections are wanted by the next one."""
        over = [reply for reply in self.replies if reply.status_code >= 400]
        if over:
            self.replies = [reply for reply in self.replies if reply.status_code < 400]
        return over


def judge(call: Call, error: BaseException) -> Outcome:
    """Judge what an attempt ended with, of either library, without importing one."""
    if isinstance(error, Refused):
        found = classify(call, error)
        if not cast("Asked", call.context).replayable:
            found.sent = YES  # its body is gone, whatever the callee made of it
        return found
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if "TransportError" in kinds:
        sent = NO if kinds & _UNSENT else MAYBE
        return Outcome(PERMANENT if kinds & _OURS else TRANSIENT, error=error, status=type(error).__name__, sent=sent)
    found = classify(call, error)
    if isinstance(error, RuleError):
        found.verdict = PERMANENT
    return found


class Governed(Generic[H]):
    """What both colours do alike with a request."""

    def __init__(self, inner: Any, edge: ClientEdge) -> None:
        self.inner = inner
        self.edge = edge
        self._handlers: dict[tuple[Policy, ...], H] = {}
        self.dropped = Dropped()

    def call(self, request: Any) -> Call:
        """Make the `Call` of a request."""
        around, verb = scope.current.get(), request.method
        asked = Asked(request)
        call = Call(
            self.edge.target,
            f"{verb} {request.extensions.get('route', '')}".rstrip(),
            request,
            deadline=around.deadline,
            idempotent=asked.replayable and (verb in IDEMPOTENT or wire.IDEMPOTENCY_KEY in request.headers),
            key=around.key,
            attempts_left=around.attempts_left,
            criticality=around.criticality,
        )
        call.trace = around.trace
        call.context = asked
        return call

    def attempt(self, call: Call) -> Any:
        """Make the request of one attempt: where it goes and what it carries. The caller's own stays as it was."""
        given = cast("Asked", call.context).request
        now = self.edge.clock()
        if call.deadline is not None and call.deadline <= now:
            raise DeadlineSpent("no time is left for the request", left=call.deadline - now)
        url, headers, extensions = given.url, given.headers.copy(), dict(given.extensions)
        instance: Any = call.instance
        if instance is not None:
            if url.host != host(self.edge.target):
                raise RuleError.at("url", f"{url.scheme}://{url.host}", f"a URL whose host is {self.edge.target!r}")
            headers.setdefault("host", url.netloc.decode("ascii"))
            if url.scheme == "https":
                extensions.setdefault("sni_hostname", url.host)  # the certificate is the service's, not the address's
            url = url.copy_with(host=instance.host, port=instance.port)
        for name, value in wire.outgoing(call, now, deadline=True):
            headers[name] = value
        return type(given)(given.method, url, headers=headers, stream=given.stream, extensions=extensions)

    def opened(self, call: Call, response: Any) -> Open | None:
        """Raise for an error status; return what holds the tickets, None when all of the reply is there."""
        status = str(response.status_code)
        if response.status_code >= 400:
            raise Refused(response)
        call.status = status
        if _loaded(response):
            return None
        call.status = opened = Open(status, self.edge.clock())
        return opened

    def handler(self, request: Any, govern: Callable[[Pipeline], H]) -> H:
        """Return the governed handler of a request, made again when its policies change shape."""
        policies = self.edge.policies(f"{request.method} {request.url.path}")
        handler = self._handlers.get(policies)
        if handler is None:
            if len(self._handlers) >= _SHAPES:
                self._handlers.clear()
            handler = self._handlers[policies] = govern(Pipeline(holding(policies), classify=judge))
        return handler


def host(target: str) -> str:
    """Return a service's name as a URL spells it."""
    return quote(target, safe="").lower()


def _loaded(message: Any) -> bool:
    """Whether the body of a request or a reply is in memory: one drawn from an iterator can be had only once."""
    try:
        message.content  # noqa: B018  raises for a body that is a stream
    except Exception:  # noqa: BLE001  RequestNotRead or ResponseNotRead, of either library
        return False
    return True
