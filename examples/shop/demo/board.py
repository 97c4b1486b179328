"""A live table for whoever watches: orders, times, breakers and processes, twice a second."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from rich.box import SIMPLE
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from .gauges import Gauges
from .tally import Tally, milliseconds, percentile
from .tree import Tree

EVERY: Final = 0.5  # seconds
RECENT: Final = 200  # answers that the shown times are of
_COLOURS: Final = {"closed": "green", "open": "red", "half_open": "yellow"}


@asynccontextmanager
async def board(console: Console, *, tree: Tree, tally: Tally, gauges: Gauges) -> AsyncIterator[None]:
    """Keep the table up to date for as long as the block lasts."""
    began = time.monotonic()
    with Live(console=console, auto_refresh=False, transient=True) as live:

        async def draw() -> None:
            while True:
                shown = Group(_orders(tally, time.monotonic() - began), _processes(tree, gauges))
                live.update(shown, refresh=True)
                await asyncio.sleep(EVERY)

        drawing = asyncio.create_task(draw())
        try:
            yield
        finally:
            drawing.cancel()
            await asyncio.wait([drawing])


def _orders(tally: Tally, seconds: float) -> Table:
    recent = tally.waits[-RECENT:]
    answered = len(tally.waits)
    table = Table(box=SIMPLE)
    for name in ("tried", "confirmed", "cancelled", "refused", "at once", "per s", "p50 ms", "p99 ms"):
        table.add_column(name, justify="right", no_wrap=True)
    counted = tally.statuses
    cells = (
        len(tally.attempts),
        counted.get("confirmed", 0),
        counted.get("cancelled", 0) + counted.get("cancelling", 0),
        counted.get("refused", 0),
        counted.get("friendly", 0),
        f"{answered / seconds if seconds else 0:.1f}",
        milliseconds(percentile(recent, 0.50)),
        milliseconds(percentile(recent, 0.99)),
    )
    table.add_row(*(str(cell) for cell in cells))
    return table


def _processes(tree: Tree, gauges: Gauges) -> Table:
    table = Table(box=SIMPLE)
    for name in ("process", "pid", "port", "breaker before payment"):
        table.add_column(name, no_wrap=True)
    for child in tree.children:
        states = sorted(gauges.states.get(child.pid, ()))
        shown = Text(" ").join(Text(state, style=_COLOURS.get(state, "")) for state in states)
        port = str(child.port) if child.up else "starting"
        table.add_row(child.name, str(child.pid), port, shown)
    return table
