"""Whatever a client writes, it has one bucket."""

from __future__ import annotations

from contextlib import suppress
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msgov.call import Call
from msgov.errors import RateLimited, RuleError
from msgov.resilience import Limiter, LimiterRule, keys
from tests.resilience.limiting import admits

PROXIES = keys.Networks("10.0.0.0/8", "fd00::/8", "192.0.2.1")


@pytest.mark.parametrize(
    ("address", "written"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("::FFFF:cb00:7107", "203.0.113.7"),
        ("64:ff9b::203.0.113.7", "203.0.113.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:DB8:1:2::", "2001:db8:1:2::/64"),
        ("2001:0db8:0001:0002:ffff:ffff:ffff:ffff", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("unix:", "unix:"),
        ("", ""),
        ("1.2.3", "1.2.3"),
        ("010.0.0.1", "010.0.0.1"),
        ("\u0661.2.3.4", "\u0661.2.3.4"),  # a digit, and no digit of an address
    ],
)
def test_address_is_written_in_one_way(address: str, written: str) -> None:
    """One host has a whole /64 of IPv6 to itself, and one IPv4 address has several spellings."""
    assert keys.network(address) == written


@given(st.integers(0, 2**64 - 1))
def test_rotating_through_a_network_of_ipv6_stays_one_key(host: int) -> None:
    """S13 of the reliability reference: 2^64 addresses cost an attacker nothing."""
    groups = [f"{host >> shift & 0xFFFF:x}" for shift in (48, 32, 16, 0)]
    assert keys.network("2001:db8:1:2:" + ":".join(groups)) == "2001:db8:1:2::/64"


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("203.0.113.7", ["6.6.6.6"], "203.0.113.7"),  # nobody in front: the header is the client's own words
        ("10.0.0.1", ["203.0.113.7"], "203.0.113.7"),
        ("10.0.0.1", ["6.6.6.6, 203.0.113.7"], "203.0.113.7"),  # what the client wrote stands left
        ("10.0.0.1", ["6.6.6.6", "203.0.113.7"], "203.0.113.7"),  # a proxy that appends a line of its own
        ("10.0.0.1", ["6.6.6.6, 203.0.113.7, 10.0.0.2"], "203.0.113.7"),  # two proxies
        ("10.0.0.1", ["10.0.0.9, 203.0.113.7, 10.0.0.2"], "203.0.113.7"),  # one of ours, forged further left
        ("10.0.0.1", ["10.0.0.3, 10.0.0.2"], "10.0.0.3"),  # all ours: the first of them asks for itself
        ("10.0.0.1", ["6.6.6.6, nonsense"], "10.0.0.1"),  # beyond what cannot be read nothing is believed
        ("10.0.0.1", ["6.6.6.6, unknown, 10.0.0.2"], "10.0.0.2"),
        ("10.0.0.1", ["6.6.6.6,"], "10.0.0.1"),
        ("10.0.0.1", [""], "10.0.0.1"),
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["203.0.113.7:4711"], "203.0.113.7"),
        ("10.0.0.1", ["[2001:db8::5]:4711"], "2001:db8::/64"),
        ("10.0.0.1", ["2001:db8::5"], "2001:db8::/64"),
        ("fd00::1", ["203.0.113.7"], "203.0.113.7"),
        ("::ffff:10.0.0.1", ["203.0.113.7"], "203.0.113.7"),  # a socket of both kinds
        ("192.0.2.1", ["203.0.113.7"], "203.0.113.7"),
        ("192.0.2.2", ["203.0.113.7"], "192.0.2.2"),
        ("", ["203.0.113.7"], ""),
    ],
)
def test_forwarded_for_is_read_from_the_right_as_long_as_it_is_trusted(
    peer: str, forwarded: list[str], client: str
) -> None:
    """S12 of the reliability reference: the leftmost entry is whatever the client likes."""
    assert keys.whom(peer, forwarded, trusted=PROXIES) == client


