"""A limit holds for every key, at any moment, and no key is ever freed by the others."""

from __future__ import annotations

import asyncio
import gc
import itertools
import threading
import tracemalloc
from collections.abc import Callable, Hashable
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from msgov import aio, sync
from msgov.call import Call
from msgov.errors import RateLimited, RuleError
from msgov.event import Event, Observers
from msgov.pipeline import Pipeline
from msgov.resilience import Limiter, LimiterRule, limiter, limiter_algorithms, limiter_keys
from msgov.rule import parse
from msgov.testing import VirtualLoop, outcomes
from tests.resilience.limiting import admits, refusal

Scene = tuple[list[Callable[[], object]], Callable[[], Hashable]]


def test_burst_comes_at_once_and_the_rate_after_it() -> None:
    """Three at once, then one each half second."""
    gate = Limiter(LimiterRule(rate=2.0, burst=3))
    assert [admits(gate, 0.0) for _ in range(5)] == [True, True, True, False, False]
    assert [admits(gate, at) for at in (0.4, 0.5, 0.9, 1.0)] == [False, True, False, True]
    assert (gate.admitted, gate.rejected) == (5, 4)


def test_bucket_fills_up_to_the_burst_and_no_further() -> None:
    """A quiet hour earns no more than the burst."""
    gate = Limiter(LimiterRule(rate=2.0, burst=3))
    assert sum(admits(gate, 3600.0) for _ in range(10)) == 3


@given(rate=st.floats(0.001, 1e4), burst=st.integers(1, 50), at=st.floats(0, 1e6), waited=st.floats(0, 10))
def test_retry_after_is_exact(rate: float, burst: int, at: float, waited: float) -> None:
    """Who comes back then gets in, who comes a fiftieth of a call earlier does not."""
    gate = Limiter(LimiterRule(rate=rate, burst=burst))
    while admits(gate, at):
        pass
    back = at + min(waited / rate, 0.9 / rate)
    wait = refusal(gate, back).retry_after
    assert wait is not None
    assert wait > 0
    early = 0.02 / rate + 1e-6
    if wait > early:
        assert not admits(gate, back + wait - early)
    assert admits(gate, back + wait)


def test_refusal_explains_itself_without_the_key() -> None:
    """The numbers that decided are facts; the key may be a secret or a megabyte."""
    error = refusal(_spent(LimiterRule(rate=2.0, burst=1)), 0.0)
    assert error.facts == {
        "limiter": "", "limit": 2.0, "burst": 1, "quota": 2, "window": 1, "remaining": 0, "reset": 0.5,
    }  # fmt: skip
    assert "2 calls/s" in str(error)
    assert error.retry_after == pytest.approx(0.5)


def _spent(rule: LimiterRule) -> Limiter:
    gate = Limiter(rule)
    while admits(gate, 0.0):
        pass
    return gate


def test_each_key_has_a_bucket_of_its_own() -> None:
    """The empty key is a key like any other."""
    gate = Limiter(LimiterRule(rate=1.0, burst=1))
    assert [admits(gate, 0.0, key) for key in ("", "a", "b", "", "a")] == [True, True, True, False, False]


def test_key_may_be_made_of_the_call() -> None:
    """By method, by tenant, by whatever the call tells."""
    gate = Limiter(LimiterRule(rate=1.0, burst=1), key=lambda call: call.method)
    gate.admit(Call("shop", "buy", key="a"), 0.0)
    with pytest.raises(RateLimited):
        gate.admit(Call("shop", "buy", key="b"), 0.0)
    gate.admit(Call("shop", "look", key="a"), 0.0)


@pytest.mark.parametrize("key", ["x" * 33, "x" * 1_000_000, "\U0001f600" * 40, "\ud800" * 40, "e\u0301" * 20])
def test_hostile_key_limits_only_itself_and_costs_its_digest(key: str) -> None:
    """A megabyte, an emoji, a lone surrogate, a decomposed accent: each is one bucket of its own."""
    gate = Limiter(LimiterRule(rate=1.0, burst=1))
    assert [admits(gate, 0.0, each) for each in (key, key, key + "y", "x")] == [True, False, True, True]
    assert {len(name) for name in gate._keys._hand} <= {33, 1}


