"""Put policies with a hedge round a function that gives a future: what blocks a thread can be hedged only so."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import ParamSpec, Protocol, TypeVar, cast

from msgov import scope, sync
from msgov._hedging_sync import Pending, hedged
from msgov.call import Call
from msgov.clock import Clock, monotonic
from msgov.errors import RuleError
from msgov.pipeline import Pipeline, Policy
from msgov.policy import Classify, Hedging, classify

P = ParamSpec("P")
R = TypeVar("R")


class Waited(Protocol):
    """What `futures` returns: a decorator that makes of a function that gives a future one that gives its result."""

    def __call__(self, function: Callable[P, Pending[R]], /) -> Callable[P, R]:
        """Govern a function."""
        ...


def futures(
    *chain: Policy,
    name: str | None = None,
    idempotent: bool = True,
    key: Callable[..., str] | None = None,
    classify: Classify = classify,
    clock: Clock = monotonic,
) -> Waited:
    """Govern by policies with a `Hedge` among them a function that begins a call and gives its future.

    The governed function waits for the reply and returns it. A future is one of `concurrent.futures`, of grpc
    (`stub.Method.future`), or anything with `add_done_callback`, `cancel`, `cancelled` and `result`. A loser is
    cancelled; one that its executor has begun already cannot be, runs on, and holds its permits until it ends. A
    deadline ends the wait, and cancels in the same way. What else is given means what it does for `policies`.

    Raises `RuleError` at decoration for a chain without a hedge (then `policies` on a function that waits is enough),
    for layers, and for an async function or a generator.
    """
    pipeline = Pipeline(chain, classify=classify)
    segment = pipeline.flat
    plan = segment.plan
    if not isinstance(plan, Hedging):
        raise RuleError.at(
            "policies", pipeline, "a Hedge among them; without one use @policies on a function that waits"
        )
    outer = Pipeline(segment.outer.steps, classify=classify)

    def govern(function: Callable[..., Pending[object]]) -> Callable[..., object]:
        if inspect.isclass(function) or not callable(function):
            raise RuleError.at("function", function, "a function or method that gives a future")
        if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
            raise RuleError.at(
                "function", function, "a plain function that gives a future; an async one takes @policies"
            )
        if inspect.isgeneratorfunction(function):
            raise RuleError.at("function", function, "a function that gives a future: a generator cannot be hedged")
        target = name or str(getattr(function, "__qualname__", type(function).__name__))

        def begin(call: Call) -> Pending[object]:
            args, kwargs = cast("tuple[tuple[object, ...], dict[str, object]]", call.request)
            return function(*args, **kwargs)

        run = sync.govern(outer, hedged(pipeline, plan, segment.inner, begin, clock=clock), clock=clock)

        @functools.wraps(function)
        def governed(*args: object, **kwargs: object) -> object:
            around = scope.current.get()
            call = Call(
                target,
                request=(args, kwargs),
                deadline=around.deadline,
                idempotent=idempotent,
                key=around.key if key is None else key(*args, **kwargs),
                attempts_left=around.attempts_left,
                criticality=around.criticality,
            )
            call.trace = around.trace
            return run(call)

        return governed

    return cast("Waited", govern)