def test_megabyte_of_forwarded_for_is_looked_at_from_its_right_end() -> None:
    """Half a million entries cost no more than the last 32, and no entry further left is believed."""
    assert keys.whom("10.0.0.1", ["6.6.6.6," + "10.0.0.2," * 100_000 + "203.0.113.7"], trusted=PROXIES) == "203.0.113.7"
    assert keys.whom("10.0.0.1", ["6.6.6.6," + "10.0.0.2," * 40 + "10.0.0.3"], trusted=PROXIES) == "10.0.0.2"
    assert keys.whom("10.0.0.1", ["x" * 1_000_000], trusted=PROXIES) == "10.0.0.1"


class Seen:
    """What an ASGI edge leaves in `call.context`."""

    def __init__(self, peer: str, *lines: str) -> None:
        self.scope = {
            "client": (peer, 1) if peer else None,
            "headers": [(b"host", b"x"), *((b"x-forwarded-for", line.encode()) for line in lines)],
        }


def test_call_of_an_http_edge_is_keyed_by_all_lines_of_the_header() -> None:
    """Metadata holds the first line only, which is the client's own."""
    call = Call("shop", key="10.0.0.1", metadata={"x-forwarded-for": "6.6.6.6"})
    call.context = Seen("10.0.0.1", "6.6.6.6", "203.0.113.7")
    assert keys.client_ip(call, trusted=PROXIES) == "203.0.113.7"
    assert keys.client_ip(call) == "10.0.0.1"
    call.context = Seen("")
    assert keys.client_ip(call, trusted=PROXIES) == ""


def test_any_other_call_is_keyed_by_its_key_and_metadata() -> None:
    """A gRPC call behind a proxy."""
    call = Call("shop", key="10.0.0.1", metadata={"x-forwarded-for": "6.6.6.6, 203.0.113.7"})
    assert keys.client_ip(call, trusted=PROXIES) == "203.0.113.7"
    assert keys.client_ip(call) == "10.0.0.1"


def test_rotating_forwarded_for_gets_no_further_than_the_burst() -> None:
    """A thousand forged headers, one bucket."""
    gate = Limiter(LimiterRule(rate="5/hour"), key=partial(keys.client_ip, trusted=PROXIES))
    for number in range(1000):
        call = Call("shop", key="203.0.113.7", metadata={"x-forwarded-for": f"6.6.{number >> 8}.{number & 255}"})
        with suppress(RateLimited):
            gate.admit(call, 0.0)
    assert (gate.admitted, gate.rejected, gate.keys) == (5, 995, 1)


@pytest.mark.parametrize("wrong", ["10.0.0.1/8", "proxy", "", "10.0.0.0/33"])
def test_network_that_is_none_is_refused(wrong: str) -> None:
    """At construction, not at three in the morning."""
    with pytest.raises(RuleError, match="trusted"):
        keys.Networks(wrong)


def test_forms_of_one_name_are_one_key() -> None:
    """Composed and decomposed accents, and blanks that a proxy adds."""
    by = keys.header("X-API-Key")
    names = ["caf\u00e9", "cafe\u0301", " cafe\u0301 ", "caf\u00e9\t"]
    assert {by(Call("shop", metadata={"x-api-key": name})) for name in names} == {"caf\u00e9"}
    assert by(Call("shop")) == ""


def test_name_that_is_too_long_for_one_is_not_worked_on() -> None:
    """Normalising a megabyte is work that a client could ask for; its bucket is its own all the same."""
    long = "e\u0301" * 500_000
    assert keys.normal(long) is long
    gate = Limiter(LimiterRule(rate="1/hour"), key=keys.header("x-api-key"))
    gate.admit(Call("shop", metadata={"x-api-key": long}), 0.0)
    gate.admit(Call("shop", metadata={"x-api-key": "other"}), 0.0)
    assert admits(gate, 0.0)
    assert gate.keys == 3