def test_key_that_reads_like_the_digest_of_another_is_its_own() -> None:
    """Whoever knows how keys are kept cannot spend what another has."""
    gate = Limiter(LimiterRule(rate=1.0, burst=1))
    assert [admits(gate, 0.0, each) for each in ("x" * 50, limiter_keys.digest("x" * 50), "x" * 50)] == [
        True,
        True,
        False,
    ]


def test_key_is_forgotten_only_when_its_bucket_is_full_again() -> None:
    """Forgetting is lossless: a key without a memory and a key with a full bucket are the same."""
    gate = Limiter(LimiterRule(rate=1.0, burst=2, keys_max=2))
    assert [admits(gate, 0.0, "a"), admits(gate, 0.0, "a"), admits(gate, 0.0, "b")] == [True, True, True]
    assert admits(gate, 1.0, "c")  # b is full again and makes room, a is not
    assert sorted(map(str, gate._keys._hand)) == ["a", "c"]
    assert not admits(gate, 0.9, "a")


def test_rotating_a_million_keys_never_frees_a_limited_one() -> None:
    """The attack on every limiter with an LRU: here it only fills the shared bucket."""
    gate = Limiter(LimiterRule(rate="1/hour", keys_max=100))
    assert admits(gate, 0.0, "victim")
    for number in range(20_000):
        admits(gate, number * 0.001, f"10.0.{number}")
        if number % 100 == 0:
            assert not admits(gate, number * 0.001, "victim")
    assert gate.keys == 100
    assert gate.overflowed > 19_000


def test_keys_without_room_share_one_bucket() -> None:
    """They are limited together, as hard as one key is: never let in freely."""
    gate = Limiter(LimiterRule(rate=1.0, burst=2, keys_max=1))
    assert admits(gate, 0.0, "a")
    assert [admits(gate, 0.0, key) for key in "bcdef"] == [True, True, False, False, False]
    assert (gate.overflowed, gate.keys) == (5, 1)
    assert admits(gate, 1.0, "z")


@pytest.mark.parametrize("key", ["", "x", "*", "*" * 32, "*" * 33])
def test_shared_bucket_is_nobodys_own(key: str) -> None:
    """Those without room cannot use up the bucket of a key that has one, whatever it is called."""
    gate = Limiter(LimiterRule(rate=1.0, burst=2, keys_max=1))
    assert admits(gate, 0.0, key)
    assert [admits(gate, 0.0, each) for each in "abcd"] == [True, True, False, False]
    assert admits(gate, 0.0, key)


def test_memory_follows_the_active_keys() -> None:
    """What is full again is forgotten as new keys come, long before the limit of keys is met."""
    gate = Limiter(LimiterRule(rate=10.0, burst=1))
    for number in range(5_000):
        admits(gate, number * 0.05, str(number))
    assert gate.keys < 50


@pytest.mark.parametrize(
    ("rate", "per_second", "at_once"),
    [
        ("100/minute", 100 / 60, 100),
        ("5/s", 5, 5),
        ("5 / second", 5, 5),
        ("10/seconds", 10, 10),
        ("1000/10 minutes", 1000 / 600, 1000),
        ("0.5/s", 0.5, 1),
        ("3/h", 3 / 3600, 3),
        ("7/day", 7 / 86400, 7),
        ("9/2s", 4.5, 9),
        (2.5, 2.5, 2.5),
        (7, 7, 7),
        (0.25, 0.25, 1),
    ],
)
def test_rate_is_a_number_or_text(rate: float | str, per_second: float, at_once: float) -> None:
    """And the burst is what the rate says, where nobody says it."""
    rule = LimiterRule(rate=rate)
    assert rule.per_second == pytest.approx(per_second)
    assert rule.at_once == at_once


