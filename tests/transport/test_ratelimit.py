"""A limit on the wire is what draft-ietf-httpapi-ratelimit-headers-11 says."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msgov.call import Call
from msgov.errors import BulkheadFull, RateLimited
from msgov.resilience.limiter import Limiter, LimiterRule
from msgov.resilience.standing import Standing
from msgov.transport.ratelimit import headers, refused


def test_headers_are_those_of_the_draft() -> None:
    """Its own example: 100 in 60 s, 50 left, 30 s."""
    assert headers([Standing("default", 100, 60, 50, 29.2)]) == [
        (b"ratelimit-policy", b'"default";q=100;w=60'),
        (b"ratelimit", b'"default";r=50;t=30'),
    ]


def test_several_limits_are_one_list_each() -> None:
    """In the order of the limits."""
    told = dict(headers([Standing("burst", 10, 1, 3, 0.7), Standing("day", 5000, 86400, 4000, 17280.0)]))
    assert told[b"ratelimit-policy"] == b'"burst";q=10;w=1, "day";q=5000;w=86400'
    assert told[b"ratelimit"] == b'"burst";r=3;t=1, "day";r=4000;t=17280'


def test_nothing_to_tell_is_no_header() -> None:
    """An empty list is not allowed on the wire."""
    assert headers([]) == []
    assert refused(BulkheadFull("full", limit=3)) == []


def test_refusal_is_told_with_nothing_left() -> None:
    """From the numbers in the error: no second look at the limiter."""
    gate = Limiter(LimiterRule(rate="1/minute"), name="login")
    gate.admit(Call("user"), 0.0)
    with pytest.raises(RateLimited) as error:
        gate.admit(Call("user"), 20.5)
    assert refused(error.value) == [
        (b"ratelimit-policy", b'"login";q=1;w=60'),
        (b"ratelimit", b'"login";r=0;t=40'),
    ]


@pytest.mark.parametrize(
    ("rate", "told"),
    [
        ("100/minute", b"q=100;w=60"),
        (2.5, b"q=2;w=1"),
        (0.25, b"q=1;w=4"),
        ("0.5/s", b"q=1;w=2"),
        ("1000/10 minutes", b"q=1000;w=600"),
        ("3/h", b"q=3;w=3600"),
    ],
)
def test_quota_and_window_are_whole_and_never_more_than_the_rate(rate: str | float, told: bytes) -> None:
    """RFC 9651 has no fraction for them."""
    (limit,) = LimiterRule(rate=rate).limits
    assert headers([Standing("x", limit.quota, limit.window, 0, 0.0)])[0][1] == b'"x";' + told
    assert limit.quota / limit.window <= limit.per_second + 1e-9


_ITEM = rb'"(?:[\x20-\x21\x23-\x5b\x5d-\x7e]|\\["\\])*";[qr]=\d{1,15};[wt]=\d{1,15}'


@given(
    name=st.text(max_size=200),
    quota=st.integers(1, 10**18),
    remaining=st.integers(0, 10**18),
    reset=st.floats(-1e18, 1e18),
)
def test_whatever_the_name_it_is_a_string_of_rfc_9651(name: str, quota: int, remaining: int, reset: float) -> None:
    """A line break in a name must not become a header, nor a large number an unreadable one."""
    for _, value in headers([Standing(name, quota, 60, remaining, reset)]):
        assert re.fullmatch(_ITEM, value)
        assert len(value) < 200
