"""Processes share a limit to within a lease each, and none of them asks on a call's way."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from msgov.call import Call
from msgov.errors import RateLimited, RuleError
from msgov.event import Event, Observers
from msgov.policy import Waiting
from msgov.resilience import Quota, QuotaRule, limiter_keys, quota
from msgov.resilience.quota_lease import Lease
from msgov.testing import outcomes

Scene = tuple[list[Callable[[], object]], Callable[[], Hashable]]


class Store:
    """Fixed windows as `limits` keeps them in Redis: a window begins with the first count, and is over at its end."""

    def __init__(self) -> None:
        self.counts: dict[str, tuple[int, float]] = {}
        self.trips = 0

    def fetch(self, gate: Quota, now: float) -> None:
        """Answer all that a gate wants."""
        for ask in gate.demand(now):
            self.answer(gate, ask, now)

    def answer(self, gate: Quota, ask: quota.Ask, now: float) -> None:
        """Answer one ask."""
        self.trips += 1
        count, ends = self.counts.get(ask.key, (0, now + ask.window))
        if now >= ends:
            count, ends = 0, now + ask.window
        count += ask.amount
        self.counts[ask.key] = count, ends
        gate.counted(ask, count, now, ends=ends - now if count > ask.quota else None)


def gate_of(rule: QuotaRule, **more: object) -> Quota:
    """Make a gate whose store has been reached."""
    gate = Quota(rule, name="api", **more)  # type: ignore[arg-type]
    gate.reached(0.0)
    return gate


def admits(gate: Quota, now: float, key: str = "") -> bool:
    """Say whether one more call of the key gets in at once."""
    try:
        return not isinstance(gate.admit(Call("shop", key=key), now), Waiting)
    except RateLimited:
        return False


RULE = QuotaRule(rate="100/minute", lease=20, processes=4)


def test_two_processes_share_a_quota_to_within_a_lease_each() -> None:
    """The stated overshoot, met at its worst: each lets in half a lease before the store has answered."""
    store = Store()
    one, two = gate_of(RULE), gate_of(RULE)
    admitted = 0
    for _ in range(500):
        admitted += admits(one, 0.0) + admits(two, 0.0)
        store.fetch(one, 0.0)
        store.fetch(two, 0.0)
    assert 100 <= admitted <= 100 + 2 * 20


def test_calls_make_no_trip_each() -> None:
    """A trip a few calls: a lease is filled up when half of it is spent."""
    store, gate = Store(), gate_of(QuotaRule(rate="1000/minute", lease=100))
    for _ in range(1000):
        admits(gate, 0.0)
        store.fetch(gate, 0.0)
    assert gate.admitted == 1000
    assert store.trips < 50


def test_quota_that_is_used_up_costs_no_trip_until_its_window_ends() -> None:
    """A flood against it is refused here, with the time that the store has told; then it begins anew."""
    store, gate = Store(), gate_of(RULE)
    for _ in range(200):
        admits(gate, 0.0)
        store.fetch(gate, 0.0)
    trips = store.trips
    for _ in range(500):
        assert not admits(gate, 30.0)
        store.fetch(gate, 30.0)
    assert store.trips == trips
    with pytest.raises(RateLimited) as refused:
        gate.admit(Call("shop"), 30.0)
    assert refused.value.retry_after == pytest.approx(30.0)
    assert (refused.value.facts["quota"], refused.value.facts["window"], refused.value.facts["remaining"]) == (
        100,
        60,
        0,
    )
    assert admits(gate, 60.1)


def test_unknown_key_is_let_in_on_credit() -> None:
    """Half a lease, and what is beyond it comes back in a moment: nobody waits for the store."""
    gate = gate_of(RULE)
    assert sum(admits(gate, 0.0) for _ in range(50)) == 10
    with pytest.raises(RateLimited) as refused:
        gate.admit(Call("shop"), 0.0)
    assert refused.value.retry_after == 0.05
    Store().fetch(gate, 0.001)
    assert sum(admits(gate, 0.002) for _ in range(50)) == 20  # what it holds, and the credit once more


def test_credit_is_paid_with_the_next_answer() -> None:
    """What was let in before the store was asked is counted there."""
    store, gate = Store(), gate_of(RULE)
    for _ in range(10):
        admits(gate, 0.0)
    (ask,) = gate.demand(0.0)
    assert ask.amount == 20
    store.answer(gate, ask, 0.0)
    assert sum(count for count, _ in store.counts.values()) == 20


def test_used_up_quota_gives_no_credit() -> None:
    """One call is let in before the store has said so, and none after."""
    store, one, two = Store(), gate_of(RULE), gate_of(RULE)
    for _ in range(300):
        admits(one, 0.0)
        store.fetch(one, 0.0)
    assert admits(two, 0.0)
    store.fetch(two, 0.0)
    assert not admits(two, 0.0)


def test_what_is_leased_stays_when_the_window_turns_and_what_is_owed_is_forgiven() -> None:
    """The rest of a lease is what may be carried over; a debt was counted in the window that is gone."""
    ask = quota.Ask("", "api:60:", 10, 100, 60)
    for count, before, after in ((106, 4.0, 4.0), (110, 0.0, 0.0), (200, -3.0, 0.0)):
        lease = Lease(100)
        lease.balance = min(0.0, before)
        lease.fill(ask, count, 0.0, 30.0)
        assert lease.balance == before
        lease.turn(29.9, 100)
        assert (lease.balance, lease.until, lease.left) == (before, 30.0, 0.0)
        lease.turn(30.0, 100)
        assert (lease.balance, lease.until, lease.left) == (after, 0.0, 100.0)


def test_key_that_waits_for_an_answer_is_not_forgotten() -> None:
    """However long it takes: what the store grants it must find it."""
    gate = gate_of(QuotaRule(rate="10/minute", lease=4, keys_max=1))
    admits(gate, 0.0, "a")
    (ask,) = gate.demand(0.0)
    admits(gate, 100.0, "b")
    assert (gate.keys, gate.overflowed) == (1, 1)
    gate.counted(ask, ask.amount, 100.0)
    assert admits(gate, 200.0, "c")
    assert (gate.keys, gate.overflowed) == (1, 1)


WAITS = QuotaRule(rate="5/minute", lease=2, unknown="wait", patience=0.1)


def test_unknown_key_may_wait_one_round_trip() -> None:
    """By rule: then nothing is let in on credit, and the line is answered in its order."""
    gate, woken = gate_of(WAITS), []
    places = [gate.admit(Call("shop"), 0.0) for _ in range(7)]
    for at, place in enumerate(places):
        assert isinstance(place, Waiting)
        place.wake = lambda at=at: woken.append(at)
    Store().fetch(gate, 0.003)
    assert woken == list(range(7))
    assert [place.error is None for place in places if isinstance(place, Waiting)] == [True] * 5 + [False] * 2
    assert (gate.admitted, gate.rejected) == (5, 2)
    first, last = places[0], places[-1]
    assert isinstance(first, Waiting)
    assert isinstance(last, Waiting)
    assert gate.withdraw(first, 0.004) is not None
    with pytest.raises(RateLimited):
        gate.withdraw(last, 0.004)


def test_who_has_waited_long_enough_is_decided_by_this_process_s_part() -> None:
    """A store that hangs holds nobody up for longer than `patience`, and refuses nobody."""
    gate = gate_of(WAITS)
    places = [gate.admit(Call("shop"), 0.0) for _ in range(6)]
    got = 0
    for place in places:
        assert isinstance(place, Waiting)
        try:
            got += gate.withdraw(place, place.until) is not None
        except RateLimited:
            continue
    assert (got, gate.by_part, gate.admitted, gate.rejected) == (5, 6, 5, 1)


def test_who_leaves_the_line_early_has_spent_nothing() -> None:
    """A cancelled call is not counted, and its place is passed over."""
    gate = gate_of(WAITS)
    places = [gate.admit(Call("shop"), 0.0) for _ in range(2)]
    assert isinstance(places[0], Waiting)
    assert isinstance(places[1], Waiting)
    assert gate.withdraw(places[0], 0.05) is None
    Store().fetch(gate, 0.06)
    assert not places[0].over
    assert places[1].ticket is not None
    assert (gate.admitted, gate.rejected, gate.by_part) == (1, 0, 0)


def test_without_a_pump_the_part_of_this_process_decides() -> None:
    """Never all, never none: a quarter of a hundred."""
    gate = Quota(RULE, name="api")
    assert gate.lost
    assert sum(admits(gate, 0.0) for _ in range(100)) == 25
    assert gate.by_part == 100
    assert sum(admits(gate, 0.0, "other") for _ in range(100)) == 25


def test_lost_store_is_told_once_and_so_is_a_found_one() -> None:
    """Counted, with what decides meanwhile; not once a call."""
    told: list[Event] = []
    gate = gate_of(RULE, observers=Observers(told.append))
    for at in (1.0, 2.0):
        gate.unreachable(at, error="ConnectionError")
    assert sum(admits(gate, 2.0) for _ in range(100)) == 25
    for at in (3.0, 4.0):
        gate.reached(at)
    assert [(event.kind, event.at) for event in told] == [
        ("quota.found", 0.0),
        ("quota.lost", 1.0),
        ("quota.found", 3.0),
    ]
    assert told[1].facts["error"] == "ConnectionError"
    assert told[1].facts["part"] == pytest.approx(25 / 60)
    assert gate.losses == 1


def test_store_that_comes_back_is_asked_again_for_what_it_never_answered() -> None:
    """An ask that was under way when it was lost must not lock its key out."""
    store, gate = Store(), gate_of(RULE)
    admits(gate, 0.0)
    gate.demand(0.0)
    gate.unreachable(0.5)
    gate.reached(2.0)
    assert admits(gate, 2.0)
    store.fetch(gate, 2.0)
    assert store.trips == 1
    assert sum(admits(gate, 2.1) for _ in range(50)) > 15


def test_those_in_line_are_decided_when_the_store_is_lost() -> None:
    """At once, by this process's part."""
    gate = gate_of(WAITS)
    places = [gate.admit(Call("shop"), 0.0) for _ in range(6)]
    gate.unreachable(0.01)
    assert [place.ticket is not None for place in places if isinstance(place, Waiting)] == [True] * 5 + [False]
    assert gate.by_part == 6


