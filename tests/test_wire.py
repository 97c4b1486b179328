"""What comes over a wire is believed only as far as it can do no harm."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msgov import wire
from msgov.call import Call
from msgov.scope import Scope, Trace

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def test_a_traceparent_goes_round() -> None:
    """W3C Trace Context, version 00."""
    trace = wire.read_traceparent(PARENT, "vendor=1")
    assert trace is not None
    assert (trace.sampled, trace.state, wire.write_traceparent(trace)) == (True, "vendor=1", PARENT)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "00-" + "0" * 32 + "-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-" + "0" * 16 + "-01",
        PARENT.upper(),
        "ff" + PARENT[2:],
        PARENT + "-extra",
        PARENT + "\n",
        "00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01",
    ],
)
def test_what_the_standard_ignores_is_ignored(value: str) -> None:
    """A wrong parent must not become a trace of everybody."""
    assert wire.read_traceparent(value) is None


def test_a_later_version_is_read_by_its_first_fields() -> None:
    """The standard asks for it."""
    assert wire.read_traceparent("cc" + PARENT[2:] + "-what-follows") is not None


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("5S", 5.0), ("100m", 0.1), ("1H", 600.0), ("99999999H", 600.0), ("250u", 0.00025), ("0n", 0.0)],
)
def test_grpc_timeouts_are_read_and_clamped(value: str, seconds: float) -> None:
    """Eight digits of hours overflow what waits on them."""
    assert wire.read_grpc_timeout(value) == pytest.approx(seconds)


@pytest.mark.parametrize("value", ["abc", "-1S", "S", "123456789S", "1x", "1.5S", "", None, "\u0661S"])
def test_malformed_grpc_timeouts_are_passed_over(value: str | None) -> None:
    """A wrong deadline is none."""
    assert wire.read_grpc_timeout(value) is None


def test_the_shortest_deadline_counts() -> None:
    """Whoever sent it: deadlines only shrink."""
    headers = {wire.DEADLINE: "900", wire.ENVOY_DEADLINE: "700", wire.GRPC_TIMEOUT: "2S"}
    assert wire.incoming(headers, 10.0).deadline == pytest.approx(10.7)
    assert wire.incoming(headers, 10.0, seconds=0.3).deadline == pytest.approx(10.3)
    assert wire.incoming({}, 10.0).deadline is None


def test_allowances_are_believed_from_trusted_hops_only() -> None:
    """A client must not grant itself attempts."""
    headers = {wire.ATTEMPTS_LEFT: "7"}
    assert wire.incoming(headers, 0.0).attempts_left is None
    assert wire.incoming(headers, 0.0, trusted=True).attempts_left == 7
    assert wire.incoming({wire.ATTEMPTS_LEFT: "-1"}, 0.0, trusted=True).attempts_left is None


def test_an_attempt_sends_what_is_left() -> None:
    """Relative milliseconds: no clocks are compared."""
    call = Call("a", deadline=10.5, attempts_left=2)
    call.trace = Trace("a" * 32, "b" * 16)
    call.attempt = 3
    assert dict(wire.outgoing(call, 10.0, deadline=True)) == {
        wire.TRACEPARENT: f"00-{'a' * 32}-{'b' * 16}-00",
        wire.DEADLINE: "500",
        wire.ATTEMPT: "3",
        wire.ATTEMPTS_LEFT: "2",
    }
    assert wire.outgoing(Call("a"), 0.0, deadline=True) == []


def test_a_retry_leaves_no_attempts_to_those_below() -> None:
    """Three layers that try three times each would make 27 calls of one; kitex ends the chain so too."""
    call = Call("a")
    call.attempt = 2
    assert dict(wire.outgoing(call, 0.0, deadline=True)) == {wire.ATTEMPT: "2", wire.ATTEMPTS_LEFT: "0"}


@pytest.mark.parametrize(
    ("headers", "attempt"),
    [
        ({}, 1),
        ({wire.ATTEMPT: "2"}, 2),
        ({wire.ENVOY_ATTEMPT: "3"}, 3),
        ({wire.GRPC_PREVIOUS: "1"}, 2),
        ({wire.ATTEMPT: "2", wire.ENVOY_ATTEMPT: "3"}, 2),
        ({wire.ATTEMPT: "0"}, 1),
        ({wire.ATTEMPT: "-4"}, 1),
        ({wire.ATTEMPT: "100"}, 1),
        ({wire.ATTEMPT: "\u0663"}, 1),
    ],
)
def test_an_attempt_is_read_by_whatever_name_it_goes(headers: dict[str, str], attempt: int) -> None:
    """Proxies and gRPC's own retries count too; a hostile number is none."""
    assert wire.attempt(headers) == attempt


@pytest.mark.parametrize(
    ("headers", "overloaded"),
    [
        ({}, False),
        ({wire.OVERLOADED: "1"}, True),
        ({wire.ENVOY_OVERLOADED: "true"}, True),
        ({wire.OVERLOADED: "0"}, False),
    ],
)
def test_overload_is_read_from_envoy_too(headers: dict[str, str], overloaded: bool) -> None:
    """A proxy in between that sheds says so with its own header."""
    assert wire.overloaded(headers) is overloaded


@given(st.dictionaries(st.sampled_from([wire.TRACEPARENT, wire.DEADLINE, wire.BAGGAGE, wire.GRPC_TIMEOUT]), st.text()))
def test_no_header_breaks_the_reader(headers: dict[str, str]) -> None:
    """Headers are hostile; reading them never raises, and never lengthens a deadline past the cap."""
    scope = wire.incoming(headers, 0.0)
    assert isinstance(scope, Scope)
    assert scope.deadline is None or 0 <= scope.deadline <= wire.LONGEST
    assert all(" " <= char <= "~" for char in scope.baggage)
