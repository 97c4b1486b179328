"""A function guarded under a name is governed by what the rules say of that name now."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, ParamSpec, TypeVar, cast

from msgov.resilience.decorate import policies as govern
from msgov.resilience.replies import Failed

if TYPE_CHECKING:
    from msgov.service.facade import Service

P = ParamSpec("P")
R = TypeVar("R")


def guarded(
    service: Service, name: str, *, idempotent: bool, failed: Failed | None = None
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Return the decorator that `Service.guarded` gives out; raises `RuleError` for what cannot be governed."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        kept: tuple[object, Callable[P, R] | None] = (None, None)

        def governed() -> Callable[P, R]:
            nonlocal kept
            chain = service.compose.function(name)
            held, made = kept  # one load: another thread may store the next pair meanwhile
            if chain is not held or made is None:
                made = govern(*chain, name=name, idempotent=idempotent, failed=failed, clock=service.clock)(function)
                kept = (chain, made)
            return made

        service.policies.bar("function", name, _whys(function, name, idempotent=idempotent))
        governed()  # what cannot be governed fails here, not at three in the morning
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def awaited(*args: P.args, **kwargs: P.kwargs) -> object:
                return await cast("Awaitable[object]", governed()(*args, **kwargs))

            return cast("Callable[P, R]", awaited)

        @functools.wraps(function)
        def called(*args: P.args, **kwargs: P.kwargs) -> R:
            return governed()(*args, **kwargs)

        return called

    return decorate


def _whys(function: Callable[..., object], name: str, *, idempotent: bool) -> Mapping[str, str]:
    """Say what the rules must leave off, for a change of theirs comes when nobody looks."""
    whys: dict[str, str] = {}
    if not inspect.iscoroutinefunction(function):
        whys["hedge"] = f"false, or a retry: {name} guards a plain function or a generator, which nobody can call off"
    if not idempotent:
        why = f"false, or idempotent=True where {name} is guarded: else each call must be made"
        whys |= {"cache": why, "coalesce": why}
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        why = f"false: {name} guards a generator, and its items, which come once, are its answer"
        whys |= dict.fromkeys(("fallback", "cache", "coalesce"), why)
    return whys
