"""Services for tests: quiet, on a memory of their own, by a rules file that the test rewrites."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from msgov.service import Service


def service(name: str, path: Path, rules: str = "", **options: Any) -> Service:
    """Make one; `rules` are written to the file that it follows."""
    file = path / f"{name}.toml"
    file.write_text(rules)
    return Service(name, config=file, logs="off", environ=options.pop("environ", {}), **options)


async def until(fact: Callable[[], object], seconds: float = 10.0) -> None:
    """Wait until something is so."""
    end = time.monotonic() + seconds
    while not fact():
        assert time.monotonic() < end
        await asyncio.sleep(0.005)


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run to the end, within a bound."""

    async def bounded() -> None:
        await asyncio.wait_for(main(), 45)

    asyncio.run(bounded())


def gate(svc: Service, kind: type[Any]) -> Any:
    """Return the one gate of a kind that a service has."""
    (found,) = [each for each in svc.policies.state if isinstance(each, kind)]
    return found
