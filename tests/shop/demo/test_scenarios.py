"""A scenario disturbs the shop for its time, and leaves it as it found it, whatever happens meanwhile."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from msgov.config.embedded import Embedded
from shop.demo import scenarios
from shop.demo.gauges import Gauges, Reading
from shop.demo.scenarios import SCENARIOS, Stage, payment_deadline


class Opened(Gauges):
    """Gauges that show what the test says."""

    def __init__(self) -> None:
        super().__init__(lambda: ())
        self.asked = 0

    @property
    def closed_again(self) -> bool:
        """Count who asks."""
        self.asked += 1
        return super().closed_again

    def show(self, *states: str, **turns: int) -> None:
        """Show this from now on."""
        reading = Reading(set(states))
        reading.turns.update(turns)
        self._heard, self._alive = {1: reading}, {1}


async def slow_values(settings: Embedded) -> list[object]:
    """Tell what `slow_seconds` has been set to, in order."""
    return [version.value for version in reversed(await settings.history("payment.slow_seconds"))]


def test_the_deadline_is_the_one_of_the_rules() -> None:
    """Slow means slower than callers wait."""
    assert payment_deadline() == 1.5


def test_payment_is_slow_for_a_while_then_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until the breakers have closed again."""
    monkeypatch.setattr(scenarios, "SHORTEST", 0.0)

    async def story() -> None:
        settings, gauges = Embedded(tmp_path / "settings.db"), Opened()
        gauges.show("open", open=1)
        stage = Stage(0.3, settings, gauges, lambda line: None)
        playing = asyncio.create_task(SCENARIOS["payment-slow"](stage))
        async with asyncio.timeout(20):
            while len(await slow_values(settings)) < 2:
                await asyncio.sleep(0.01)
            while gauges.asked < 3:
                await asyncio.sleep(0.01)
        assert await slow_values(settings) == [3 * payment_deadline(), 0.0]
        assert not playing.done()
        gauges.show("closed", open=1, closed=1)
        await playing
        await settings.aclose()
        await gauges.aclose()

    asyncio.run(story())


def test_an_interrupted_scenario_sets_all_back(tmp_path: Path) -> None:
    """The shop may stay open after it."""

    async def story() -> None:
        settings, gauges = Embedded(tmp_path / "settings.db"), Opened()
        playing = asyncio.create_task(SCENARIOS["payment-slow"](Stage(0.03, settings, gauges, lambda line: None)))
        async with asyncio.timeout(10):
            while not await slow_values(settings):
                await asyncio.sleep(0.01)
        playing.cancel()
        await asyncio.wait([playing])
        assert (await slow_values(settings))[-1] == 0.0
        await settings.aclose()
        await gauges.aclose()

    asyncio.run(story())