def test_silence_is_taken_for_a_loss() -> None:
    """A pump that died tells nothing: after a second its asks are given up."""
    gate = gate_of(RULE)
    for _ in range(10):
        admits(gate, 0.0)
    assert not admits(gate, 0.5)
    assert sum(admits(gate, 1.5) for _ in range(50)) == 25
    assert gate.by_part == 50


def test_key_in_the_store_has_one_length_and_no_secret_in_it() -> None:
    """An API key of a megabyte is 32 characters there, the same in every process."""
    gate = gate_of(RULE)
    for key in ("", "secret", "x" * 1_000_000):
        admits(gate, 0.0, key)
    asked = [ask.key for ask in gate.demand(0.0)]
    assert [len(key) for key in asked] == [len("api:60:") + 32] * 3
    assert len(set(asked)) == 3
    assert all("secret" not in key for key in asked)


def test_keys_without_room_share_a_quota_and_rotating_frees_nobody() -> None:
    """As a limiter's; a key is forgotten when the window it was used in is over."""
    store, gate = Store(), gate_of(QuotaRule(rate="10/minute", lease=4, keys_max=20))
    while admits(gate, 0.0, "victim") or admits(gate, 0.0, "victim"):
        store.fetch(gate, 0.0)
    for number in range(1000):
        admits(gate, number * 0.01, f"10.0.{number}")
        store.fetch(gate, number * 0.01)
        assert number % 50 or not admits(gate, number * 0.01, "victim")
    assert gate.keys == 20
    assert gate.overflowed > 900
    for number in range(20):
        admits(gate, 100.0, f"later{number}")
    assert gate.keys == 20
    assert gate.overflowed < 1000