@pytest.mark.parametrize(
    "rate",
    ["", "100", "/s", "100/", "100/fortnight", "-1/s", "0/s", "1/0s", "1e9/s", "٣/s", "9" * 40 + "/s", 0, -1, 1e10],
)
def test_rate_that_cannot_be_is_refused(rate: float | str) -> None:
    """With what may stand there."""
    with pytest.raises(RuleError, match="rate"):
        LimiterRule(rate=rate)


@pytest.mark.parametrize("wrong", [{"burst": 0.5}, {"burst": 1e10}, {"keys_max": 0}])
def test_rule_out_of_range_is_refused(wrong: dict[str, float]) -> None:
    """A burst below one admits nobody, ever."""
    with pytest.raises(RuleError, match=next(iter(wrong))):
        LimiterRule(**wrong)  # type: ignore[arg-type]


def test_rate_in_a_file_stays_as_it_was_written() -> None:
    """What is explained is what was said."""
    assert parse(LimiterRule, {"rate": "100/minute"}).rate == "100/minute"
    assert parse(LimiterRule, {"rate": 5}).per_second == 5


def test_new_rate_keeps_what_was_used() -> None:
    """A reload frees nobody and locks nobody out: debts are counted in calls."""
    gate = Limiter(LimiterRule(rate=1.0, burst=10))
    for _ in range(8):
        assert admits(gate, 0.0)
    gate.rule = LimiterRule(rate=100.0, burst=10)
    assert [admits(gate, 0.0) for _ in range(3)] == [True, True, False]
    gate.rule = LimiterRule(rate=1.0, burst=10)
    assert refusal(gate, 0.0).retry_after == pytest.approx(1.0)
    assert gate.limit == 1.0


def test_new_room_for_keys_is_live() -> None:
    """More of it gives the next key a bucket of its own, less of it forgets nobody."""
    gate = Limiter(LimiterRule(rate="1/hour", keys_max=1))
    assert admits(gate, 0.0, "a")
    gate.rule = LimiterRule(rate="1/hour", keys_max=2)
    assert admits(gate, 0.0, "b")
    gate.rule = LimiterRule(rate="1/hour", keys_max=1)
    assert [admits(gate, 0.0, key) for key in "abcd"] == [False, False, True, False]
    assert (gate.keys, gate.overflowed) == (2, 2)


def test_threads_share_a_limit_exactly() -> None:
    """Between any two lines of the gate another thread may go first."""

    def scene() -> Scene:
        gate = Limiter(LimiterRule(rate=1.0, burst=2))
        got: list[bool] = []
        return [lambda: got.append(admits(gate, 0.0))] * 3, lambda: (sum(got), gate.admitted, gate.rejected)

    assert set(outcomes(scene, watch=[limiter, limiter_keys, limiter_algorithms], seeds=range(12))) == {(2, 2, 1)}


