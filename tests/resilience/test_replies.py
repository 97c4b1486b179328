"""A reply that counts as a failure does all that a failure does, and comes back as the reply that it is."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msgov.call import IGNORED, NO, OK, PERMANENT, TRANSIENT, Call, Outcome, Verdict
from msgov.errors import BreakerOpen, CallFailed, Rejected
from msgov.pipeline import Policy
from msgov.policy import Plan
from msgov.resilience import (
    Breaker,
    BreakerRule,
    Cache,
    CacheRule,
    Coalesce,
    Deadline,
    FailedReply,
    Fallback,
    Hedge,
    HedgeRule,
    Retry,
    RetryRule,
    policies,
)
from msgov.testing import After, LoadedDice, ScriptedHandler, run
from tests.drivers.conftest import colour, reported
from tests.drivers.stage import COLOURS, Again, Aio, Colour, Door, Stand, raising
from tests.resilience.replying import BUSY, Asked, Reply, bad, shared

__all__ = ["colour", "reported"]  # fixtures: every test that asks for a colour runs in both

NOUGHT = LoadedDice(0.0, cycle=True)


def test_failed_reply_counts_and_comes_back_as_it_is(colour: Colour) -> None:
    """Polly's handled results: the policies learn, the caller gets the very object."""
    door, reply = Door([], "door"), Reply(503)
    asked = Asked(colour, [door], reply)
    assert asked.got[0] is reply
    assert door.verdicts == [TRANSIENT]


@pytest.mark.parametrize(
    ("says", "learnt"),
    [
        (False, OK),
        (None, OK),
        (OK, OK),
        (Outcome(OK), OK),
        (True, TRANSIENT),
        (TRANSIENT, TRANSIENT),
        (PERMANENT, PERMANENT),
        (IGNORED, IGNORED),
        (Outcome(PERMANENT), PERMANENT),
        (Outcome(IGNORED), IGNORED),
    ],
    ids=str,
)
def test_predicate_may_say_all_that_there_is_to_say(
    says: bool | Verdict | Outcome | None, learnt: Verdict, colour: Colour
) -> None:
    """Record, or ignore, or neither; whatever it is, the reply comes back."""
    door, reply = Door([], "door"), Reply(200)
    asked = Asked(colour, [door], reply, failed=lambda reply: says)
    assert asked.got == [reply]
    assert door.verdicts == [learnt]
    assert (door.outcomes[0].error is None) == (learnt is OK)


def test_outcome_of_the_predicate_is_what_policies_learn(colour: Colour) -> None:
    """Its status, its retry_after, whether it was sent and whether the callee is overloaded."""
    door = Door([], "door")
    told = Outcome(TRANSIENT, status="UNAVAILABLE", retry_after=7.0, sent=NO, overloaded=True)
    Asked(colour, [door], Reply(503), failed=lambda reply: told)
    (learnt,) = door.outcomes
    assert (learnt.status, learnt.retry_after, learnt.sent, learnt.overloaded) == ("UNAVAILABLE", 7.0, NO, True)


def test_outcome_that_is_a_constant_stays_as_it_is(colour: Colour) -> None:
    """One object may judge all replies: it keeps no error, and two calls do not meet in it."""
    door = Door([], "door")
    Asked(colour, [door], Reply(503), Reply(500), failed=shared, times=2)
    assert (BUSY.status, BUSY.error, BUSY.seconds) == ("", None, 0.0)
    assert [outcome.status for outcome in door.outcomes] == ["503", "500"]


def test_failed_replies_open_the_breaker(colour: Colour) -> None:
    """Then it refuses, and that is an error: there is no reply."""
    breaker = Breaker(BreakerRule(consecutive_failures=2, failure_rate=0, wilson_calls=0))
    replies = [Reply(503), Reply(503)]
    asked = Asked(colour, [breaker], *replies, times=3)
    assert asked.got[:2] == replies
    assert isinstance(asked.got[2], BreakerOpen)


@pytest.mark.parametrize(("verdict", "seen"), [(PERMANENT, (1, 0)), (IGNORED, (0, 0)), (TRANSIENT, (0, 1))], ids=str)
def test_breaker_counts_by_verdict(verdict: Verdict, seen: tuple[int, int], colour: Colour) -> None:
    """An answer is a success of the callee; what is ignored is neither."""
    breaker = Breaker()
    Asked(colour, [breaker], Reply(404), failed=lambda reply: verdict)
    assert (breaker.counts["success"], breaker.counts["failure"]) == seen