def test_costs_are_counted() -> None:
    """As a limiter's; above what a process holds they never fit."""
    store, gate = Store(), gate_of(RULE, cost=lambda call: float(call.method))
    gate.admit(Call("shop", "8"), 0.0)
    store.fetch(gate, 0.0)
    gate.admit(Call("shop", "9.5"), 0.0)
    with pytest.raises(RateLimited, match="holds 10 at most: it will never fit") as refused:
        gate.admit(Call("shop", "11"), 0.0)
    assert refused.value.retry_after is None
    with pytest.raises(RuleError, match="cost"):
        gate.admit(Call("shop", "-1"), 0.0)
    with pytest.raises(RateLimited, match="it will never fit"):  # and nobody waits for it
        gate_of(WAITS, cost=lambda call: 3.0).admit(Call("shop"), 0.0)


def test_new_rate_keeps_what_was_counted() -> None:
    """The store goes on counting: a raise lets in the rest."""
    store, gate = Store(), gate_of(RULE)
    for _ in range(300):
        admits(gate, 0.0)
        store.fetch(gate, 0.0)
    before = gate.admitted
    gate.rule = QuotaRule(rate="200/minute", lease=20, processes=4)
    assert gate.limit == pytest.approx(200 / 60)
    for _ in range(300):
        admits(gate, 60.5)
        store.fetch(gate, 60.5)
    assert 200 <= gate.admitted - before <= 220


