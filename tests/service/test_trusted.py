"""Whom a service believes is said once, for every edge it has."""

from __future__ import annotations

from typing import Any

import pytest

from msgov import wire
from msgov.call import Criticality
from msgov.errors import RuleError
from msgov.service import Service
from msgov.service.grpc import _edge
from msgov.transport.incoming import received


def _service(**options: Any) -> Service:
    return Service("shop", logs="off", environ={}, **options)


@pytest.mark.parametrize(
    ("peer", "believed"),
    [
        ("ipv4:10.1.2.3:4711", True),
        ("ipv6:[::ffff:10.1.2.3]:4711", True),
        ("ipv6:%5Bfd00::7%5D:4711", True),
        ("ipv4:192.0.2.1:4711", False),
        ("unix:/run/10.1.2.3", False),
        ("", False),
    ],
)
def test_grpc_peers_are_believed_by_their_address(peer: str, believed: bool) -> None:
    """The port says nothing, and a name that looks like an address is none."""
    svc = _service(trusted=["10.0.0.0/8", "fd00::/8"])
    try:
        assert _edge(svc).trusted(peer) is believed
    finally:
        svc.close()


@pytest.mark.parametrize(("peer", "criticality"), [("10.1.2.3", "SHEDDABLE"), ("192.0.2.1", "CRITICAL")])
def test_http_peers_too(peer: str, criticality: str) -> None:
    """From the environment as well: networks differ by place."""
    svc = Service("shop", logs="off", environ={"MSGOV_SERVICE__TRUSTED": "10.0.0.0/8, ::1"})
    try:
        edge = svc.asgi(lambda scope, receive, send: None).edge  # type: ignore[arg-type, return-value]
        raw = {wire.CRITICALITY.encode(): b"sheddable"}
        call, _, _ = received(edge, {"client": (peer, 1), "headers": list(raw.items())}, "GET", raw)
        assert call.criticality is Criticality[criticality]
    finally:
        svc.close()


def test_nobody_is_believed_by_default() -> None:
    """Not even this machine: a proxy in front of the service is on it too."""
    svc = _service()
    try:
        assert not _edge(svc).trusted("ipv4:127.0.0.1:4711")
    finally:
        svc.close()


def test_what_is_no_network_is_refused() -> None:
    """At start, and with what would be one."""
    with pytest.raises(RuleError, match="trusted"):
        _service(trusted=["everybody"])
