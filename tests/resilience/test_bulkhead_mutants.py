"""What only a changed line of the bulkhead showed."""

from __future__ import annotations

from msgov.call import OK, Call, Outcome
from msgov.policy import Waiting
from msgov.resilience import Bulkhead, BulkheadRule


def test_wait_in_vain_says_how_long_it_was() -> None:
    """From when the line was joined, not from when the world began."""
    gate = Bulkhead(BulkheadRule(limit=1, queue=1, max_wait=0.5), name="pay")
    gate.admit(Call("shop"), 100.0)
    waiting = gate.admit(Call("shop"), 100.0)
    assert isinstance(waiting, Waiting)
    assert gate.withdraw(waiting, 100.5) is None
    assert str(gate.late(waiting, 100.5)) == "pay: waited 0.500 s behind 1 in flight"


def test_free_permit_is_handed_out_though_somebody_was_in_line_a_moment_ago() -> None:
    """Another thread has yet to say that the line is empty: that is no reason to refuse, or to queue."""
    gate = Bulkhead(BulkheadRule(limit=1))
    gate._busy = True
    assert not isinstance(gate.admit(Call("shop"), 0.0), Waiting)
    assert (gate.queued, gate.rejected, gate.inflight) == (0, 0, 1)


def test_permit_that_was_just_put_back_is_for_the_line_and_not_for_the_newcomer() -> None:
    """The other thread has put it on the pile, and has not handed it over yet: the newcomer does it, and waits."""
    gate = Bulkhead(BulkheadRule(limit=1, queue=2, max_wait=9.0))
    ticket = gate.admit(Call("shop"), 0.0)
    assert not isinstance(ticket, Waiting)
    first = gate.admit(Call("shop"), 0.0)
    assert isinstance(first, Waiting)
    woken: list[str] = []
    first.wake = lambda: woken.append("first")
    gate._pile.append(ticket)
    newcomer = gate.admit(Call("shop"), 0.1)
    assert isinstance(newcomer, Waiting)
    assert (newcomer.over, first.ticket, woken) == (False, ticket, ["first"])


class Forbidden:
    """A lock that nobody may take."""

    def __enter__(self) -> None:
        """Say so."""
        raise AssertionError("took the lock")

    def __exit__(self, *exc: object) -> None:
        """Never comes here."""


def test_calls_that_find_a_permit_take_no_lock() -> None:
    """From the first one on, and again when a line that there was is empty."""
    gate = Bulkhead(BulkheadRule(limit=1, queue=1, max_wait=9.0))
    lock, gate._lock = gate._lock, Forbidden()  # type: ignore[assignment]
    ticket = gate.admit(Call("shop"), 0.0)
    assert not isinstance(ticket, Waiting)
    gate.settle(ticket, Outcome(OK), 0.0)
    gate._lock = lock
    gate.admit(Call("shop"), 0.0)
    waiting = gate.admit(Call("shop"), 0.0)
    assert isinstance(waiting, Waiting)
    gate.settle(ticket, Outcome(OK), 0.1)
    assert waiting.ticket is not None
    gate._lock = Forbidden()  # type: ignore[assignment]
    gate.settle(waiting.ticket, Outcome(OK), 0.2)
    gate.settle(gate.admit(Call("shop"), 0.3), Outcome(OK), 0.3)  # type: ignore[arg-type]