def test_failed_reply_is_tried_again(colour: Colour) -> None:
    """The caller gets the good one that came in the end."""
    good = Reply(200)
    asked = Asked(colour, [Retry(dice=NOUGHT)], Reply(503), Reply(500), good)
    assert asked.got == [good]
    assert asked.attempts == 3


def test_last_reply_comes_back_when_all_attempts_failed(colour: Colour) -> None:
    """Not the first one, and no exception."""
    replies = [Reply(503), Reply(502), Reply(500)]
    retry = Retry(RetryRule(attempts=3), dice=NOUGHT)
    asked = Asked(colour, [retry], *replies)
    assert asked.got[0] is replies[2]
    assert retry.suppressed["attempts"] == 1


@pytest.mark.parametrize("verdict", [PERMANENT, IGNORED], ids=str)
def test_what_will_not_pass_is_not_tried_again(verdict: Verdict, colour: Colour) -> None:
    """Another attempt would meet the same."""
    asked = Asked(colour, [Retry(dice=NOUGHT)], Reply(404), failed=lambda reply: verdict)
    assert asked.attempts == 1


def test_call_that_may_not_run_twice_is_tried_again_only_if_it_did_not_run(colour: Colour) -> None:
    """A reply proves that it was sent, unless the predicate knows better (a 429 at the door)."""
    assert Asked(colour, [Retry(dice=NOUGHT)], Reply(503), idempotent=False).attempts == 1
    unsent = Outcome(TRANSIENT, sent=NO)
    asked = Asked(
        colour,
        [Retry(dice=NOUGHT)],
        Reply(429),
        Reply(200),
        failed=lambda reply: unsent if reply.status_code == 429 else None,
        idempotent=False,
    )
    assert asked.attempts == 2


def test_plan_hears_the_replys_retry_after(colour: Colour) -> None:
    """It is the callee's own word, wherever in the reply it stood."""
    plan = Again(2, apart=0.0)
    Asked(
        colour,
        [plan],
        Reply(503, wait=9.0),
        Reply(200),
        failed=lambda reply: None if reply.wait is None else Outcome(TRANSIENT, retry_after=reply.wait),
    )
    _, (_, outcome, _) = plan.asked
    assert outcome is not None
    assert outcome.retry_after == 9.0


def test_retry_waits_as_long_as_the_reply_asks() -> None:
    """On virtual time: the wait itself is the driver's, and tested there in both colours."""
    asked = Asked(
        Aio(),
        [Retry(dice=NOUGHT)],
        Reply(503, wait=3.0),
        Reply(200),
        failed=lambda reply: None if reply.wait is None else Outcome(TRANSIENT, retry_after=reply.wait),
    )
    assert asked.attempts == 2
    assert asked.seconds == pytest.approx(3.0)


def test_pushback_ends_it(colour: Colour) -> None:
    """A negative retry_after says "do not retry", and the reply that said so comes back."""
    pushed, retry = Reply(503), Retry(dice=NOUGHT)
    asked = Asked(colour, [retry], pushed, failed=lambda reply: Outcome(TRANSIENT, retry_after=-1.0))
    assert asked.got[0] is pushed
    assert retry.suppressed["pushback"] == 1


def test_fallback_answers_for_it_and_is_shown_the_reply(colour: Colour) -> None:
    """It has all that the caller would have had."""
    reply = Reply(503)
    shown: list[object] = []

    def answer(call: Call, error: BaseException) -> str:
        assert isinstance(error, FailedReply)
        shown.append(error.reply)
        return "from memory"

    fallback = Fallback(answer)
    asked = Asked(colour, [fallback], reply)
    assert asked.got == ["from memory"]
    assert shown == [reply]
    assert fallback.answered == 1


def test_fallback_by_type_knows_it_for_a_failed_call(colour: Colour) -> None:
    """Whoever answers for `CallFailed` answers for this one."""
    assert Asked(colour, [Fallback("later", on=CallFailed)], Reply(503)).got == ["later"]
    passed = Reply(503)
    assert Asked(colour, [Fallback("later", on=ConnectionError)], passed).got == [passed]


