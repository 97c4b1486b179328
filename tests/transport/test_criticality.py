"""How much work matters goes from hop to hop, and is believed only of those who may say it."""

from __future__ import annotations

from typing import Any

import pytest

from msgov import scope, wire
from msgov.call import Call, Criticality
from msgov.transport.asgi import HttpEdge
from msgov.transport.grpc.method import scoped
from msgov.transport.incoming import received
from tests.transport.grpc.served import WAYS, served
from tests.transport.grpc.test_serving import all_kinds

HEADERS = {wire.CRITICALITY: "sheddable_plus"}


@pytest.mark.parametrize("criticality", list(Criticality))
def test_what_one_hop_writes_the_next_one_reads(criticality: Criticality) -> None:
    """The default goes without saying: most calls carry no header for it."""
    headers = dict(wire.outgoing(Call("shop", criticality=criticality), 0.0, deadline=True))
    assert headers == ({} if criticality is Criticality.CRITICAL else {wire.CRITICALITY: criticality.name.lower()})
    assert wire.incoming(headers, 0.0, trusted=True).criticality is criticality


@pytest.mark.parametrize("value", ["", "3", "CRITICAL_PLUS", "critical_plus ", "urgent", "x" * 10_000])
def test_what_cannot_be_read_is_passed_over(value: str) -> None:
    """A wrong word is none, and never an error."""
    assert wire.incoming({wire.CRITICALITY: value}, 0.0, trusted=True).criticality is Criticality.CRITICAL


def test_stranger_is_not_believed() -> None:
    """Whoever is outside would matter most."""
    assert wire.incoming({wire.CRITICALITY: "critical_plus"}, 0.0).criticality is Criticality.CRITICAL


@pytest.mark.parametrize(("peer", "expected"), [("10.0.0.1", "SHEDDABLE_PLUS"), ("6.6.6.6", "CRITICAL")])
def test_http_request_has_it_in_call_and_scope(peer: str, expected: str) -> None:
    """The shedder in front reads it from the call, what the application calls inherits the scope."""
    edge = HttpEdge(service="shop", policies=lambda name: (), trusted=lambda peer: peer.startswith("10."))
    raw = {name.encode(): value.encode() for name, value in HEADERS.items()}
    call, around, _ = received(edge, {"client": (peer, 1), "headers": list(raw.items())}, "GET", raw)
    assert call.criticality.name == around.criticality.name == expected


@pytest.mark.parametrize("way", WAYS)
def test_rpc_has_it_in_the_scope_of_its_handler(way: str) -> None:
    """Both servers, from a trusted peer and from another; without the header nobody is asked about trust."""
    for trusted, expected in ((True, Criticality.SHEDDABLE_PLUS), (False, Criticality.CRITICAL)):
        seen: list[Any] = []

        def look(context: Any, seen: list[Any] = seen) -> None:
            seen.append(scope.current.get().criticality)

        def trusts(peer: str, trusted: bool = trusted) -> bool:
            return trusted

        with served(way, all_kinds(look, way), trusted=trusts) as s:
            s.call(metadata=tuple(HEADERS.items()))
            s.call()
        assert seen == [expected, Criticality.CRITICAL]


def test_what_works_in_the_callees_place_inherits_it() -> None:
    """A fallback over gRPC calls on behalf of the same work."""
    call = Call("shop", criticality=Criticality.SHEDDABLE)
    assert scoped(call).run(scope.current.get).criticality is Criticality.SHEDDABLE
