"""Put policies round any function: async or plain, generator of either colour."""

from __future__ import annotations

import functools
import inspect
from collections.abc import (
    AsyncGenerator,
    Callable,
    Coroutine,
    Generator,
    Mapping,
)
from typing import Any, ParamSpec, Protocol, TypeAlias, TypeVar, cast, overload

from msgov import aio, sync
from msgov._straight import Entry
from msgov.call import Call
from msgov.clock import Clock, monotonic
from msgov.errors import RuleError
from msgov.pipeline import Pipeline, Policy
from msgov.policy import Around, Classify, Substitute, classify
from msgov.resilience import replies
from msgov.resilience.cache import Cache
from msgov.resilience.coalesce import Coalesce
from msgov.resilience.fallback import Fallback

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


class Governed(Protocol):
    """What `policies` returns: a decorator that keeps the function's signature."""

    @overload
    def __call__(
        self, function: Callable[P, Coroutine[object, object, R]], /
    ) -> Callable[P, Coroutine[object, object, R]]: ...
    @overload
    def __call__(self, function: Callable[P, AsyncGenerator[T, None]], /) -> Callable[P, aio.Stream[T]]: ...
    @overload
    def __call__(self, function: Callable[P, Generator[T, None, None]], /) -> Callable[P, sync.Stream[T]]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> Callable[P, R]: ...


def policies(
    *chain: Policy,
    name: str | None = None,
    idempotent: bool = True,
    key: Callable[..., str] | None = None,
    classify: Classify = classify,
    failed: replies.Failed | None = None,
    clock: Clock = monotonic,
) -> Governed:
    """Govern a function by policies, first outermost.

    Works on async functions, plain functions, async generators and generators; a generator holds what it was admitted
    by until it ends, breaks or is closed, and is retried only before its first item. The call that policies see has
    `request = (args, kwargs)`, the deadline, allowance, criticality and key of the scope it is made in, and:

    - `name`: its target, by default the function's own qualified name;
    - `idempotent`: whether trying again does no harm. True, since a retry in `chain` says that it may be tried again;
    - `key`: a function of the same arguments, for keyed limits; by default the scope's key;
    - `classify`: the judge of its errors;
    - `failed`: the judge of its replies. It says of a reply that it is good (False, None), that it is a failure which
      may pass (True), or what else it is: a `Verdict`, or an `Outcome` with the status and the `retry_after` of the
      reply. A failure counts, is tried again and may be answered for as an error would be, inside as a `FailedReply`;
      when nothing more is done about it, the caller gets the reply itself. One that raises is reported, and the reply
      counts as good.

    A deadline stops an async function. A plain one cannot be stopped: there it bounds waits and attempts, and what is
    called inside inherits it.

    Raises `RuleError` at decoration for what could only fail later: a class, a descriptor (put `@policies` beneath
    `@staticmethod` or `@classmethod`), a fallback, cache or coalescing on a generator, these two on a function that is
    not idempotent, an async answer on a plain function, two retries, a `failed` on a generator or of no single reply.
    """
    if failed is not None:
        replies.check(failed)
        classify = replies.judged_by(classify)
    pipeline = Pipeline(chain, classify=classify)

    def govern(function: Callable[..., object]) -> Callable[..., object]:
        colour = _colour(function)
        _check(pipeline, colour, idempotent, failed)
        target = name or str(getattr(function, "__qualname__", type(function).__name__))

        if not pipeline.policies and not colour.endswith("generator"):
            return function  # nothing governs it, and that costs nothing
        awaits, inner = colour == "an async function", function
        if failed is not None:
            inner = replies.judging(function, failed, target, awaits=awaits)
        governed = _COLOURS[colour](pipeline, inner, Entry(inner, target, idempotent, key), clock)
        if failed is not None:
            governed = replies.giving_back(governed, awaits=awaits)
        return functools.wraps(function)(governed)

    return cast("Governed", govern)


_Function: TypeAlias = Callable[..., Any]  # of any colour: `_colour` has looked
_Arguments: TypeAlias = tuple[tuple[object, ...], dict[str, object]]


def _coroutine(pipeline: Pipeline, function: _Function, entry: Entry, clock: Clock) -> _Function:
    async def handler(call: Call) -> object:
        given: _Arguments = call.request  # type: ignore[assignment]  # made by `call` above
        return await function(*given[0], **given[1])

    return aio.entered(pipeline, handler, entry, clock=clock)


def _plain(pipeline: Pipeline, function: _Function, entry: Entry, clock: Clock) -> _Function:
    return sync.entered(pipeline, functools.partial(_apply, function), entry, clock=clock)


def _async_generator(pipeline: Pipeline, function: _Function, entry: Entry, clock: Clock) -> _Function:
    opened = aio.stream(pipeline, functools.partial(_apply, function), clock=clock)

    def governed(*args: object, **kwargs: object) -> object:
        return opened(entry.call(args, kwargs))

    return governed


def _generator(pipeline: Pipeline, function: _Function, entry: Entry, clock: Clock) -> _Function:
    opened = sync.stream(pipeline, functools.partial(_apply, function), clock=clock)

    def governed(*args: object, **kwargs: object) -> object:
        return opened(entry.call(args, kwargs))

    return governed


def _apply(function: _Function, call: Call) -> Any:
    given: _Arguments = call.request  # type: ignore[assignment]  # made by `call` above
    return function(*given[0], **given[1])


_COLOURS: Mapping[str, Callable[[Pipeline, _Function, Entry, Clock], _Function]] = {
    "an async function": _coroutine,
    "a plain function": _plain,
    "an async generator": _async_generator,
    "a generator": _generator,
}


def _colour(function: object) -> str:
    if isinstance(function, staticmethod | classmethod | property):
        raise RuleError.at("function", function, f"a function: put @policies beneath @{type(function).__name__}")
    if inspect.isclass(function):
        raise RuleError.at(
            "function", function, "a function or method, not a class: decorate the methods that call out"
        )
    if not callable(function):
        raise RuleError.at("function", function, "a function: write @policies(...) with its parentheses")
    for each in (function, getattr(function, "__call__", None)):  # noqa: B004  an object may be called asynchronously
        if inspect.isasyncgenfunction(each):
            return "an async generator"
        if inspect.iscoroutinefunction(each):
            return "an async function"
        if inspect.isgeneratorfunction(each):
            return "a generator"
    return "a plain function"


def _check(pipeline: Pipeline, colour: str, idempotent: bool, failed: replies.Failed | None) -> None:
    """Refuse what could only fail later."""
    if failed is not None and colour.endswith("generator"):
        raise RuleError.at("failed", failed, f"nothing that judges the reply of {colour}: its items are its reply")
    for at, policy in enumerate(pipeline.policies):
        where = f"policies[{at}]"
        if colour.endswith("generator"):
            if isinstance(policy, Substitute):
                raise RuleError.at(where, policy, f"nothing that answers for {colour}: its items are its answer")
            if isinstance(policy, Around):
                raise RuleError.at(where, policy, f"nothing that shares the reply of {colour}: its items come once")
        if colour == "a plain function" and isinstance(policy, Fallback) and policy.waits:
            raise RuleError.at(where, policy, "a plain answer: a plain function cannot await")
        if not idempotent and isinstance(policy, Cache | Coalesce):
            raise RuleError.at(
                where, policy, "nothing that spares a call: idempotent=False says that each must be made"
            )
