"""Answer again what was answered a moment ago, and what was answered before the callee went down."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Hashable

from msgov import scope
from msgov.aio import bounded
from msgov.call import IGNORED, Call, Outcome
from msgov.clock import Clock
from msgov.event import Observers
from msgov.policy import Around, AsyncHandler, Judge, SyncHandler
from msgov.resilience.freshness import MISS, NOTHING, REFRESH, CacheRule, CacheStore
from msgov.resilience.sameness import Key, sameness

_DEFAULT = CacheRule()


class Cache(Around):
    """Answer a call that was answered less than `ttl` ago; when the callee fails, answer with what it said before.

    Two calls are the same when `sameness` says so: by default target, method, whom it is for and the request, or what
    `key` returns for a call; None there, and a call that is not idempotent, passes by. Only answers are kept, never
    failures, and they are given out as they are: one object to all, so hand out what nobody changes.

    After `ttl` an answer is asked for again. When that fails TRANSIENT, or we rejected it ourselves (an open breaker),
    the old answer serves for `stale_if_error` more, and `cache.stale` is told; a PERMANENT failure is an answer, and
    passes. Within `stale_while_revalidate` the old answer serves at once while one call asks behind it: under asyncio
    in a task of its own, in blocking code the one caller that found it so, the others meanwhile have the old one.

    A `Deadline` outside cuts off the cache with the call, so a time-out is answered only from a cache that stands
    outside the deadline. Many calls at once that miss all go on: put a `Coalesce` inside it.

    `counts`: hit, miss, stale, error, evicted.
    """

    def __init__(
        self,
        rule: CacheRule = _DEFAULT,
        *,
        key: Key | None = None,
        name: str = "",
        target: str = "",
        observers: Observers | None = None,
    ) -> None:
        self.name = name
        self.target = target
        self.observers = observers or Observers()
        self._same = sameness(key)
        self._store = CacheStore(rule)
        self._behind: set[asyncio.Task[None]] = set()

    @property
    def rule(self) -> CacheRule:
        """The rule in force; storing another keeps every answer, each judged at its own age from now on."""
        return self._store.rule

    @rule.setter
    def rule(self, rule: CacheRule) -> None:
        self._store.rule = rule

    @property
    def counts(self) -> dict[str, int]:
        """Calls since the start: `hit`, `miss`, `stale`, `error` (asked, and it may pass); answers `evicted`.

        A miss that failed is an `error` too, and `stale` as well when an old answer served.
        """
        return self._store.counts

    def __len__(self) -> int:
        """Count the answers kept."""
        return len(self._store)

    def forget(self, call: Call) -> None:
        """Forget the answer to a call, as after a write; one that is under way is not kept either."""
        key = self._same(call)
        if key is not None:
            self._store.forget(key)

    def clear(self) -> None:
        """Forget every answer."""
        self._store.clear()

    def aio(self, handler: AsyncHandler, judge: Judge, clock: Clock) -> AsyncHandler:
        """Wrap a coroutine handler."""
        same, store = self._same, self._store

        async def cached(call: Call) -> object:
            key = same(call) if call.idempotent else None
            if key is None:
                return await handler(call)
            asked = clock()
            find, value, ticket = store.find(key, asked)
            if find is MISS:
                try:
                    value = await handler(call)
                except BaseException as error:
                    value = self._failed(key, ticket, call, judge(call, error, clock() - asked), clock())
                    if value is NOTHING:
                        raise
                    return value
                store.keep(key, value, ticket=ticket, asked=asked)
            elif find is REFRESH:
                task = asyncio.get_running_loop().create_task(refresh(key, ticket, call.fork(), asked))
                self._behind.add(task)
                task.add_done_callback(self._behind.discard)
            return value

        async def refresh(key: Hashable, ticket: int, call: Call, asked: float) -> None:
            """Ask behind a stale answer, in nobody's time: as long as that answer may be given out."""
            around = copy.copy(scope.current.get())
            around.deadline = None
            scope.current.set(around)  # a task has a context of its own
            call.deadline = asked + store.rule.stale_while_revalidate
            try:
                store.keep(key, await bounded(handler, call, clock), ticket=ticket, asked=asked)
            except Exception as error:  # noqa: BLE001  nobody waits for it: the next call asks again
                self._failed(key, ticket, call, judge(call, error, clock() - asked), clock(), behind=True)
            except BaseException:
                store.fail(key, Outcome(IGNORED), ticket=ticket, now=clock())
                raise

        return cached

    def sync(self, handler: SyncHandler, judge: Judge, clock: Clock) -> SyncHandler:
        """Wrap a blocking handler."""
        same, store = self._same, self._store

        def cached(call: Call) -> object:
            key = same(call) if call.idempotent else None
            if key is None:
                return handler(call)
            asked = clock()
            find, value, ticket = store.find(key, asked, behind=False)
            if find is not MISS:
                return value
            try:
                value = handler(call)
            except BaseException as error:
                value = self._failed(key, ticket, call, judge(call, error, clock() - asked), clock())
                if value is NOTHING:
                    raise
                return value
            store.keep(key, value, ticket=ticket, asked=asked)
            return value

        return cached

    def _failed(
        self, key: Hashable, ticket: int, call: Call, outcome: Outcome, now: float, *, behind: bool = False
    ) -> object:
        """Tell the store and the observers; return what answers in its place, or NOTHING."""
        if not isinstance(outcome.error, Exception):  # whatever a classifier says of an order
            outcome = Outcome(IGNORED)
        value = self._store.fail(key, outcome, ticket=ticket, now=now, behind=behind)
        if behind or value is not NOTHING:
            kind = "cache.refresh_failed" if behind else "cache.stale"
            error = type(outcome.error).__name__
            self.observers.tell(kind, self.name, self.target or call.target, now, error=error, status=outcome.status)
        return value