def test_fallback_that_raises_it_again_gives_the_reply(colour: Colour) -> None:
    """To decline late is to let the caller have what came."""
    reply = Reply(503)

    def decline(call: Call, error: BaseException) -> object:
        raise error

    assert Asked(colour, [Fallback(decline)], reply).got == [reply]


def test_fallback_that_fails_is_what_the_caller_meets(colour: Colour) -> None:
    """Its own failure came after the reply."""
    worse = ValueError("worse")
    assert Asked(colour, [Stand(raising(worse))], Reply(503)).got == [worse]


def test_predicate_at_fault_is_reported_and_the_reply_is_good(colour: Colour, reported: list[BaseException]) -> None:
    """A caller who has a reply must not lose it to a mistake in judging it."""
    door, reply = Door([], "door"), {"no": "status_code"}
    asked = Asked(colour, [door], reply)
    assert asked.got[0] is reply
    assert door.verdicts == [OK]
    assert [type(error) for error in reported] == [AttributeError]


def test_error_is_no_reply(colour: Colour) -> None:
    """The predicate is not asked, and the error comes as it always did."""
    down = ConnectionError("down")
    asked_of: list[object] = []
    asked = Asked(colour, [Door([], "door")], down, failed=lambda reply: asked_of.append(reply))
    assert asked.got == [down]
    assert asked_of == []


def test_what_came_last_is_what_the_caller_gets(colour: Colour) -> None:
    """A reply after an error, or an error after a reply."""
    reply, down = Reply(503), ConnectionError("down")
    assert Asked(colour, [Again(2, apart=0.0)], down, reply).got == [reply]
    assert Asked(colour, [Again(2, apart=0.0)], reply, down).got == [down]


def test_refusal_of_a_later_attempt_does_not_hide_the_reply(colour: Colour) -> None:
    """As with errors: what the callee said says more than that we did not ask again."""

    class Shut(Door):
        def admit(self, call: Call, now: float) -> int:
            if call.attempt > 1:
                raise Rejected("shut")
            return self.ticket()

    reply = Reply(503)
    asked = Asked(colour, [Again(3, apart=0.0), Shut([], "shut")], reply)
    assert asked.got[0] is reply


def test_judge_of_errors_is_not_asked_about_replies(colour: Colour) -> None:
    """They are judged already; of errors it still has the word."""
    asked_of: list[BaseException] = []

    def judge(call: Call, error: BaseException) -> Outcome:
        asked_of.append(error)
        return Outcome(PERMANENT)

    door, down = Door([], "door"), ConnectionError()
    script = ScriptedHandler(Reply(503), down)
    both = policies(door, failed=bad, classify=judge)
    if isinstance(colour, Aio):
        later = both(script.aio)
        run(later(Call("shop")))
        with pytest.raises(ConnectionError):
            run(later(Call("shop")))
    else:
        now = both(script.sync)
        now(Call("shop"))
        with pytest.raises(ConnectionError):
            now(Call("shop"))
    assert asked_of == [down]
    assert door.verdicts == [TRANSIENT, PERMANENT]


def test_cache_never_keeps_it(colour: Colour) -> None:
    """Not even what is permanent, or ignored: only answers are kept."""
    for verdict in (TRANSIENT, PERMANENT, IGNORED):
        cache = Cache(CacheRule(ttl=60), key=lambda call: "one")
        asked = Asked(colour, [cache], Reply(503), Reply(503), failed=lambda reply, said=verdict: said, times=2)
        assert (asked.attempts, len(cache)) == (2, 0)


def test_cache_answers_for_it_with_what_is_old(colour: Colour) -> None:
    """A callee that answers 503 is down, whatever its client calls that."""
    cache = Cache(CacheRule(ttl=1, stale_if_error=60), key=lambda call: "one")
    good = Reply(200)
    late = After(2.0, Reply(503))
    asked = Asked(colour, [cache], After(2.0, good), late, times=2)
    assert asked.got == [good, good]
    assert asked.attempts == 2


def test_coalesced_tasks_all_get_the_reply() -> None:
    """The one reply, to all who waited for it."""
    reply = Reply(503)

    async def scene() -> None:
        clock = asyncio.get_running_loop().time
        callee = ScriptedHandler(After(1.0, reply))
        ask = policies(Coalesce(key=lambda call: "one"), failed=bad, clock=clock)(callee.aio)
        assert await asyncio.gather(*(ask(Call("shop")) for _ in range(3))) == [reply] * 3

    run(scene())


