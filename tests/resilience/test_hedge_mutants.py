"""What only a changed line of the hedge showed."""

from __future__ import annotations

from msgov.resilience import Hedge


def test_hedges_that_gave_the_reply_are_counted_apart_from_those_that_did_not() -> None:
    """Of three, one won; of two, none."""
    hedge = Hedge()
    assert (hedge.won, hedge.lost) == (0, 0)
    hedge.decided(3, won=True)
    hedge.decided(2, won=False)
    assert (hedge.won, hedge.lost) == (1, 4)
