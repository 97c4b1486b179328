"""Answer in the callee's place, so that a part that is down does not take the whole with it."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable
from typing import TypeAlias

from msgov.call import TRANSIENT, Call, Outcome, Verdict
from msgov.errors import Rejected, RuleError
from msgov.policy import Answer, Substitute

On: TypeAlias = "type[Exception] | Verdict"


class Fallback(Substitute):
    """Answer with a value, or with what a function of the call and its error returns (plain or async).

    `on` says for which failures, by error type, by verdict, or both: one of them, or a tuple. By default for those
    that say "not now": TRANSIENT ones and our own rejections. A PERMANENT failure is the callee's answer and passes,
    and so does a cancellation, always. Several fallbacks in a row make a chain: the innermost that wants an error
    answers it, and when its answer fails too, the next one is asked.

    A value is given out as it is, the same object each time. Counter: `answered`. Raises `RuleError` when `answer` is a
    function of something else, or `on` names what is no Exception.
    """

    def __init__(
        self, answer: object, *, on: On | tuple[On, ...] = (TRANSIENT, Rejected), name: str = "", target: str = ""
    ) -> None:
        chosen = on if isinstance(on, tuple) else (on,)
        self.name = name
        self.target = target
        self.answered = 0
        self._answer = _answering(answer)
        self._verdicts = frozenset(each for each in chosen if isinstance(each, Verdict))
        self._kinds = tuple(each for each in chosen if not isinstance(each, Verdict))
        self._lock = threading.Lock()
        for kind in self._kinds:
            if not (isinstance(kind, type) and issubclass(kind, Exception)):
                raise RuleError.at("on", kind, "a subclass of Exception or a Verdict: a cancellation is never answered")

    @property
    def waits(self) -> bool:
        """Whether the answer is a coroutine function, which only the asyncio driver can run."""
        return inspect.iscoroutinefunction(self._answer)

    def instead(self, call: Call, outcome: Outcome, now: float) -> Answer | None:
        """Choose: the answer for a failure that is ours to answer, None for one that passes."""
        error = outcome.error
        if not isinstance(error, Exception):
            return None
        if outcome.verdict not in self._verdicts and not isinstance(error, self._kinds):
            return None
        with self._lock:
            self.answered += 1
        return self._answer


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
