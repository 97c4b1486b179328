"""Each algorithm lets in what its model does, call for call."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from msgov.call import Call
from msgov.errors import RateLimited, RuleError
from msgov.policy import Waiting
from msgov.resilience import Limiter, LimiterRule
from tests.resilience.limiting import admits, refusal


def spent(rule: LimiterRule, at: float = 0.0) -> Limiter:
    """Make a limiter with nothing left."""
    gate = Limiter(rule)
    while admits(gate, at):
        pass
    return gate


def let_in(gate: Limiter, until: float, *, every: float, since: float = 0.0) -> int:
    """Count what gets in of an even stream."""
    return sum(admits(gate, since + number * every) for number in range(round((until - since) / every)))


def test_token_bucket_decides_as_gcra() -> None:
    """They are one machine: ITU-T I.371 proves it, and a live change between them moves nothing."""
    gcra, bucket = (Limiter(LimiterRule(rate=2.0, burst=3, algorithm=each)) for each in ("gcra", "token_bucket"))
    times = [0.0, 0.0, 0.1, 0.2, 0.2, 0.9, 1.0, 1.0, 5.0, 5.0, 5.0, 5.0]
    assert [admits(gcra, at) for at in times] == [admits(bucket, at) for at in times]
    bucket.rule = LimiterRule(rate=2.0, burst=3, algorithm="gcra")
    assert refusal(bucket, 5.0).retry_after == refusal(gcra, 5.0).retry_after


def test_sliding_window_counts_the_window_before_by_its_share() -> None:
    """Cloudflare's example: 50 a minute, 42 in the minute before, 18 in the 15 s of this one: 42 * 0.75 + 18 = 49.5."""
    gate = Limiter(LimiterRule(rate="50/minute", algorithm="sliding_window"))
    assert sum(admits(gate, 30.0) for _ in range(42)) == 42
    assert sum(admits(gate, 74.9) for _ in range(18)) == 18
    assert not admits(gate, 75.0)  # the 19th would make it 50.5
    assert admits(gate, 76.0)


def test_sliding_window_does_not_let_in_twice_as_many_at_its_edge() -> None:
    """What a fixed window does: all of it just before the edge, all of it again just after."""
    gate = Limiter(LimiterRule(rate="10/minute", algorithm="sliding_window"))
    assert sum(admits(gate, 59.9) for _ in range(20)) == 10
    assert sum(admits(gate, 60.1) for _ in range(20)) == 0


@given(calls=st.integers(1, 30), at=st.floats(0, 1e6), waited=st.floats(0, 100))
def test_retry_after_of_a_sliding_window_is_exact(calls: int, at: float, waited: float) -> None:
    """Who comes back then gets in, a bit earlier does not."""
    gate = spent(LimiterRule(rate=f"{calls}/10s", algorithm="sliding_window"), at)
    if admits(gate, at + waited):
        return
    wait = refusal(gate, at + waited).retry_after
    assert wait is not None
    assert 0 < wait <= 20
    if wait > 0.01:
        assert not admits(gate, at + waited + wait - 0.01)
    assert admits(gate, at + waited + wait)


def test_sliding_window_bears_a_thread_whose_clock_was_read_earlier() -> None:
    """Two threads read the clock and meet the gate in the other order, across the edge of a window."""
    gate = Limiter(LimiterRule(rate=2.0, algorithm="sliding_window"))
    assert [admits(gate, 1.0), admits(gate, 0.999), admits(gate, 0.999)] == [True, True, False]
    assert not admits(gate, 1.9)  # both are of the later window
    assert [admits(gate, 3.0), admits(gate, 3.0), admits(gate, 3.0)] == [True, True, False]


def test_leaky_bucket_lets_out_at_an_even_pace() -> None:
    """A burst of three at 2/s leaves at 0, 0.5 and 1 s; the fourth finds no place. nginx: `limit_req burst=2`."""
    gate = Limiter(LimiterRule(rate=2.0, burst=3, algorithm="leaky"))
    answers = [gate.admit(Call("shop"), 0.0) for _ in range(3)]
    assert not isinstance(answers[0], Waiting)
    assert [each.until for each in answers if isinstance(each, Waiting)] == [0.5, 1.0]
    assert refusal(gate, 0.0).retry_after == pytest.approx(0.5)


def test_place_in_a_leaky_line_is_handed_over_when_its_turn_comes() -> None:
    """Not before: who leaves the line early gets no ticket, and a timer may ring a moment too soon."""
    gate = Limiter(LimiterRule(rate=2.0, burst=3, algorithm="leaky"))
    gate.admit(Call("shop"), 0.0)
    place = gate.admit(Call("shop"), 0.0)
    assert isinstance(place, Waiting)
    assert gate.withdraw(place, 0.49) is None
    assert gate.withdraw(place, 0.4995) is not None
    assert gate.withdraw(place, 0.5) is not None


