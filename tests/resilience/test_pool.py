"""What other processes see opens a breaker here, unless too few see it, it is old, or the own calls deny it."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from msgov.call import OK, TRANSIENT, Outcome
from msgov.errors import RuleError
from msgov.event import Event
from msgov.resilience import Breaker, Pool, PoolRule, State
from msgov.resilience.pool import MOST, SILENT
from msgov.resilience.pool_evidence import Report, Seen
from tests.resilience.breaking import CALL, call, calls, opened, refused, small, state

LABEL = "pay/payment"  # of the breakers of `small`
CLEAR = {"one": Seen(0, 10), "two": Seen(0, 10)}  # nobody doubts it


def pooled(*breakers: Breaker, **changed: object) -> Pool:
    """Make a pool of one process."""
    return Pool(*breakers, name="shop", rule=PoolRule(**changed))  # type: ignore[arg-type]


@dataclass
class Fleet:
    """The other processes of a pool, who say what they are told to, once a period."""

    pool: Pool
    now: float = 100.0
    serial: int = 0

    def say(self, seen: dict[str, Seen], *, seconds: float = 1.0) -> None:
        """A period passes: the pool reports, and hears all that there are."""
        self.now += seconds
        self.serial += 1
        self.pool.report(self.now)
        self.pool.hear({member: Report(self.serial, {LABEL: each}) for member, each in seen.items()}, self.now)

    def twice(self, seen: dict[str, Seen]) -> None:
        """Say it again, for a member is believed from the second time on."""
        self.say(seen)
        self.say(seen)


def told(gate: Breaker, fleet: Fleet, script: str) -> None:
    """Make calls now."""
    calls(gate, script, fleet.now)


# What opens it


def test_what_others_see_opens_a_breaker_that_had_no_call_of_its_own() -> None:
    """The point of it: a quiet process need not find out what two busy ones know, and its callers are told why."""
    gate, said = small(), list[Event]()
    gate.observers.add(said.append)
    fleet = Fleet(pooled(gate))
    fleet.twice(CLEAR)
    assert state(gate) is State.OPEN
    numbers = {"reason": "pool", "calls": 20, "failures": 20, "members": 2, "witnesses": 2}
    assert numbers.items() <= refused(gate, fleet.now).facts.items()
    assert [event.kind for event in said] == ["breaker.opened"]
    assert numbers.items() <= said[0].facts.items()
    assert fleet.pool.opened == 1


def test_few_calls_of_many_are_enough_together() -> None:
    """Three calls say nothing to any of the three, nine that all failed do: the lower bound, as for own calls."""
    gate = small(minimum_calls=20, wilson_calls=5)
    calls(gate, "FFF", 101.0)
    fleet = Fleet(pooled(gate))
    fleet.twice({"one": Seen(0, 3), "two": Seen(0, 3)})
    assert state(gate) is State.OPEN


def test_pooled_counts_must_reach_the_breakers_own_criteria() -> None:
    """All see failures, and still too few calls; a strict rule opens where a patient one does not."""
    patient, strict = small(minimum_calls=30), small(minimum_calls=20)
    for gate in (patient, strict):
        Fleet(pooled(gate)).twice(CLEAR)
    assert (state(patient), state(strict)) == (State.CLOSED, State.OPEN)


def test_rate_of_all_calls_decides_though_a_quorum_has_its_own_trouble() -> None:
    """Two small ones fail, and a large one serves nearly everything: the callee is not down."""
    gate = small()
    Fleet(pooled(gate)).twice({"one": Seen(0, 10), "two": Seen(0, 10), "large": Seen(1000, 3)})
    assert state(gate) is State.CLOSED


def test_own_calls_are_added_up_and_are_a_voice() -> None:
    """Three failures here are no reason, with another's three they are: two witnesses of two."""
    gate = small(minimum_calls=6)
    fleet = Fleet(pooled(gate))
    told(gate, fleet, "FFF")
    fleet.twice({"one": Seen(0, 3)})
    assert state(gate) is State.OPEN


def test_failures_switched_off_are_off_for_the_pool() -> None:
    """A breaker that opens on slow calls only is not opened by failures."""
    gate = small(failure_rate=0.0, slow_seconds=1.0)
    Fleet(pooled(gate)).twice(CLEAR)
    assert state(gate) is State.CLOSED


# Quorum


