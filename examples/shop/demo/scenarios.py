"""What happens to the shop while it is open; each scenario takes `seconds`, and leaves the shop as it found it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final

from msgov.config.embedded import Embedded
from msgov.config.file import File
from msgov.config.rules import Outgoing, RuleBook

from ..wiring import RULES
from .gauges import BREAKER, Gauges

LATE: Final = 20.0  # seconds more that the breakers get to close, with shoppers still coming
SHORTEST: Final = 4.0  # payment deadlines that a slow time takes at least: calls must fail before a breaker can open


@dataclass(frozen=True, slots=True)
class Stage:
    """What a scenario may touch."""

    seconds: float
    settings: Embedded
    gauges: Gauges
    tell: Callable[[str], None]


Scenario = Callable[[Stage], Awaitable[None]]


async def calm(stage: Stage) -> None:
    """Nothing."""
    await asyncio.sleep(stage.seconds)


async def payment_slow(stage: Stage) -> None:
    """For a third of the time, payment sleeps for longer than anybody waits."""
    third, deadline = stage.seconds / 3, payment_deadline()
    await asyncio.sleep(third)
    await stage.settings.set("payment.slow_seconds", 3 * deadline, who="msgov demo", why="scenario payment-slow")
    stage.tell(f"payment now sleeps {3 * deadline:g} s before each charge; callers wait {deadline:g} s")
    try:
        await asyncio.sleep(max(third, SHORTEST * deadline))
    finally:
        await stage.settings.set("payment.slow_seconds", 0.0, who="msgov demo", why="scenario payment-slow is over")
    stage.tell("payment is quick again")
    await asyncio.sleep(third)
    try:
        async with asyncio.timeout(LATE):
            while not stage.gauges.closed_again:
                await asyncio.sleep(0.25)
    except TimeoutError:
        stage.tell(f"a breaker before payment has not closed within {LATE:g} s")


def payment_deadline() -> float:
    """Return how many seconds a charge may take by the shop's rules."""
    found = RuleBook.of(File(RULES).now()).find("call", BREAKER)
    assert found is not None
    assert isinstance(found.rules, Outgoing)
    assert found.rules.deadline is not None
    return found.rules.deadline.seconds


SCENARIOS: Final[Mapping[str, Scenario]] = {"calm": calm, "payment-slow": payment_slow}
