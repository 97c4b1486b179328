"""A callee that replies, and a function that takes it for failing, in either colour."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from msgov.call import TRANSIENT, Call, Outcome, Verdict
from msgov.pipeline import Policy
from msgov.resilience import policies
from msgov.testing import ManualClock, ScriptedHandler, run
from tests.drivers.stage import Aio, Colour

Failed = Callable[..., "bool | Verdict | Outcome | None"]
BUSY = Outcome(TRANSIENT)


@dataclass(eq=False)
class Reply:
    """What an HTTP client gives."""

    status_code: int
    wait: float | None = None


def bad(reply: Reply) -> bool:
    """Judge as most do."""
    return reply.status_code >= 500


def shared(reply: Reply) -> Outcome | None:
    """Judge by one constant for all."""
    return BUSY if reply.status_code >= 500 else None


class Asked:
    """A governed function, what it gave or raised, and the callee beneath it."""

    def __init__(
        self,
        colour: Colour,
        chain: Sequence[Policy],
        *script: object,
        failed: Failed = bad,
        times: int = 1,
        idempotent: bool = True,
    ) -> None:
        self.got: list[object] = []
        self.seconds = 0.0
        clock = ManualClock()
        self.callee = ScriptedHandler(*script, sleep=clock.sleep)

        async def scene() -> None:
            clock = asyncio.get_running_loop().time
            ask = policies(*chain, failed=failed, name="shop", idempotent=idempotent, clock=clock)(self.callee.aio)
            for _ in range(times):
                try:
                    self.got.append(await ask(Call("shop")))
                except BaseException as error:
                    self.got.append(error)
            self.seconds = clock()

        if isinstance(colour, Aio):
            run(scene())
            return
        ask = policies(*chain, failed=failed, name="shop", idempotent=idempotent, clock=clock)(self.callee.sync)
        for _ in range(times):
            try:
                self.got.append(ask(Call("shop")))
            except BaseException as error:
                self.got.append(error)
        self.seconds = clock()

    @property
    def attempts(self) -> int:
        """How often the callee was asked."""
        return len(self.callee.calls)
