"""A hedge over HTTP: the slow instance is left, its connection closed, and one reply is the caller's."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from msgov.errors import RuleError
from msgov.resilience.hedge import Hedge, HedgeRule
from msgov.transport.http import ClientEdge
from tests.transport.asking import Asking, Shop
from tests.transport.grpc.gates import Pick
from tests.transport.web import Seen, serving, until

LIBRARIES = ("httpx", "httpx2")


class Two:
    """Two shops, asked in turn, the second one quick."""

    def __init__(self, library: str, ports: tuple[int, int]) -> None:
        self.outer, self.inner = Seen(), Seen()
        self.hedge = Hedge(HedgeRule(initial=0.05, load=1.0))
        policies = (self.outer, self.hedge, Pick(*ports), self.inner)
        lib: Any = __import__(library)
        self.asking = Asking(
            library, "asyncio", ClientEdge(target="catalog", policies=lambda _: policies), lib.AsyncHTTPTransport()
        )

    @property
    def idle(self) -> bool:
        """Whether no connection of the client's has a request on it."""
        return all(each.is_idle() or each.is_closed() for each in self.asking.transport.inner._pool.connections)


class Slow(Shop):
    """Answers when it is let, and knows who left before."""

    def __init__(self) -> None:
        super().__init__()
        self.release = asyncio.Event()
        self.slow = True

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if self.slow:
            self.asked.append({"path": scope["path"]})
            waits = [asyncio.create_task(self.release.wait()), asyncio.create_task(self.gone(_after(receive)))]
            done, pending = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for task in pending:
                task.cancel()
            if waits[0] in done:
                await self.say(send, 200, b"slow")
            return
        await super().__call__(scope, receive, send)


def _after(receive: Any) -> Any:
    """Pass the request's own messages by."""

    async def next_one() -> Any:
        while (message := await receive())["type"] == "http.request":
            pass
        return message

    return next_one


Test = Callable[[Two, Slow, Shop], Coroutine[Any, Any, None]]


def on(test: Test) -> Callable[[str], None]:
    """Run a test with both libraries; at its end nothing is held."""

    @pytest.mark.parametrize("library", LIBRARIES)
    def runner(library: str) -> None:
        async def main() -> None:
            slow, quick = Slow(), Shop()
            async with serving(slow) as one, serving(quick) as two:
                made = Two(library, (one, two))
                try:
                    await test(made, slow, quick)
                    await until(lambda: made.idle)
                finally:
                    await made.asking.run("close", made.asking.client)
                await until(lambda: (made.outer.inside, made.inner.inside) == (0, 0))

        asyncio.run(asyncio.wait_for(main(), 20))

    runner.__doc__, runner.__name__ = test.__doc__, test.__name__
    return runner


@on
async def test_the_quick_instance_answers(made: Two, slow: Slow, quick: Shop) -> None:
    """The slow one sees its caller leave."""
    began = time.monotonic()
    answer = await made.asking.ask("GET", "/orders/7")
    assert (answer.status_code, answer.content) == (200, b"yes")
    assert 0.045 <= time.monotonic() - began < 2
    await until(lambda: slow.left == 1)
    assert (sorted(made.inner.ends), made.outer.ends) == ([("IGNORED", "lost"), ("OK", "200")], [("OK", "200")])
    assert quick.asked[0]["msgov-attempt"] == "2"


@on
async def test_a_stream_of_the_winner_holds_its_tickets(made: Two, slow: Slow, quick: Shop) -> None:
    """The losers' are back by then."""
    answer = await made.asking.open("GET", "/orders/7")
    assert (made.outer.inside, made.inner.inside) == (1, 1)
    assert await made.asking.read(answer) == b"yes"
    assert (made.outer.inside, made.inner.inside) == (0, 0)


@on
async def test_what_may_run_once_is_never_hedged(made: Two, slow: Slow, quick: Shop) -> None:
    """A POST without a key."""
    task = asyncio.create_task(made.asking.ask("POST", "/orders", content=b"x"))
    await until(lambda: slow.asked)
    await asyncio.sleep(0.15)
    slow.release.set()
    assert (await task).content == b"slow"
    assert (quick.asked, made.hedge.hedged) == ([], 0)


@on
async def test_both_fail(made: Two, slow: Slow, quick: Shop) -> None:
    """The last reply is the caller's, and can be read; the other is closed."""
    slow.slow = False
    slow.fails = quick.fails = 1
    answer = await made.asking.ask("GET", "/orders/7")
    assert (answer.status_code, answer.content) == (503, b"not now")
    assert made.inner.ends == [("TRANSIENT", "503")] * 2
    assert made.outer.ends == [("TRANSIENT", "503")]


@on
async def test_a_failure_of_the_hedge_does_not_take_the_first_away(made: Two, slow: Slow, quick: Shop) -> None:
    """It goes on, and its reply is whole."""
    quick.fails = 1
    task = asyncio.create_task(made.asking.ask("GET", "/orders/7"))
    await until(lambda: quick.asked)
    await until(lambda: len(made.inner.outcomes) == 1)
    slow.release.set()
    answer = await task
    assert (answer.status_code, answer.content) == (200, b"slow")
    assert made.inner.ends == [("TRANSIENT", "503"), ("OK", "200")]


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_blocking_client_cannot_be_hedged_and_says_so(library: str) -> None:
    """Nothing can call off a request that a thread is waiting for."""
    edge = ClientEdge(target="catalog", policies=lambda _: (Hedge(),))
    asking = Asking(library, "blocking", edge)
    with pytest.raises(RuleError, match="hedge"):
        asking.client.get("/orders/7")
    asking.client.close()
