"""Retry-After is read in all forms that RFC 9110 knows, and a hostile one costs nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msgov._http_date import LONGEST_WAIT, retry_after_seconds

NOON = 784_111_777.0  # Sun, 06 Nov 1994 08:49:37 GMT, the example of RFC 9110, 5.6.7


@pytest.mark.parametrize(("text", "seconds"), [("0", 0.0), ("120", 120.0), (" 7 ", 7.0), ("00009", 9.0)])
def test_seconds(text: str, seconds: float) -> None:
    """The common form."""
    assert retry_after_seconds(text, NOON) == seconds


@pytest.mark.parametrize(
    "text", ["Sun, 06 Nov 1994 08:49:47 GMT", "Sunday, 06-Nov-94 08:49:47 GMT", "Sun Nov  6 08:49:47 1994"]
)
def test_each_of_the_three_date_forms(text: str) -> None:
    """RFC 9110, 5.6.7: a recipient reads the two obsolete ones too; all of them are in UTC."""
    assert retry_after_seconds(text, NOON) == 10.0


def test_date_that_has_passed_is_now() -> None:
    """A clock that runs ahead of the server's must not make a negative wait (flask-limiter 62)."""
    assert retry_after_seconds("Sun, 06 Nov 1994 08:49:37 GMT", NOON + 5) == 0.0


@pytest.mark.parametrize(
    "text",
    [None, "", "-1", "1.5", "1e9", "soon", "٣", "Sun, 06 Nov", "Sun, 99 Nov 1994 08:49:37 GMT", "9" * 65, "NaN"],
)
def test_anything_else_is_none(text: str | None) -> None:
    """As if it had not been sent: never an error, never a wait that nobody asked for."""
    assert retry_after_seconds(text, NOON) is None


def test_longest_wait_is_a_day() -> None:
    """A number of sixty digits is still a number."""
    assert retry_after_seconds("9" * 60, NOON) == LONGEST_WAIT
    assert retry_after_seconds("Sun, 06 Nov 9994 08:49:37 GMT", NOON) == LONGEST_WAIT


@given(st.text(max_size=70), st.floats(-1e12, 1e12))
def test_no_text_breaks_it(text: str, now: float) -> None:
    """It comes from outside."""
    found = retry_after_seconds(text, now)
    assert found is None or 0 <= found <= LONGEST_WAIT