def test_one_bad_member_poisons_nobody() -> None:
    """A thousand failures a second outweigh all counts, and are one voice of four."""
    gate = small()
    fleet = Fleet(pooled(gate))
    for _ in range(5):
        fleet.say({"bad": Seen(0, 10_000), "one": Seen(5, 0), "two": Seen(5, 0), "three": Seen(4, 1)})
    assert state(gate) is State.CLOSED


def test_one_bad_member_poisons_nobody_even_where_only_it_is_busy() -> None:
    """It would be a quorum of itself: two must see it, at least."""
    gate = small()
    Fleet(pooled(gate)).twice({"bad": Seen(0, 10_000), "quiet": Seen(2, 0)})
    assert state(gate) is State.CLOSED


@pytest.mark.parametrize(("quorum", "opens"), [(0.4, True), (0.5, False), (0.6, False)])
def test_quorum_is_a_share_of_those_who_have_a_say(quorum: float, opens: bool) -> None:
    """Two of five; the sixth had two calls only."""
    gate = small()
    well = {f"well {n}": Seen(3, 0) for n in range(3)}
    Fleet(pooled(gate, quorum=quorum)).twice({**CLEAR, **well, "quiet": Seen(2, 0)})
    assert (state(gate) is State.OPEN) is opens


def test_quorum_is_reached_not_passed() -> None:
    """Half of four is enough for half; a member at the very rate sees it."""
    gate = small()
    Fleet(pooled(gate)).twice({"one": Seen(0, 9), "two": Seen(2, 2), "three": Seen(3, 0), "four": Seen(3, 0)})
    assert state(gate) is State.OPEN


def test_verdict_is_no_evidence() -> None:
    """What was opened on the pool's word reports its own calls, of which there are none: nothing spreads by itself."""
    gate = small()
    fleet = Fleet(pooled(gate))
    fleet.twice(CLEAR)
    assert state(gate) is State.OPEN
    assert fleet.pool.report(fleet.now).seen == {}


# Veto


def test_own_calls_overrule_the_others() -> None:
    """What all others cannot reach, this one can: their network is broken, or their tenant."""
    gate = small()
    fleet = Fleet(pooled(gate))
    told(gate, fleet, "SSSSS")
    fleet.twice(CLEAR)
    assert state(gate) is State.CLOSED
    assert fleet.pool.vetoed == 1
    assert fleet.pool.opened == 0


@pytest.mark.parametrize(("script", "vetoes"), [("SSSS", False), ("SSSSS", True), ("SSSSFSSS", True), ("SFSSS", False)])
def test_veto_takes_enough_calls_clearly_below_the_rate(script: str, vetoes: bool) -> None:
    """Four are too few; one failure of five may be half of the truth, one of eight is not."""
    gate = small()
    fleet = Fleet(pooled(gate))
    told(gate, fleet, script)
    fleet.twice(CLEAR)
    assert (state(gate) is State.CLOSED) is vetoes


def test_veto_is_of_recent_calls() -> None:
    """What went well before the window says nothing."""
    gate = small()
    fleet = Fleet(pooled(gate))
    told(gate, fleet, "SSSSS")
    for _ in range(9):
        fleet.say(CLEAR)
    assert state(gate) is State.CLOSED
    for _ in range(3):
        fleet.say(CLEAR)
    assert state(gate) is State.OPEN


# Old knowledge


def test_member_is_believed_once_it_moves() -> None:
    """What lies in the store at the start may be of yesterday."""
    gate = small()
    fleet = Fleet(pooled(gate))
    fleet.say(CLEAR)
    assert state(gate) is State.CLOSED
    assert fleet.pool.members == 0
    fleet.say(CLEAR)
    assert fleet.pool.members == 2
    assert state(gate) is State.OPEN


def test_dead_members_last_words_count_for_three_seconds_only() -> None:
    """It died in the middle of its own outage, and its field is still there."""
    gate = small()
    fleet = Fleet(pooled(gate))
    fleet.twice({"dead": Seen(0, 9)})
    last = {"dead": Report(fleet.serial, {LABEL: Seen(0, 9)})}
    for seconds, members in ((1.0, 1), (3.0, 1), (3.5, 0)):
        fleet.pool.hear({**last, "one": Report(int(seconds), {})}, 102.0 + seconds)
        assert fleet.pool.members == members + (seconds > 1)
    fleet.pool.hear({**last, "one": Report(99, {LABEL: Seen(0, 9)})}, 106.0)
    assert state(gate) is State.CLOSED  # one witness, not two