def test_leaky_line_does_not_take_who_cannot_wait_that_long() -> None:
    """A turn after the deadline helps nobody; `retry_after` is when the line is short enough."""
    gate = Limiter(LimiterRule(rate=1.0, burst=10, algorithm="leaky"))
    for _ in range(3):
        gate.admit(Call("shop"), 0.0)
    with pytest.raises(RateLimited) as refused:
        gate.admit(Call("shop", deadline=2.5), 0.0)
    assert refused.value.retry_after == pytest.approx(0.5)
    assert isinstance(gate.admit(Call("shop", deadline=3.0), 0.0), Waiting)
    gate.admit(Call("shop", key="new", deadline=-1.0), 0.0)  # no line before it: what its deadline says is not asked
    assert admits(gate, 0.0, "another")


def test_warm_up_of_guava_and_sentinel() -> None:
    """10/s, 10 s, coldFactor 3: 50 calls take the first 10 s, from 3.3/s to 10/s, and then it is 10/s."""
    gate = Limiter(LimiterRule(rate=10.0, burst=1, warm_up=10.0))
    assert let_in(gate, 0.9, every=0.001) == 4  # at 0, and a third of the rate: one each 0.3 s
    assert let_in(gate, 10.0, every=0.001, since=0.9) == pytest.approx(46, abs=1)
    assert let_in(gate, 20.0, every=0.001, since=10.0) == pytest.approx(100, abs=2)


def test_warm_key_grows_cold_while_it_is_idle() -> None:
    """As long as it took: Guava's cool-down. A short pause costs nothing, a long one all of the warmth."""
    gate = Limiter(LimiterRule(rate=10.0, burst=1, warm_up=10.0))
    let_in(gate, 15.0, every=0.001)
    assert let_in(gate, 17.0, every=0.001, since=16.0) == pytest.approx(10, abs=1)
    assert let_in(gate, 31.0, every=0.001, since=30.0) == pytest.approx(4, abs=1)


def test_key_grows_no_colder_than_cold() -> None:
    """After an hour it is as a key that never came: forgetting it then loses nothing."""
    idle, new = (Limiter(LimiterRule(rate=10.0, burst=1, warm_up=10.0)) for _ in range(2))
    let_in(idle, 5.0, every=0.01)
    assert let_in(idle, 3610.0, every=0.01, since=3600.0) == let_in(new, 3610.0, every=0.01, since=3600.0)


@given(
    rule=st.sampled_from(
        [
            LimiterRule(rate="3/7s", algorithm="leaky"),
            LimiterRule(rate="3/7s, 10/hour"),
            LimiterRule(rate="3/7s", warm_up=30.0),
        ]
    ),
    at=st.floats(0, 1e6),
    waited=st.floats(0, 1),
)
def test_who_comes_back_when_told_gets_in_whatever_the_algorithm(rule: LimiterRule, at: float, waited: float) -> None:
    """Floats round, and a promise is one all the same."""
    gate = spent(rule, at)
    wait = refusal(gate, at + waited).retry_after
    assert wait is not None
    assert wait > 0
    assert not admits(gate, at + waited + wait - 0.01)
    assert admits(gate, at + waited + wait)


def test_cold_burst_is_a_third() -> None:
    """What a cold cache cannot do at once is what warming is for."""
    gate = Limiter(LimiterRule(rate=10.0, burst=30, warm_up=60.0))
    assert let_in(gate, 1e-3, every=1e-5) == pytest.approx(10, abs=1)


def test_cold_key_is_let_in_whatever_the_cost() -> None:
    """A call as large as the burst would never fit at three times its price; the others wait for it instead."""
    gate = Limiter(LimiterRule(rate=10.0, burst=10, warm_up=10.0), cost=lambda call: 10.0)
    assert admits(gate, 0.0)
    wait = refusal(gate, 0.0).retry_after
    assert wait is not None
    assert wait == pytest.approx(2.8, abs=0.1)  # ten calls at almost three times their time
    assert admits(gate, wait)


def test_key_that_is_warm_is_not_forgotten() -> None:
    """Forgetting it would make it cold: it is remembered until it is."""
    gate = Limiter(LimiterRule(rate=10.0, burst=1, warm_up=10.0, keys_max=1))
    let_in(gate, 10.0, every=0.05)
    assert not admits(gate, 10.0, "other") or gate.overflowed == 1
    admits(gate, 30.0, "third")
    assert gate.overflowed == 1


def test_several_limits_all_hold() -> None:
    """Ten a second and thirty a minute: the second lets in ten at once, the minute ends it at thirty."""
    gate = Limiter(LimiterRule(rate="10/second, 30/minute"))
    assert [let_in(gate, at + 0.5, every=0.01, since=at) for at in (0.0, 10.0, 20.0)] == [14, 14, 12]
    assert gate.limit == 0.5
    error = refusal(gate, 20.5)
    assert (error.facts["quota"], error.facts["window"]) == (30, 60)


