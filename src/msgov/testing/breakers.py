"""Ask any breaker, ours or another's, the questions that decide an outage.

Each trial is a scene in which a breaker in production went wrong; its docstring names who met it. A breaker is asked
through an adapter of one method, so the same battery runs over every library, in virtual or in real time:

```python
import asyncio
from msgov import aio
from msgov.call import Call
from msgov.pipeline import Pipeline
from msgov.resilience import Breaker, BreakerRule
from msgov.testing import run
from msgov.testing.breakers import battery

class Ours:
    def __init__(self, failures, recovery, probes):
        rule = BreakerRule(minimum_calls=failures, open_seconds=recovery, open_cap=recovery, probes=probes,
                           probe_lease=recovery)
        self.pipeline = Pipeline([Breaker(rule)])

    async def call(self, target):
        return await aio.govern(self.pipeline, lambda call: target(), clock=asyncio.get_running_loop().time)(Call("x"))

assert set(run(battery(Ours)).values()) == {"ok"}
```
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import Final, Protocol, TypeAlias

from msgov.testing._number import positive

FAILURES: Final = 3  # that open the breaker under test
_REPLY = object()
_PATIENCE = 40  # recoveries that a trial may take: one that hangs is a finding, not a hung run

Target: TypeAlias = Callable[[], Awaitable[object]]


class Guard(Protocol):
    """A breaker behind an adapter; a fresh one, closed, is made for each trial."""

    async def call(self, target: Target) -> object:
        """Call `target` through the breaker: return its reply, raise its error, or refuse with an error of one's own.

        A cancellation of this call must reach the target.
        """
        ...


class Make(Protocol):
    """Makes the breaker under test."""

    def __call__(self, failures: int, recovery: float, probes: int) -> Guard:
        """Make one that opens after `failures` failures in a row, and probes again after `recovery` seconds.

        Where it counts a rate: at half of at least `failures` calls. `probes` is how many calls it may let in while
        half open, and decide by; a library that cannot be told so makes what it can. A lease of a probe, where there is
        one, is `recovery` too. `ConnectionError` is a failure.
        """
        ...


class Flaw(Exception):  # what a trial found
    """What went wrong, in a few words: it becomes the cell of a table."""


class Stage:
    """One breaker, the target behind it, and the callers of one trial."""

    def __init__(self, make: Make, recovery: float, *, probes: int = 1) -> None:
        self.recovery = recovery
        self.reached = 0
        """How many calls came through to the target."""
        self._guard = make(FAILURES, recovery, probes)
        self._callers: list[asyncio.Task[bool]] = []

    async def ask(self, *, fails: bool = False, until: Awaitable[object] | None = None) -> bool:
        """Call once; whether the target was reached. `until` is what the target waits for before it answers."""
        entered = False

        async def target() -> object:
            nonlocal entered
            entered = True
            self.reached += 1
            if until is not None:
                await until
            if fails:
                raise ConnectionError("down")
            return _REPLY

        try:
            reply = await self._guard.call(target)
        except Exception:  # noqa: BLE001  the failure itself, or a refusal: each library has its own
            return entered
        if entered and not fails and reply is not _REPLY:
            raise Flaw("loses the reply")
        return entered

    async def start(self, *, seconds: float | None = None, until: asyncio.Event | None = None) -> asyncio.Task[bool]:
        """Begin a call that answers after `seconds`, on an event, or never; it has met the breaker on return."""
        waits = until.wait() if until is not None else asyncio.sleep(1e6 if seconds is None else seconds)
        caller = asyncio.ensure_future(self._slowly(waits))
        self._callers.append(caller)
        await self.settle()
        return caller

    async def _slowly(self, waits: Awaitable[object]) -> bool:
        wait = asyncio.ensure_future(waits)
        try:
            return await self.ask(until=wait)
        finally:
            wait.cancel()

    async def crowd(self, callers: int) -> int:
        """Begin so many slow calls at once; return how many of them came through."""
        before = self.reached
        for _ in range(callers):
            self._callers.append(asyncio.ensure_future(self._slowly(asyncio.sleep(self.recovery / 2))))
        await self.settle()
        return self.reached - before

    async def settle(self) -> None:
        """Give everybody under way the turns to get where they are going, and hardly any time."""
        for _ in range(20):
            await asyncio.sleep(0)
        await asyncio.sleep(0.02 * self.recovery)  # a library may go through a thread

    async def cancel(self, caller: asyncio.Task[bool]) -> None:
        """Let a caller leave."""
        caller.cancel()
        await asyncio.wait([caller], timeout=self.recovery)

    async def trip(self) -> None:
        """Open it: so many failures in a row."""
        for _ in range(FAILURES):
            await self.ask(fails=True)
        if await self.ask():
            raise Flaw(f"not open after {FAILURES} failures")

    async def recover(self) -> None:
        """Wait until it should probe."""
        await asyncio.sleep(1.25 * self.recovery)

    async def close(self) -> None:
        """Send everybody home."""
        for caller in self._callers:
            caller.cancel()
        if self._callers:
            await asyncio.wait(self._callers, timeout=self.recovery)
        for caller in self._callers:
            _ = caller.done() and not caller.cancelled() and caller.exception()


async def _threshold(stage: Stage) -> None:
    """Two failures do not open it (Resilience4j 6: the threshold is reached, not passed)."""
    for _ in range(FAILURES - 1):
        await stage.ask(fails=True)
    if not await stage.ask():
        raise Flaw(f"open after {FAILURES - 1} failures, not {FAILURES}")


async def _opens(stage: Stage) -> None:
    await stage.trip()


async def _two_in_three(stage: Stage) -> None:
    """Two failures in every three calls open it, though never three in a row."""
    for at in range(15):
        await stage.ask(fails=at % 3 != 2)
    if await stage.ask():
        raise Flaw("never opens")


async def _probe_cap(stage: Stage) -> None:
    """Of fifty calls at once one is the probe (Polly 216, Resilience4j 1432)."""
    await stage.trip()
    await stage.recover()
    got = await stage.crowd(50)
    if got != 1:
        raise Flaw(f"{got} of 50 let in" if got else "no probe let in")


async def _late_while_open(stage: Stage) -> None:
    """A success of a call from before the outage does not end it (Polly 217)."""
    late = await stage.start(seconds=0.2 * stage.recovery)
    await stage.trip()
    await asyncio.wait([late])
    if await stage.ask():
        raise Flaw("closed by a late success")


async def _late_while_probing(stage: Stage) -> None:
    """Nor while a probe is on its way: ten calls more are ten too many (safe-client-gateway 3442)."""
    ends = asyncio.Event()
    late = await stage.start(until=ends)
    await stage.trip()
    await stage.recover()
    before = stage.reached
    await stage.start()
    if stage.reached == before:
        raise Flaw("no probe let in")
    ends.set()
    await asyncio.wait([late])
    got = sum([await stage.ask() for _ in range(10)])
    if got:
        raise Flaw(f"{got} of 10 let in")


async def _cancelled_probe(stage: Stage) -> None:
    """A probe whose caller left says nothing: the next call is the probe (Polly closes on it)."""
    await stage.trip()
    await stage.recover()
    await stage.cancel(await stage.start())
    if await stage.ask(fails=True):
        if await stage.ask():
            raise Flaw("closed by it")
        return
    await stage.recover()
    raise Flaw("opened again by it" if await stage.ask() else "wedged")


async def _hung_probe(stage: Stage) -> None:
    """A probe that never answers holds nobody up for ever (Resilience4j 935, Sentinel 1638)."""
    await stage.trip()
    await stage.recover()
    await stage.start()
    await asyncio.sleep(5 * stage.recovery)
    for _ in range(12):
        if await stage.ask():
            return
        await asyncio.sleep(stage.recovery / 2)
    raise Flaw("wedged")


async def _cancellations(stage: Stage) -> None:
    """Eight callers who left are no failures of the callee (rubyist/circuitbreaker 42, cockroach 35433)."""
    for _ in range(8):
        await stage.cancel(await stage.start())
    if not await stage.ask():
        raise Flaw("opened by them")


async def _generations(stage: Stage) -> None:
    """A probe of the first half-open that ends in the second frees no place in it (two probes may go)."""
    await stage.trip()
    await stage.recover()
    ends = asyncio.Event()
    old = await stage.start(until=ends)
    await stage.ask(fails=True)  # opens it again, where two may go
    for _ in range(16):
        await asyncio.sleep(stage.recovery / 2)
        got = await stage.crowd(10)
        if got:
            break
    else:
        raise Flaw("wedged")
    ends.set()
    await asyncio.wait([old])
    got += await stage.crowd(10)
    if got > 2:
        raise Flaw(f"{got} let in for 2")


async def _ratio(stage: Stage) -> None:
    """One failed probe of five is bad luck (Polly 2381, cockatiel 73)."""
    await stage.trip()
    await stage.recover()
    if not await stage.ask(fails=True):
        raise Flaw("no probe let in")
    for _ in range(2):  # two of five went well, one badly: a third could close it, and then a ramp may refuse
        if not await stage.ask():
            raise Flaw("one failed probe decides")


async def _ratio_fails(stage: Stage) -> None:
    await stage.trip()
    await stage.recover()
    for _ in range(5):
        await stage.ask(fails=True)
    if await stage.ask():
        raise Flaw("five failed probes do not open it")


_Scene: TypeAlias = Callable[[Stage], Awaitable[None]]

_SCENES: Final[Mapping[str, tuple[tuple[_Scene, int], ...]]] = MappingProxyType(
    {
        "threshold": ((_threshold, 1), (_opens, 1)),
        "two in three fail": ((_two_in_three, 1),),
        "probe cap": ((_probe_cap, 1),),
        "late success, open": ((_late_while_open, 1),),
        "late success, probing": ((_late_while_probing, 1),),
        "cancelled probe": ((_cancelled_probe, 1),),
        "hung probe": ((_hung_probe, 1),),
        "callers leave": ((_cancellations, 1),),
        "generations": ((_generations, 2),),
        "probe ratio": ((_ratio, 5), (_ratio_fails, 5)),
    }
)

TRIALS: Final = tuple(_SCENES)


async def battery(make: Make, *, recovery: float = 0.2) -> Mapping[str, str]:
    """Put a breaker to every trial; return for each of `TRIALS` "ok", or in a few words what went wrong.

    `recovery` (seconds, above 0) is the open time of the breaker under test, and the measure of all waits: 0.2 is short
    and still well above a busy machine's hiccups. It takes about 30 recoveries, of whatever time the running loop has:
    nothing on `msgov.testing.run`, if the breaker reads the loop's clock; one that reads the wall clock needs a real
    loop. A trial that hangs is ended and says so; nothing is left running. Nothing that the breaker raises gets out.
    """
    positive("battery: recovery", recovery)
    return {name: await _put(make, recovery, scenes) for name, scenes in _SCENES.items()}


async def _put(make: Make, recovery: float, scenes: tuple[tuple[_Scene, int], ...]) -> str:
    for scene, probes in scenes:
        stage: Stage | None = None
        try:
            stage = Stage(make, recovery, probes=probes)
            async with asyncio.timeout(_PATIENCE * recovery):
                await scene(stage)
        except Flaw as flaw:
            return str(flaw)
        except TimeoutError:
            return "hangs"
        except Exception as error:  # noqa: BLE001  an adapter or a breaker that breaks is a finding too
            return f"raises {type(error).__name__}"
        finally:
            if stage is not None:
                await stage.close()
    return "ok"