def test_member_that_left_the_store_is_forgotten_at_once() -> None:
    """Only who is there has a say."""
    gate = small()
    fleet = Fleet(pooled(gate))
    fleet.twice({"one": Seen(0, 9)})
    fleet.twice({"two": Seen(0, 9)})
    assert fleet.pool.members == 1
    assert state(gate) is State.CLOSED


def test_after_a_silence_of_the_store_nobody_is_believed_until_it_moves_again() -> None:
    """What was written before the outage of the store is found there after it, and is news of then."""
    gate = small()
    fleet = Fleet(pooled(gate))
    fleet.twice({"one": Seen(9, 0), "two": Seen(9, 0)})
    fleet.pool.unreachable()
    assert fleet.pool.lost
    assert fleet.pool.members == 0
    fleet.say(CLEAR, seconds=60.0)
    assert not fleet.pool.lost
    assert state(gate) is State.CLOSED
    fleet.say(CLEAR)
    assert state(gate) is State.OPEN


def test_what_was_said_before_the_store_went_is_not_weighed_while_it_is_away() -> None:
    """Local only: the report goes on being counted, and nothing is decided."""
    gate = small()
    fleet = Fleet(pooled(gate))
    fleet.say(CLEAR)
    fleet.pool.unreachable()
    fleet.pool.report(fleet.now + 1)
    assert state(gate) is State.CLOSED
    calls(gate, "FFFF", fleet.now + 1)
    assert gate.snapshot(fleet.now + 1)["reason"] == "failure_rate"


def test_who_is_silent_for_long_may_be_removed_from_the_store() -> None:
    """After sixty hearings, not after a time: while the store was away nobody could be heard."""
    pool = pooled(small())
    for n in range(SILENT):
        pool.hear({"dead": Report(1, {}), "alive": Report(n, {})}, float(n))
    assert pool.gone() == []
    pool.hear({"dead": Report(1, {}), "alive": Report(SILENT, {})}, float(SILENT))
    assert pool.gone() == ["dead"]


# Coming back


def test_opened_by_the_pool_it_comes_back_by_its_own_probes() -> None:
    """What the others still say is not asked."""
    gate = small()
    fleet = Fleet(pooled(gate))
    fleet.twice(CLEAR)
    refused(gate, fleet.now)
    fleet.say(CLEAR, seconds=2.0)
    call(gate, OK, fleet.now)
    assert state(gate) is State.CLOSED
    for _ in range(9):
        fleet.say(CLEAR)
    assert state(gate) is State.CLOSED  # for a window: what the others report may be of before
    for _ in range(3):
        fleet.say(CLEAR)
    assert state(gate) is State.OPEN


def test_call_that_was_under_way_when_the_pool_opened_it_says_nothing() -> None:
    """It is of an older era, as after any other turn."""
    gate = small()
    fleet = Fleet(pooled(gate))
    ticket = gate.admit(CALL, fleet.now)
    fleet.twice(CLEAR)
    gate.settle(ticket, Outcome(OK), fleet.now)
    assert state(gate) is State.OPEN
    assert gate.counts["ignored"] == 1


def test_only_a_closed_breaker_is_opened() -> None:
    """Not one in a hand, not one that is on its way back."""
    for before in (State.FORCED_CLOSED, State.DISABLED, State.FORCED_OPEN):
        gate = small()
        gate.force(before, now=1.0)
        fleet = Fleet(pooled(gate))
        if before is State.FORCED_CLOSED:
            told(gate, fleet, "SSSSS")
        fleet.twice(CLEAR)
        assert state(gate) is before
        assert fleet.pool.vetoed == 0  # there was nothing to deny
        assert not gate.trip({}, now=200.0)
        assert state(gate) is before
    half = opened(99.0)
    half.admit(CALL, 101.5)
    Fleet(pooled(half)).twice(CLEAR)
    assert state(half) is State.HALF_OPEN


def test_what_was_before_it_closed_again_is_not_reported() -> None:
    """It forgets it itself; the others hear of the callee that is back."""
    gate = small()
    pool = pooled(gate)
    calls(gate, "FFFF", 1.0)
    assert pool.report(1.5).seen == {LABEL: Seen(0, 4)}
    call(gate, OK, 4.0)
    assert state(gate) is State.CLOSED
    assert pool.report(4.5).seen == {}
    calls(gate, "SS", 5.0)
    assert pool.report(5.5).seen == {LABEL: Seen(2, 0)}


