"""What only a changed line of the bulkhead showed."""

from __future__ import annotations

from msgov.call import Call
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