def test_standing_is_what_the_store_has_told() -> None:
    """And nothing while it is lost: what others have used is not known then."""
    store, gate = Store(), gate_of(RULE)
    admits(gate, 0.0)
    store.fetch(gate, 0.0)
    ticket = gate.admit(Call("shop"), 0.0)
    assert not isinstance(ticket, Waiting)
    (told,) = gate.standings(ticket, 0.0)
    assert (told.quota, told.window) == (100, 60)
    assert 80 <= told.remaining <= 99
    gate.unreachable(1.0)
    ticket = gate.admit(Call("shop"), 1.0)
    assert not isinstance(ticket, Waiting)
    assert gate.standings(ticket, 1.0) == ()


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"rate": "1/s, 2/m"}, "rate"),
        ({"rate": 0}, "rate"),
        ({"rate": "often"}, "rate"),
        ({"lease": 1}, "lease"),
        ({"lease": 0, "unknown": "wait"}, "lease"),
        ({"processes": 0}, "processes"),
        ({"patience": 0.0}, "patience"),
        ({"unknown": "maybe"}, "unknown"),
        ({"keys_max": 0}, "keys_max"),
    ],
)
def test_rule_that_cannot_be_is_refused(wrong: dict[str, object], field: str) -> None:
    """With what may stand there."""
    with pytest.raises(RuleError, match=field):
        QuotaRule(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("rule", "held", "credit"),
    [
        (QuotaRule(rate="1000/minute"), 50, 50),
        (QuotaRule(rate="1000/minute", processes=10), 5, 5),
        (QuotaRule(rate="3/minute", processes=10), 1, 1),
        (QuotaRule(rate="1000/minute", unknown="wait"), 100, 0),
        (QuotaRule(rate=50.0, lease=7), 4, 3),
        (QuotaRule(rate=50.0, lease=1, unknown="wait"), 1, 0),
    ],
)
def test_lease_is_what_is_held_and_what_is_lent(rule: QuotaRule, held: int, credit: int) -> None:
    """Together they are the overshoot of a process."""
    assert (rule.held, rule.credit) == (held, credit)


def test_threads_and_answers_never_spend_a_call_twice() -> None:
    """Four held, no credit: whatever the order of calls and answers, four get in of what was counted."""

    def scene() -> Scene:
        gate, store = gate_of(QuotaRule(rate="4/minute", lease=4, unknown="wait")), Store()
        places: list[object] = []

        def call() -> None:
            try:
                places.append(gate.admit(Call("shop"), 0.0))
            except RateLimited:
                places.append(None)

        def got() -> Hashable:
            store.fetch(gate, 0.0)
            store.fetch(gate, 0.0)
            answers = [place.ticket if isinstance(place, Waiting) else place for place in places]
            return sum(each is not None for each in answers), gate.admitted, gate.rejected

        def twice() -> None:
            call()
            call()

        return [*[twice] * 3, lambda: store.fetch(gate, 0.0)], got

    assert set(outcomes(scene, watch=[quota, limiter_keys], seeds=range(12))) == {(4, 4, 2)}