def test_failed_probes_are_evidence_for_the_others() -> None:
    """Who is open asks now and then, and tells."""
    gate = opened(0.0)
    pool = pooled(gate)
    call(gate, TRANSIENT, 2.0)
    assert pool.report(2.5).seen == {LABEL: Seen(0, 1)}


def test_in_shadow_the_pool_only_shows_what_it_would_do() -> None:
    """As any other reason."""
    gate = small(shadow=True)
    fleet = Fleet(pooled(gate))
    fleet.twice(CLEAR)
    assert state(gate) is State.OPEN
    call(gate, OK, fleet.now)
    assert gate.counts["would_reject"] == 1


# What is reported


def test_report_is_of_the_window_whatever_the_breakers_own_is() -> None:
    """A window of the last calls never grows old; what is told to others does."""
    gate = small(last_calls=50)
    pool = pooled(gate)
    calls(gate, "SSF", 1.0)
    assert pool.report(1.0).seen == {LABEL: Seen(2, 1)}
    assert pool.report(10.5).seen == {LABEL: Seen(2, 1)}
    assert pool.report(11.5).seen == {}


def test_calls_from_before_it_was_pooled_are_of_unknown_age() -> None:
    """And are not told."""
    gate = small()
    calls(gate, "SSF", 1.0)
    assert pooled(gate).report(2.0).seen == {}


def test_new_window_of_the_rule_is_the_reports_too() -> None:
    """Live, as everywhere."""
    gate = small()
    pool = pooled(gate)
    calls(gate, "SS", 1.0)
    pool.report(1.0)
    gate.rule = small(window=2.0).rule
    assert pool.report(2.0).seen == {LABEL: Seen(2, 0)}
    assert pool.report(4.0).seen == {}


def test_serial_moves_with_every_report() -> None:
    """A process that has nothing to say is alive all the same."""
    pool = pooled(small())
    assert [pool.report(0.0).serial for _ in range(3)] == [1, 2, 3]


def test_breaker_is_pooled_by_its_name_target_and_key() -> None:
    """Those of one instance are not those of another."""
    one, two = (Breaker(name="pay", target="payment", key=key) for key in ("a", "b"))
    pool = pooled(one, two)
    call(two, OK, 1.0)
    assert pool.report(1.0).seen == {"pay/payment/b": Seen(1, 0)}


def test_keeping_others_keeps_what_was_seen_of_those_that_stay() -> None:
    """Rules are edited while all runs."""
    one, two = Breaker(name="one"), Breaker(name="two")
    pool = pooled(one)
    call(one, OK, 1.0)
    pool.report(1.0)
    pool.keep([one, two])
    call(two, OK, 2.0)
    assert pool.report(2.0).seen == {"one": Seen(1, 0), "two": Seen(1, 0)}
    pool.keep([two])
    assert pool.report(3.0).seen == {"two": Seen(1, 0)}
    pool.keep([Breaker(name="two")])
    assert pool.report(4.0).seen == {}


def test_what_others_name_costs_no_memory() -> None:
    """A member with a million breakers of its own, and members without end."""
    pool = pooled(small())
    seen = {**{f"theirs {n}": Seen(1, 1) for n in range(1000)}, LABEL: Seen(1, 0)}
    for n in (1, 2):
        pool.hear({f"member {m}": Report(n, seen) for m in range(MOST + 50)}, float(n))
    assert pool.members == MOST
    assert {frozenset(member.seen) for member in pool._others.values()} == {frozenset({LABEL})}


@pytest.mark.parametrize(
    "make", [lambda: Pool(small(), name=""), lambda: pooled(Breaker()), lambda: pooled(small(), small())]
)
def test_what_has_no_name_of_its_own_cannot_be_pooled(make: object) -> None:
    """All nameless ones of all services would be one."""
    with pytest.raises(RuleError, match="name"):
        make()  # type: ignore[operator]


def test_word_that_dies_before_the_next_one_is_refused() -> None:
    """Members would come and go between two exchanges."""
    with pytest.raises(RuleError, match="stale"):
        PoolRule(period=2.0)
    assert PoolRule(period=1.5).stale == 3.0
