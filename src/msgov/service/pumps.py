"""What gates must be told from outside they are told while their service runs: its load, its part of a quota."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Executor
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import TYPE_CHECKING, cast

from msgov.clock import Clock
from msgov.config.policies import Policies
from msgov.resilience.load import Load, Senses
from msgov.resilience.quota import Quota

if TYPE_CHECKING:
    from msgov.resilience.quota_redis import QuotaPump

_log = logging.getLogger("msgov.quota")


class Fed:
    """The gates that a pump feeds, sorted anew only when one has come or gone."""

    def __init__(self, policies: Policies, quotas: QuotaPump | None) -> None:
        self._policies = policies
        self._quotas = quotas
        self._senses: tuple[Senses, ...] = ()
        self._warned = False

    def __iter__(self) -> Iterator[Senses]:
        """Go through what can be told the load."""
        return iter(self._senses)

    def sort(self) -> None:
        """Look who is there."""
        state = self._policies.state
        self._senses = tuple(cast("Senses", each) for each in state if hasattr(each, "sense"))
        quotas = [each for each in state if isinstance(each, Quota)]
        if self._quotas is not None:
            self._quotas.keep(quotas)
        elif quotas and not self._warned:
            self._warned = True
            _log.warning("quota %s: no store is set (service.quota): this process's part decides", quotas[0].name)


@asynccontextmanager
async def feeding(policies: Policies, *, quota: str, pool: Executor | None, clock: Clock) -> AsyncIterator[None]:
    """Feed all gates there are, and those that a change of rules brings, for as long as the block lasts.

    `quota` is the URL of the store, "" for none; `pool` is where calls are served, if that is a pool of threads. Raises
    `MissingExtra` when a store is set and its client is not installed, `RuleError` for a URL that cannot be; a store
    that is away is no error.
    """
    loop = asyncio.get_running_loop()
    async with AsyncExitStack() as stack:
        quotas = await stack.enter_async_context(_pump(quota, clock)) if quota else None
        fed = Fed(policies, quotas)

        def changed() -> None:
            with suppress(RuntimeError):  # the loop was closed
                loop.call_soon_threadsafe(fed.sort)

        stack.callback(policies.listen(changed))
        fed.sort()
        await stack.enter_async_context(Load(fed, executor=pool, clock=clock))
        yield


def _pump(url: str, clock: Clock) -> QuotaPump:
    from msgov.resilience.quota_redis import QuotaPump

    return QuotaPump(url, clock=clock)