def test_many_threads_share_what_is_counted() -> None:
    """The same on real threads, with a store that answers all the while."""
    gate, store = gate_of(QuotaRule(rate="1000/hour", lease=50, processes=1)), Store()
    done = threading.Event()

    def serve() -> None:
        while not done.is_set():
            store.fetch(gate, 0.0)

    got: list[bool] = []
    callers = [threading.Thread(target=lambda: got.extend([admits(gate, 0.0) for _ in range(1500)])) for _ in range(6)]
    server = threading.Thread(target=serve)
    for thread in (server, *callers):
        thread.start()
    for thread in callers:
        thread.join()
    done.set()
    server.join()
    while sum(got) < 1000:  # refused while an answer was under way
        store.fetch(gate, 0.0)
        got.append(admits(gate, 0.0))
    assert 1000 <= sum(got) <= 1050
    assert gate.admitted == sum(got)


class Cluster(RuleBasedStateMachine):
    """Three processes and a store: in no window more than the quota and a lease each, whatever is slow or lost."""

    @initialize(unknown=st.sampled_from(["local", "wait"]), lease=st.integers(2, 6))
    def begin(self, unknown: str, lease: int) -> None:
        """Draw the rule."""
        rule = QuotaRule(rate="12/10s", lease=lease, unknown=unknown, processes=3)  # type: ignore[arg-type]
        self.lease, self.store, self.now = lease, Store(), 0.0
        self.gates = [gate_of(rule) for _ in range(3)]
        self.asks: list[list[quota.Ask]] = [[], [], []]
        self.places: list[list[Waiting[float]]] = [[], [], []]
        self.windows: dict[float, int] = {}

    def window(self) -> float:
        """Name the window that the store is in; before its first count, the one to come."""
        ends = [end for _, end in self.store.counts.values() if end > self.now]
        return ends[0] if ends else -1.0

    def count(self, number: int) -> None:
        """Book calls that got in."""
        if number:
            self.windows[self.window()] = self.windows.get(self.window(), 0) + number

    @rule(who=st.integers(0, 2), calls=st.integers(1, 5))
    def call(self, who: int, calls: int) -> None:
        """A few calls of one process."""
        for _ in range(calls):
            try:
                answer = self.gates[who].admit(Call("shop"), self.now)
            except RateLimited:
                continue
            if isinstance(answer, Waiting):
                self.places[who].append(answer)
            else:
                self.count(1)

    @rule(who=st.integers(0, 2))
    def ask(self, who: int) -> None:
        """The pump takes what is wanted."""
        self.asks[who] += self.gates[who].demand(self.now)

    @rule(who=st.integers(0, 2))
    def answer(self, who: int) -> None:
        """The store answers, some time later."""
        for ask in self.asks[who]:
            self.store.answer(self.gates[who], ask, self.now)
        self.asks[who] = []
        over = [place for place in self.places[who] if place.over]
        self.count(sum(place.ticket is not None for place in over))
        self.places[who] = [place for place in self.places[who] if not place.over]

    @rule()
    def turn(self) -> None:
        """A window ends; answers that were under way have come, for silence is a loss and decided elsewhere."""
        for who in range(3):
            self.ask(who)
            self.answer(who)
        self.now += 10.5
        self.windows.clear()

    @invariant()
    def within_the_stated_overshoot(self) -> None:
        """12, and a lease a process."""
        if hasattr(self, "gates"):
            assert sum(self.windows.values()) <= 12 + 3 * self.lease
            for gate in self.gates:
                assert gate.keys <= 1


TestCluster = Cluster.TestCase
TestCluster.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
