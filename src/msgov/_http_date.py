"""A Retry-After is seconds or a date (RFC 9110, 10.2.3); either way a caller wants to know for how long.

A pure function of the header and the wall clock's word: whoever reads the clock stands at the edge.
"""

from __future__ import annotations

from datetime import UTC
from email.utils import parsedate_to_datetime

LONGEST_TEXT = 64  # characters; a date has 29
LONGEST_WAIT = 86_400.0  # seconds; nobody waits for longer, and what is capped at reading overflows nowhere


def retry_after_seconds(text: str | None, now_wall: float) -> float | None:
    """Return the seconds to wait, 0 to LONGEST_WAIT; None for what is neither whole seconds nor a date.

    A date is one of the three forms of RFC 9110, 5.6.7, measured from `now_wall` (seconds since the epoch); one that
    has passed is 0. A negative number of seconds is none: "do not retry" has no word in HTTP.
    """
    if not text or len(text) > LONGEST_TEXT:
        return None
    said = text.strip()
    if said.isascii() and said.isdigit():
        return min(float(said), LONGEST_WAIT)
    try:
        date = parsedate_to_datetime(said)
        until = (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
    return min(max(0.0, until - now_wall), LONGEST_WAIT)
