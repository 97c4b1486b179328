"""A lease ends when its holder stops moving it while others still can; nothing else may look like a death."""

from __future__ import annotations

import json
from collections.abc import Iterable

import pytest

from msgov.discovery.instance import Instance, Snapshot, record
from msgov.discovery.leases import Leases, Override, Row
from msgov.errors import RuleError

A = Instance("order", "10.0.0.1", 1)
B = Instance("order", "10.0.0.2", 1)
TTL = 3.0


def row(instance: Instance, beat: int, *, holder: str = "h", origin: str = "") -> Row:
    """Write a row as a holder would."""
    return Row(instance.id, holder, json.dumps(record(instance)), beat, TTL, origin)


def take(
    leases: Leases,
    rows: Iterable[Row],
    now: float,
    *,
    era: str = "one",
    writable: bool = True,
    dead: str = "dead",
    overrides: dict[str, Override] | None = None,
) -> Snapshot:
    """Take a reading."""
    return leases.take(
        list(rows),
        era=era,
        revision=1,
        now=now,
        writable=writable,
        dead=lambda origin: origin == dead,
        overrides=overrides or {},
    )


def living(found: Snapshot) -> list[str]:
    """Name who lives."""
    return [instance.host for instance in found.instances]


def test_lease_that_moves_lives() -> None:
    """However slowly the clock of the holder goes, its counter moves."""
    leases = Leases("order")
    for second in range(20):
        assert living(take(leases, [row(A, second)], float(second))) == ["10.0.0.1"]
    assert leases.ended == []


def test_lease_that_stands_still_ends_after_its_time() -> None:
    """Not before, and the others stay; it is named with its counter, for whoever deletes it."""
    leases = Leases("order")
    for second in range(6):
        found = take(leases, [row(A, 7), row(B, second)], float(second))
        assert living(found) == (["10.0.0.1", "10.0.0.2"] if second < TTL else ["10.0.0.2"])
    assert leases.ended == [(A.id, "h", 7)]


def test_lease_that_moves_again_lives_again() -> None:
    """A process that was stopped and goes on is not dead, whether its row was deleted meanwhile or not."""
    leases = Leases("order")
    for second in range(5):
        take(leases, [row(A, 7)], float(second))
    assert living(take(leases, [row(A, 7)], 5)) == []
    assert living(take(leases, [row(A, 8)], 6)) == ["10.0.0.1"]


def test_row_that_nobody_could_delete_stays_ended() -> None:
    """Else a dead instance would come back for a lease each time somebody looks."""
    leases = Leases("order")
    assert [bool(living(take(leases, [row(A, 7)], float(second)))) for second in range(9)] == [True] * 3 + [False] * 6


def test_dead_holder_ends_its_lease_at_once() -> None:
    """Where the kernel tells that the process has gone, nobody waits for a lease."""
    leases = Leases("order")
    assert living(take(leases, [row(A, 1, origin="dead"), row(B, 1)], 0)) == ["10.0.0.2"]
    assert leases.ended == [(A.id, "h", 1)]


def test_registry_that_takes_no_writes_ends_no_lease() -> None:
    """A stopped process may hold the write lock for an hour: nobody can move, so nobody is dead."""
    leases = Leases("order")
    for second in range(3600):
        assert living(take(leases, [row(A, 7)], float(second), writable=second < 2)) == ["10.0.0.1"]
    for second in range(3600, 3603):
        assert living(take(leases, [row(A, 7)], float(second))) == (["10.0.0.1"] if second < 3602 else [])


def test_watcher_that_was_stopped_ends_no_lease() -> None:
    """Time in which nobody looked is no time in which a counter stood still."""
    leases = Leases("order")
    take(leases, [row(A, 7)], 0)
    assert living(take(leases, [row(A, 7)], 1000)) == ["10.0.0.1"]
    assert living(take(leases, [row(A, 7)], 2000)) == ["10.0.0.1"]


def test_row_that_was_taken_out_leaves_at_once() -> None:
    """In the same era a missing row is a deregistration."""
    leases = Leases("order")
    take(leases, [row(A, 1), row(B, 1)], 0)
    assert living(take(leases, [row(B, 1)], 0.1)) == ["10.0.0.2"]


def test_registry_that_restarts_empty_takes_nobody_out() -> None:
    """What is missing in a new era was forgotten: it has the time of its lease to come back, and is gone after it."""
    leases = Leases("order")
    take(leases, [row(A, 1), row(B, 1)], 0)
    assert living(take(leases, [], 0.1, era="two")) == ["10.0.0.1", "10.0.0.2"]
    assert living(take(leases, [row(A, 1)], 1, era="two")) == ["10.0.0.1", "10.0.0.2"]
    assert living(take(leases, [row(A, 2)], 2, era="two")) == ["10.0.0.1", "10.0.0.2"]
    assert living(take(leases, [row(A, 3)], 2.9, era="two")) == ["10.0.0.1", "10.0.0.2"]
    assert living(take(leases, [row(A, 4)], 3.1, era="two")) == ["10.0.0.1"]
    assert leases.ended == []  # there is no row of it to delete
    assert living(take(leases, [], 3.2, era="two")) == []  # known again, so taken out


def test_instance_stays_with_its_last_holder() -> None:
    """The workers of one address hold it together; of two that say different things, one that takes calls counts."""
    leases = Leases("order")
    leaving = Instance("order", "10.0.0.1", 1, draining=True)
    both = [row(leaving, 1, holder="old"), row(A, 1, holder="new")]
    assert take(leases, both, 0).instances == (A,)
    assert take(leases, reversed(both), 0).instances == (A,)
    assert take(leases, [row(leaving, 1, holder="old")], 0.1).instances == (leaving,)


def test_operator_has_the_last_word() -> None:
    """Offline and weight are kept apart from what an instance says, so they outlast its reconnects."""
    leases = Leases("order")
    wishes = {A.id: Override(offline=True), B.id: Override(weight=0.5), "stranger": Override(offline=True)}
    found = take(leases, [row(A, 1), row(B, 1)], 0, overrides=wishes).instances
    assert [(instance.draining, instance.weight) for instance in found] == [(True, 1.0), (False, 0.5)]
    assert take(leases, [row(A, 1), row(B, 1)], 1).instances == (A, B)


@pytest.mark.parametrize("weight", [0, -1, float("nan"), float("inf")])
def test_operator_cannot_wish_nonsense(weight: float) -> None:
    """The weight is an instance's weight."""
    with pytest.raises(RuleError, match="weight"):
        Override(weight=weight)


@pytest.mark.parametrize(
    "text", ["", "null", "[]", "{", '{"service": "order"}', "[" * 100_000, '{"port": NaN}', "\udcff"]
)
def test_broken_record_is_dropped_and_counted(text: str) -> None:
    """Somebody else wrote it; the others serve."""
    leases = Leases("order")
    found = take(leases, [Row("x", "h", text, 1, TTL, ""), row(B, 1)], 0)
    assert living(found) == ["10.0.0.2"]
    assert found.dropped == 1
    assert found.why


def test_row_of_another_service_is_dropped() -> None:
    """A row says twice what it is of, and must say the same."""
    leases = Leases("order")
    stranger = Instance("payment", "10.0.0.3", 1)
    found = take(leases, [Row(stranger.id, "h", json.dumps(record(stranger)), 1, TTL, ""), row(B, 1)], 0)
    assert living(found) == ["10.0.0.2"]
    assert found.dropped == 1