def test_refusal_tells_of_the_limit_that_refused() -> None:
    """The second is spent, the hour is not: whoever reads "98 left" next to a refusal would doubt both."""
    gate = Limiter(LimiterRule(rate="2/second, 100/hour"))
    for _ in range(2):
        assert admits(gate, 0.0)
    error = refusal(gate, 0.0)
    assert [error.facts[each] for each in ("quota", "window", "remaining")] == [2, 1, 0]


def test_call_that_one_limit_refuses_spends_nothing_of_the_other() -> None:
    """A flood against the second must not use up the minute."""
    gate = Limiter(LimiterRule(rate="2/second, 10/hour"))
    assert sum(admits(gate, 0.0) for _ in range(1000)) == 2
    assert sum(admits(gate, at) for at in (1.0, 1.0, 2.0, 2.0, 3.0, 3.0, 4.0, 4.0, 5.0)) == 8


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"rate": "1/s, 2/m, 3/h, 4/d, 5/d"}, "rate"),
        ({"rate": "1/s,"}, "rate"),
        ({"rate": "1/s, 0/m"}, "rate"),
        ({"rate": "1/s, 2/m", "burst": 5}, "burst"),
        ({"rate": "5/s", "burst": 5, "algorithm": "sliding_window"}, "burst"),
        ({"warm_up": 5.0, "algorithm": "sliding_window"}, "warm_up"),
        ({"warm_up": -1.0}, "warm_up"),
        ({"algorithm": "fixed"}, "algorithm"),
    ],
)
def test_rule_that_contradicts_itself_is_refused(wrong: dict[str, object], field: str) -> None:
    """With what may stand there."""
    with pytest.raises(RuleError, match=field):
        LimiterRule(**wrong)  # type: ignore[arg-type]


ALL = ("gcra", "token_bucket", "leaky", "sliding_window")


@pytest.mark.parametrize("before", ALL)
@pytest.mark.parametrize("after", [*ALL, "several", "warm"])
def test_another_algorithm_keeps_what_was_used(before: str, after: str) -> None:
    """A change frees nobody and locks nobody out: five of ten are used, five are left."""
    gate = Limiter(LimiterRule(rate="10/minute", algorithm=before))  # type: ignore[arg-type]
    assert sum(admits(gate, 0.0) for _ in range(5)) == 5
    changes: dict[str, dict[str, object]] = {
        "several": {"rate": "10/minute, 1000/hour"},
        "warm": {"rate": "10/minute", "warm_up": 60.0},
    }
    gate.rule = LimiterRule(**changes.get(after, {"rate": "10/minute", "algorithm": after}))  # type: ignore[arg-type]
    assert sum(admits(gate, 0.0) for _ in range(20)) == 5
    assert sum(admits(gate, 0.0, "new") for _ in range(20)) in ((10,) if after != "warm" else (3, 4, 5, 6))


def test_keys_are_taken_over_when_they_are_met_and_lose_nothing_till_then() -> None:
    """A change under a hundred thousand keys is one store; two changes in a row carry what is used as well."""
    gate = Limiter(LimiterRule(rate="10/hour"))
    for key in "abc":
        assert sum(admits(gate, 0.0, key) for _ in range(8)) == 8
    gate.rule = LimiterRule(rate="10/hour", algorithm="sliding_window")
    assert sum(admits(gate, 0.0, "a") for _ in range(9)) == 2
    gate.rule = LimiterRule(rate="20/hour")
    assert gate.keys == 3
    assert sum(admits(gate, 0.0, "b") for _ in range(20)) == 12
    assert sum(admits(gate, 0.0, "c") for _ in range(20)) == 12
    assert sum(admits(gate, 0.0, "a") for _ in range(20)) == 10


def test_what_is_used_of_the_longest_limit_is_carried() -> None:
    """The second has long forgotten what the hour remembers."""
    gate = Limiter(LimiterRule(rate="10/second, 10/hour"))
    assert sum(admits(gate, 0.0) for _ in range(5)) == 5
    admits(gate, 2.0, "other")
    gate.rule = LimiterRule(rate="10/hour")
    assert sum(admits(gate, 2.0) for _ in range(20)) == 5


def test_change_of_anything_but_the_arithmetic_touches_no_key() -> None:
    """More room, or shadow: the buckets stay the same objects."""
    gate = spent(LimiterRule(rate="10/hour"))
    states = gate._keys.states
    gate.rule = LimiterRule(rate="10/hour", keys_max=5, shadow=True)
    assert gate._keys.states is states