def test_many_threads_get_the_burst_and_no_more() -> None:
    """The same on real threads."""
    gate, got = Limiter(LimiterRule(rate=0.001, burst=1000)), itertools.count()
    threads = [threading.Thread(target=lambda: [next(got) for _ in range(400) if admits(gate, 0.0)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert next(got) == 1000


@pytest.mark.parametrize("algorithm", ["gcra", "sliding_window", "leaky"])
def test_threads_share_any_algorithm_exactly_while_its_rule_changes(algorithm: str) -> None:
    """Whatever the order, and whatever the rule of the moment: never more than the burst."""

    def scene() -> Scene:
        gate = Limiter(LimiterRule(rate="2/hour"))
        got: list[bool] = []
        other = LimiterRule(rate="2/hour", algorithm=algorithm)  # type: ignore[arg-type]
        acts: list[Callable[[], object]] = [lambda: got.append(admits(gate, 1.0))] * 3
        return [*acts, lambda: setattr(gate, "rule", other)], lambda: (sum(got), gate.admitted, gate.keys)

    assert set(outcomes(scene, watch=[limiter, limiter_keys], seeds=range(12))) == {(2, 2, 1)}


def test_call_costs_what_it_is_said_to_cost() -> None:
    """Ten in the bucket: four, five, and not two more."""
    gate = Limiter(LimiterRule(rate="10/minute"), cost=lambda call: float(call.method))
    gate.admit(Call("shop", "4"), 0.0)
    gate.admit(Call("shop", "5"), 0.0)
    with pytest.raises(RateLimited) as refused:
        gate.admit(Call("shop", "2.5"), 0.0)
    assert refused.value.retry_after == pytest.approx(1.5 * 6)
    gate.admit(Call("shop", "1"), 0.0)
    gate.admit(Call("shop", "0"), 0.0)


def test_cost_that_can_never_fit_says_so() -> None:
    """An endless refusal with a `retry_after` would send the caller round for ever; the key is not touched."""
    gate = Limiter(LimiterRule(rate="10/minute"), cost=lambda call: float(call.method))
    with pytest.raises(RateLimited, match="costs 11 and no more than 10 fit at once: it will never fit") as refused:
        gate.admit(Call("shop", "11"), 0.0)
    assert refused.value.retry_after is None
    assert refused.value.facts["cost"] == 11
    assert (gate.rejected, gate.keys) == (1, 0)


@pytest.mark.parametrize("cost", [-1.0, float("nan"), float("inf")])
def test_cost_that_is_none_is_an_error(cost: float) -> None:
    """A negative one would fill the bucket, NaN would pass every comparison."""
    gate = Limiter(LimiterRule(rate="10/minute"), cost=lambda call: cost)
    with pytest.raises(RuleError, match="cost"):
        gate.admit(Call("shop"), 0.0)
    assert gate.keys == 0


def test_shadow_counts_what_it_would_refuse_and_lets_it_in() -> None:
    """What is let in so spends nothing: the count is that of the limiter in earnest. One event a second tells of it."""
    told: list[Event] = []
    gate = Limiter(LimiterRule(rate="2/minute", shadow=True), name="api", observers=Observers(told.append))
    earnest = Limiter(LimiterRule(rate="2/minute"))
    times = [0.0, 0.0, 0.0, 0.1, 0.2, 10.0, 31.0, 31.0]
    assert all(admits(gate, at) for at in times)
    refused = sum(not admits(earnest, at) for at in times)
    assert (gate.admitted, gate.rejected, gate.would_reject) == (8, 0, refused)
    assert [(event.kind, event.name, event.at) for event in told] == [
        ("shadow.limiter", "api", at) for at in (0.0, 10.0, 31.0)
    ]
    assert told[0].facts["retry_after"] == pytest.approx(30.0)
    gate.rule = LimiterRule(rate="2/minute")
    assert not admits(gate, 31.0)


def test_shadow_of_a_leaky_bucket_delays_nobody_and_of_a_cost_refuses_none() -> None:
    """It decides and reports; it changes nothing."""
    gate = Limiter(LimiterRule(rate="2/minute", algorithm="leaky", shadow=True), cost=lambda call: float(call.method))
    assert [type(gate.admit(Call("shop", "1"), 0.0)) for _ in range(3)] == [float] * 3
    gate.admit(Call("shop", "5"), 0.0)
    assert gate.would_reject == 2


def test_leaky_calls_leave_one_by_one_under_asyncio() -> None:
    """The driver waits; a cancelled one leaves the line."""
    gate = Limiter(LimiterRule(rate=2.0, burst=4, algorithm="leaky"))
    left: list[float] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()

        async def handler(call: Call) -> None:
            left.append(loop.time())

        call = aio.govern(Pipeline([gate]), handler, clock=loop.time)
        tasks = [asyncio.ensure_future(call(Call("shop"))) for _ in range(5)]
        await asyncio.sleep(0.1)
        tasks[2].cancel()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(each) for each in done] == [type(None)] * 2 + [asyncio.CancelledError, type(None), RateLimited]

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(main())
    assert left == pytest.approx([0.0, 0.5, 1.5])  # a place that was given up is not given to another


def test_leaky_calls_leave_one_by_one_in_threads() -> None:
    """The same with blocking code, in real time."""
    gate = Limiter(LimiterRule(rate=50.0, burst=3, algorithm="leaky"))
    call = sync.govern(Pipeline([gate]), lambda call: threading.get_ident())
    threads = [threading.Thread(target=call, args=[Call("shop")]) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert gate.admitted == 3


def test_memory_of_keys_is_bounded_by_the_cap() -> None:
    """A fiftieth of 100 000 keys within a fiftieth of 24 MB; ten times as many keys add nothing."""
    gate = Limiter(LimiterRule(rate="1/hour", keys_max=2_000))
    tracemalloc.start()
    try:
        for number in range(2_000):
            admits(gate, 0.0, f"10.{number >> 8}.{number & 255}.7")
        full, _ = tracemalloc.get_traced_memory()
        for number in range(20_000):
            admits(gate, 0.0, f"{number}:far longer than a key that is kept as it is, and not an address")
        rotated, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert full < 24e6 / 50
    assert rotated < full + 20_000
    assert gate.keys == 2_000


@pytest.mark.parametrize("rule", [LimiterRule(rate="1/hour"), LimiterRule(rate="1/hour", algorithm="sliding_window")])
def test_refusal_is_gone_when_it_is_caught(rule: LimiterRule) -> None:
    """A flood of them must not wait for the collector of cycles."""
    gate = Limiter(rule)
    admits(gate, 0.0)
    admits(gate, 0.0)
    gc.collect()
    gc.disable()
    try:
        admits(gate, 0.0)
        assert gc.collect() == 0
    finally:
        gc.enable()


@pytest.mark.parametrize("algorithm", ["sliding_window", "leaky"])
def test_memory_of_the_other_algorithms_is_bounded_alike(algorithm: str) -> None:
    """No algorithm has a book-keeping of its own."""
    gate = Limiter(LimiterRule(rate="1/hour", keys_max=2_000, algorithm=algorithm))  # type: ignore[arg-type]
    tracemalloc.start()
    try:
        for number in range(6_000):
            admits(gate, 0.0, f"10.{number >> 8}.{number & 255}.7")
        full, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert full < 24e6 / 50


class Walk(RuleBasedStateMachine):
    """A limiter of few keys against a bucket of tokens in exact fractions for each key that ever came."""

    @initialize(rate=st.sampled_from([1, 4]), burst=st.integers(1, 4), room=st.integers(1, 3))
    def begin(self, rate: int, burst: int, room: int) -> None:
        """Draw the rule."""
        self.rate, self.burst, self.room = Fraction(rate), Fraction(burst), room
        self.gate = Limiter(LimiterRule(rate=float(rate), burst=float(burst), keys_max=room))
        self.now = Fraction(0)
        self.tokens: dict[str, tuple[Fraction, Fraction]] = {}
        self.shared = (self.burst, self.now)

    def left(self, bucket: tuple[Fraction, Fraction]) -> Fraction:
        """Fill a bucket up to now."""
        return min(self.burst, bucket[0] + (self.now - bucket[1]) * self.rate)

    @rule(quarters=st.integers(0, 12))
    def wait(self, quarters: int) -> None:
        """Let time pass."""
        self.now += Fraction(quarters, 8)

    @rule(key=st.sampled_from("abcdef"))
    def call(self, key: str) -> None:
        """One call of one key; up to four keys are looked at for each new one, so that here every full one goes."""
        if key not in self.tokens:
            self.tokens = {k: b for k, b in self.tokens.items() if self.left(b) < self.burst}
        own = key in self.tokens or len(self.tokens) < self.room
        left = self.left(self.tokens.get(key, (self.burst, self.now)) if own else self.shared)
        assert admits(self.gate, float(self.now), key) == (left >= 1)
        after = (left - 1 if left >= 1 else left, self.now)
        if own:
            self.tokens[key] = after
        else:
            self.shared = after
        assert self.gate.keys == len(self.tokens)


TestWalk = Walk.TestCase
TestWalk.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
