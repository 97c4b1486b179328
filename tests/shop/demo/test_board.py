"""The table shows what is known at the moment, and goes away when it is over."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path

from rich.console import Console

from shop.demo.board import board
from shop.demo.gauges import Gauges
from shop.demo.tally import Tally
from shop.demo.tree import Tree


def test_the_board_shows_counts_and_ends(tmp_path: Path) -> None:
    """Drawn at once, so that a short run has one too."""
    shown = io.StringIO()
    console = Console(file=shown, force_terminal=True, width=100)
    tally = Tally(waits=[0.0123], statuses={"confirmed": 41, "cancelling": 1, "cancelled": 2, "friendly": 7})

    async def story() -> None:
        gauges = Gauges(lambda: ())
        async with board(console, tree=Tree({}, folder=tmp_path, tell=print), tally=tally, gauges=gauges):
            async with asyncio.timeout(10):
                while "p99 ms" not in shown.getvalue():
                    await asyncio.sleep(0.01)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        await gauges.aclose()

    asyncio.run(story())
    for cell in ("41", "3", "7", "12.3", "breaker before payment"):
        assert cell in shown.getvalue()