@pytest.mark.parametrize("algorithm", ALL)
def test_rotating_keys_never_free_a_limited_one_whatever_the_algorithm(algorithm: str) -> None:
    """The book-keeping is one for all."""
    gate = Limiter(LimiterRule(rate="2/hour", keys_max=50, algorithm=algorithm))  # type: ignore[arg-type]
    while admits(gate, 0.0, "victim"):
        pass
    for number in range(2_000):
        admits(gate, number * 0.001, f"10.0.{number}")
        assert number % 50 or not admits(gate, number * 0.001, "victim")
    assert gate.keys == 50


class Model:
    """What one key may do, in exact fractions."""

    def __init__(self, calls: int, seconds: int) -> None:
        self.calls, self.seconds = calls, seconds

    def fits(self, now: Fraction, cost: Fraction) -> bool:
        """Say whether the call gets in; count it if it does."""
        raise NotImplementedError


class Tokens(Model):
    """A bucket of tokens, filled steadily."""

    def __init__(self, calls: int, seconds: int) -> None:
        super().__init__(calls, seconds)
        self.tokens, self.at = Fraction(calls), Fraction(0)

    def fits(self, now: Fraction, cost: Fraction) -> bool:
        """Fill up to now, then take."""
        self.tokens = min(Fraction(self.calls), self.tokens + (now - self.at) * self.calls / self.seconds)
        self.at = now
        if self.tokens < cost:
            return False
        self.tokens -= cost
        return True


class Log(Model):
    """All calls ever, counted by window."""

    def __init__(self, calls: int, seconds: int) -> None:
        super().__init__(calls, seconds)
        self.log: list[tuple[Fraction, Fraction]] = []

    def fits(self, now: Fraction, cost: Fraction) -> bool:
        """Count this window, and the share of the one before that is still inside."""
        at = now // self.seconds
        into = now / self.seconds - at
        here = sum(c for when, c in self.log if when // self.seconds == at)
        before = sum(c for when, c in self.log if when // self.seconds == at - 1)
        if before * (1 - into) + here + cost > self.calls:
            return False
        self.log.append((now, cost))
        return True


class Line(Tokens):
    """A bucket whose calls leave one step apart."""

    free = Fraction(0)

    def turn(self, now: Fraction, cost: Fraction) -> Fraction:
        """Say when a call that fits leaves."""
        start = max(now, self.free)
        self.free = start + cost * self.seconds / self.calls
        return start


class Walk(RuleBasedStateMachine):
    """A limiter beside its model: the same calls get in, at the same times, and none comes back too early."""

    algorithm = "gcra"
    model: type[Model] = Tokens

    @initialize(calls=st.integers(1, 5), seconds=st.sampled_from([1, 2, 4]))
    def begin(self, calls: int, seconds: int) -> None:
        """Draw the rule."""
        self.calls, self.seconds = calls, seconds
        rule = LimiterRule(rate=f"{calls}/{seconds}s", algorithm=self.algorithm)  # type: ignore[arg-type]
        self.cost = Fraction(1)
        self.gate = Limiter(rule, cost=lambda call: float(self.cost))
        self.models: dict[str, Model] = {}
        self.now = Fraction(0)

    @rule(eighths=st.integers(0, 40))
    def wait(self, eighths: int) -> None:
        """Let time pass."""
        self.now += Fraction(eighths, 8)

    @rule(key=st.sampled_from("ab"), halves=st.integers(0, 6))
    def call(self, key: str, halves: int) -> None:
        """One call, of nothing, of a half, of more than one."""
        self.cost = cost = min(Fraction(halves, 2), Fraction(self.calls))
        model = self.models.setdefault(key, self.model(self.calls, self.seconds))
        fits = model.fits(self.now, cost)
        try:
            answer = self.gate.admit(Call("shop", key=key), float(self.now))
        except RateLimited as refused:
            assert not fits
            assert refused.retry_after is not None
            assert 0 < refused.retry_after <= 2 * self.seconds + 1e-6
        else:
            assert fits
            turn = model.turn(self.now, cost) if isinstance(model, Line) else self.now
            told = answer.until if isinstance(answer, Waiting) else float(self.now)
            assert told == pytest.approx(float(turn))

    @invariant()
    def bounded(self) -> None:
        """No key without a call."""
        if hasattr(self, "gate"):
            assert self.gate.keys <= len(self.models)


class WalkTokens(Walk):
    """By its other name."""

    algorithm = "token_bucket"


class WalkLeaky(Walk):
    """With turns."""

    algorithm, model = "leaky", Line


class WalkWindow(Walk):
    """With a log."""

    algorithm, model = "sliding_window", Log


TestGcra = Walk.TestCase
TestTokens = WalkTokens.TestCase
TestLeaky = WalkLeaky.TestCase
TestWindow = WalkWindow.TestCase
for _case in (TestGcra, TestTokens, TestLeaky, TestWindow):
    _case.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