def test_coalesced_threads_all_get_the_reply() -> None:
    """In blocking code too."""
    both, reply, begun = Coalesce(key=lambda call: "one"), Reply(503), threading.Event()

    @policies(both, failed=bad)
    def ask() -> Reply:
        begun.set()
        end = time.monotonic() + 10
        while not both.joined:
            assert time.monotonic() < end
            time.sleep(0.001)
        return reply

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(ask)
        assert begun.wait(10)
        assert [pool.submit(ask).result(), first.result()] == [reply, reply]
    assert both.led == 1


def hedged() -> Plan:
    """Make a hedge that starts after half a second."""
    return Hedge(HedgeRule(initial=0.5, load=4))


def test_hedge_that_gives_a_failed_reply_has_not_won() -> None:
    """The first attempt is waited for: its good reply is worth more than a bad one that was quicker."""
    good = Reply(200)
    asked = Asked(Aio(), [hedged(), Door([], "door")], After(3.0, good), Reply(503), failed=bad)
    assert asked.got == [good]
    assert asked.attempts == 2


def test_failed_reply_of_the_first_attempt_starts_the_next() -> None:
    """At once, as any failure does."""
    good = Reply(200)
    asked = Asked(Aio(), [hedged()], Reply(503), good)
    assert (asked.got, asked.seconds) == ([good], 0.0)


def test_race_of_failed_replies_gives_the_last() -> None:
    """There is nothing better, so the caller gets what there is."""
    last = Reply(502)
    asked = Asked(Aio(), [Deadline(9), hedged()], After(3.0, last), Reply(503), Reply(500))
    assert asked.got[0] is last


@given(
    statuses=st.lists(st.sampled_from([200, 404, 429, 503]), min_size=4, max_size=4),
    attempts=st.integers(1, 4),
    answered=st.booleans(),
    colour=st.sampled_from(COLOURS),
)
def test_every_ticket_is_settled_once(statuses: list[int], attempts: int, answered: bool, colour: Colour) -> None:
    """Against a small model: the first reply that is not transient ends it, else the last; nothing is owed after."""
    said = {200: None, 404: PERMANENT, 429: IGNORED, 503: TRANSIENT}
    replies = [Reply(status) for status in statuses]
    journal: list[tuple[object, ...]] = []
    outer, inner = Door(journal, "outer"), Door(journal, "inner")
    substitute = [Fallback("instead")] if answered else []
    asked = Asked(
        colour,
        [*substitute, outer, Again(attempts, apart=0.0), inner],
        *replies,
        failed=lambda reply: said[reply.status_code],
    )
    ends = next((at for at, reply in enumerate(replies[:attempts]) if reply.status_code != 503), attempts - 1)
    judged = [said[reply.status_code] or OK for reply in replies[: ends + 1]]
    assert asked.attempts == ends + 1
    assert inner.verdicts == judged
    assert outer.verdicts == judged[-1:]
    assert asked.got == ["instead" if answered and judged[-1] is TRANSIENT else replies[ends]]
    assert sorted(each[1:] for each in journal if each[0] == "in") == sorted(
        each[1:] for each in journal if each[0] == "out"
    )


@pytest.mark.parametrize("chain", [[Retry(dice=NOUGHT)], [Breaker()], [Coalesce(), Retry(dice=NOUGHT)]], ids=repr)
def test_reply_goes_when_the_caller_lets_go(chain: list[Policy], colour: Colour) -> None:
    """No error keeps it, nor the replies before it: a body may be large, and the collector late."""
    alive: list[weakref.ref[Reply]] = []

    def fresh() -> Reply:
        reply = Reply(503)
        alive.append(weakref.ref(reply))
        return reply

    @policies(*chain, failed=bad)
    async def later() -> Reply:
        return fresh()

    @policies(*chain, failed=bad)
    def now() -> Reply:
        return fresh()

    async def scene() -> None:
        assert (await later()).status_code == 503
        await asyncio.sleep(0)  # the callbacks of the work's task

    gc.collect()
    gc.disable()
    try:
        if isinstance(colour, Aio):
            run(scene())
        else:
            assert now().status_code == 503
        assert alive
        assert [ref() for ref in alive] == [None] * len(alive)
    finally:
        gc.enable()
