"""One run, from an empty folder to checked books, which leaves nothing behind however it ends."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import signal
import sqlite3
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from msgov.config.embedded import Embedded
from msgov.errors import MsgovError

from . import books, report
from .child import Died
from .crowd import Crowd
from .gauges import Gauges
from .scenarios import SCENARIOS, Stage
from .shopper import Counter, NoAnswer, read_back
from .tally import Tally
from .tree import APART, TOGETHER, Tree

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
ANYWHERE: Final = ("calm",)  # scenarios that make sense in one process too, where no call goes over a wire
AT_ONCE: Final = 8  # orders that are read back side by side
READING: Final = 60.0  # seconds for all of them; ten orders take a tenth of one
LOOK: Final = 1.0  # seconds between two looks at the breakers


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What was asked for: `seconds` of shopping at `rate` orders a second."""

    together: bool = False
    seconds: float = 20.0
    rate: float = 20.0
    scenario: str = "calm"
    keep: bool = False
    json: bool = False


def run(options: Options) -> int:
    """Run the shop and return the exit code: 0 when the books are right, 1 when not, 128 and more for a signal."""
    return asyncio.run(_until_told(options))


async def _until_told(options: Options) -> int:
    """Let the first signal end the run; further ones change nothing, for all is being put away already."""
    loop = asyncio.get_running_loop()
    told: list[int] = []
    work = loop.create_task(_run(options))

    def leave(number: int) -> None:
        if not told:
            told.append(number)
            work.cancel()

    for number in SIGNALS:
        if number is not signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:  # nohup
            loop.add_signal_handler(number, leave, number)
    try:
        return await work
    except asyncio.CancelledError:
        return 128 + told[0] if told else 1
    except (Died, NoAnswer, MsgovError, OSError, sqlite3.Error) as error:
        say(f"msgov demo: {error}")
        return 1


async def _run(options: Options) -> int:
    with _folder() as folder:
        return await on_stage(options, folder)


async def on_stage(options: Options, folder: Path) -> int:
    """Run it on files in `folder`; raises what keeps it from running."""
    tally = Tally()
    async with AsyncExitStack() as stack:
        settings = Embedded(folder / "settings.db")
        stack.push_async_callback(settings.aclose)
        await settings.history()  # a file system on which SQLite's WAL does not work is refused here, by name
        (folder / "logs").mkdir(exist_ok=True)
        say("starting the shop ...")
        began = time.monotonic()
        tree = Tree(TOGETHER if options.together else APART, folder=folder, tell=say)
        await stack.enter_async_context(tree)
        counter = Counter(lambda: tree.front, tally)
        stack.push_async_callback(counter.aclose)
        gauges = Gauges(lambda: tree.of("order"))
        stack.push_async_callback(gauges.aclose)
        say(f"{len(tree.children)} processes ready in {time.monotonic() - began:.1f} s: {tree.front}")
        seconds = await _shop(options, Stage(options.seconds, settings, gauges, say), tree, counter, tally)
        left = await books.settle(folder)
        await _read_back(counter, tally)
        left = await books.settle(folder)  # what was asked for once more may have become an order now
        findings = await books.check(folder, [attempt.asked() for attempt in tally.attempts])
        await gauges.look()
        breaker = report.breaker(gauges) if options.scenario == "payment-slow" else None
        mode = "together" if options.together else "apart"
        done = report.Run(
            mode, options.scenario, seconds, tally, findings, left, tree.restarts, breaker, tree.children
        )  # fmt: skip
        print(json.dumps(done.as_json()) if options.json else done.as_text(), flush=True)
        if options.keep:
            await _keep(tree)
        return 0 if done.good else 1


async def _shop(options: Options, stage: Stage, tree: Tree, counter: Counter, tally: Tally) -> float:
    """Let the crowd in while the scenario plays; return the seconds it took."""
    crowd = Crowd(counter, rate=options.rate)
    await crowd.gather()
    began = time.monotonic()
    async with AsyncExitStack() as stack:
        if sys.stderr.isatty():
            from rich.console import Console

            from .board import board

            console = Console(stderr=True)
            await stack.enter_async_context(board(console, tree=tree, tally=tally, gauges=stage.gauges))
        looking = asyncio.create_task(_look(stage.gauges))
        stack.callback(looking.cancel)
        shopping = asyncio.create_task(crowd.shop())
        try:
            await SCENARIOS[options.scenario](stage)
            crowd.close()
            await shopping
        finally:
            shopping.cancel()
            await asyncio.wait([shopping])
    return time.monotonic() - began


async def _look(gauges: Gauges) -> None:
    while True:
        await gauges.look()
        await asyncio.sleep(LOOK)


async def _read_back(counter: Counter, tally: Tally) -> None:
    """Read every order back, within `READING` seconds; what cannot be read stays lost."""
    turn = asyncio.Semaphore(AT_ONCE)

    async def one(number: int) -> None:
        async with turn:
            with contextlib.suppress(NoAnswer):
                await read_back(counter, tally.attempts[number])

    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(READING):
            await asyncio.gather(*(one(number) for number in range(len(tally.attempts))))


async def _keep(tree: Tree) -> None:
    """Stay until told to go."""
    say(f"the shop stays open: {tree.front}   (Ctrl-C closes it)")
    for child in tree.children:
        say(f"  {child.name:<14} pid {child.pid:<8} port {child.port:<6} admin http://127.0.0.1:{child.admin}")
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.Event().wait()


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    """Make a temporary folder, and remove it with all that is in it."""
    folder = Path(tempfile.mkdtemp(prefix="msgov-demo-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def say(line: str) -> None:
    """Tell whoever watches."""
    print(line, file=sys.stderr, flush=True)
