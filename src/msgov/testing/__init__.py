"""Tests of a service need no sleeps, no luck and no mocks: time, chance, faults and races are theirs to set.

A charge that failed in doubt is asked again after ten seconds, and the test of it takes none:

```python
import asyncio
from msgov.call import Call
from msgov.testing import After, ScriptedHandler, run

gateway = ScriptedHandler(ConnectionResetError, After(2.0, "charged"))

async def charge(call):
    try:
        return await gateway.aio(call)
    except ConnectionResetError:
        await asyncio.sleep(10)
        return await gateway.aio(call)

async def scene():
    reply = await charge(Call("payment", "charge"))
    return reply, asyncio.get_running_loop().time()

assert run(scene()) == ("charged", 12.0)
assert len(gateway.calls) == 2
```

Numbers for machines: `ManualClock`, `LoadedDice`. A callee: `ScriptedHandler`, `After`. Virtual time: `run`,
`VirtualLoop`, `Deadlock`. Races: `outcomes`, `interleave`. Crashes: `armed` with `kill`, `raises`, `sleeps`. A bad
network: `FaultProxy`. Nothing left behind: `no_leaks`, `Leaked`.
"""

from __future__ import annotations

from msgov.testing.clock import ManualClock
from msgov.testing.dice import LoadedDice
from msgov.testing.failpoints import Failpoint, FailpointReached, armed, kill, raises, sleeps
from msgov.testing.handler import After, ScriptedHandler
from msgov.testing.interleaver import interleave, outcomes
from msgov.testing.leaks import Leaked, no_leaks
from msgov.testing.loop import Deadlock, VirtualLoop, run
from msgov.testing.proxy import FaultProxy

__all__ = [
    "After",
    "Deadlock",
    "Failpoint",
    "FailpointReached",
    "FaultProxy",
    "Leaked",
    "LoadedDice",
    "ManualClock",
    "ScriptedHandler",
    "VirtualLoop",
    "armed",
    "interleave",
    "kill",
    "no_leaks",
    "outcomes",
    "raises",
    "run",
    "sleeps",
]
