"""Answer in the callee's place, so that a part that is down does not take the whole with it."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import TypeAlias

from msgov.call import TRANSIENT, Call, Outcome, Verdict
from msgov.errors import Rejected, RuleError
from msgov.event import Observers
from msgov.policy import Answer, Substitute

On: TypeAlias = "type[Exception] | Verdict"


class Fallback(Substitute):
    """Answer with a value, or with what a function of the call and its error returns (plain or async).

    `on` says for which failures, by error type, by verdict, or both: one of them, or a tuple. By default for those
    that say "not now": TRANSIENT ones and our own rejections. A PERMANENT failure is the callee's answer and passes,
    and so does a cancellation, always. Several fallbacks in a row make a chain: the innermost that wants an error
    answers it, and when its answer fails too, the next one is asked about that failure; `chain` writes one down in the
    order in which they are asked.

    A value is given out as it is, the same object each time. A reply from here is degraded: each is told to the
    observers as `fallback.answered`, or `fallback.failed` where the answer failed too, with the error it answers.
    Counters: `answered` and `failed`. Raises `RuleError` when `answer` is a function of something else, or `on` names
    what is no Exception.
    """

    def __init__(
        self,
        answer: object,
        *,
        on: On | tuple[On, ...] = (TRANSIENT, Rejected),
        name: str = "",
        target: str = "",
        observers: Observers | None = None,
    ) -> None:
        chosen = on if isinstance(on, tuple) else (on,)
        self.name = name
        self.target = target
        self.observers = observers or Observers()
        self.answered = 0
        self.failed = 0
        self._answer = _answering(answer)
        self._verdicts = frozenset(each for each in chosen if isinstance(each, Verdict))
        self._kinds = tuple(each for each in chosen if not isinstance(each, Verdict))
        self._lock = threading.Lock()
        for kind in self._kinds:
            if not (isinstance(kind, type) and issubclass(kind, Exception)):
                raise RuleError.at("on", kind, "a subclass of Exception or a Verdict: a cancellation is never answered")

    @classmethod
    def chain(
        cls,
        rungs: Mapping[On | tuple[On, ...], object],
        *,
        name: str = "fallback",
        target: str = "",
        observers: Observers | None = None,
    ) -> tuple[Fallback, ...]:
        """Return a row of fallbacks for a pipeline, from what each is for and its answer, first asked first.

        `policies(*Fallback.chain({BreakerOpen: from_copy, (TRANSIENT, Rejected): "later"}), ...)`. A rung is called
        after what it is for ("fallback.BreakerOpen"), so that each has its own counters. Raises `RuleError` when there
        is no rung, or one is not right.
        """
        if not rungs:
            raise RuleError.at("rungs", rungs, "at least one answer")
        made = [
            cls(answer, on=on, name=f"{name}.{_called(on)}", target=target, observers=observers)
            for on, answer in rungs.items()
        ]
        return tuple(reversed(made))  # a pipeline's innermost is asked first

    @property
    def waits(self) -> bool:
        """Whether the answer is a coroutine function, which only the asyncio driver can run."""
        return any(map(inspect.iscoroutinefunction, (self._answer, getattr(self._answer, "__call__", None))))  # noqa: B004

    def instead(self, call: Call, outcome: Outcome, now: float) -> Answer | None:
        """Choose: the answer for a failure that is ours to answer, None for one that passes."""
        error = outcome.error
        if not isinstance(error, Exception):
            return None
        if outcome.verdict not in self._verdicts and not isinstance(error, self._kinds):
            return None
        return partial(self._give, outcome.status, now)

    def _give(self, status: str, now: float, call: Call, error: BaseException) -> object:
        """Run the answer, and count what became of it."""
        facts = (call.target, type(error).__name__, status, now)
        try:
            reply = self._answer(call, error)
        except BaseException:
            self._count(*facts, well=False)
            raise
        if inspect.isawaitable(reply):
            return self._given(reply, facts)
        self._count(*facts, well=True)
        return reply

    async def _given(self, reply: Awaitable[object], facts: tuple[str, str, str, float]) -> object:
        try:
            got = await reply
        except BaseException:
            self._count(*facts, well=False)
            raise
        self._count(*facts, well=True)
        return got

    def _count(self, target: str, error: str, status: str, now: float, *, well: bool) -> None:
        with self._lock:
            if well:
                self.answered += 1
            else:
                self.failed += 1
        kind = "fallback.answered" if well else "fallback.failed"
        self.observers.tell(kind, self.name, self.target or target, now, error=error, status=status)


def _answering(answer: object) -> Answer:
    if not callable(answer):
        return lambda call, error: answer
    function: Callable[..., object] = answer
    try:
        inspect.signature(function).bind(None, None)
    except TypeError:
        raise RuleError.at("answer", answer, "a value, or a function of two things: the call and its error") from None
    except ValueError:
        pass  # a builtin that tells no signature
    return function


def _called(on: On | tuple[On, ...]) -> str:
    each = on if isinstance(on, tuple) else (on,)
    return "+".join(one.value if isinstance(one, Verdict) else getattr(one, "__name__", str(one)) for one in each)
