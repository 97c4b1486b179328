"""The environment is a layer: `MSGOV_PAY__TIMEOUT=2` sets `pay.timeout`."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Mapping

from msgov.config.layers import Path, Tree, Value, shown
from msgov.config.scalar import scalar
from msgov.config.source import ConfigSource, Reading, plant
from msgov.config.text import LIMIT, vet
from msgov.errors import Problem, RuleError


class Env(ConfigSource):
    """The variables that begin with a prefix, as they were when first read: a process's environment does not change.

    Names are read in lower case, two underscores part the keys: `MSGOV_PAY__MAX_WAIT` is `pay.max_wait`. A value is a
    scalar of TOML where it reads as one, else text; `MSGOV_CODE='"007"'` keeps text that looks like a number.
    """

    def __init__(self, *, prefix: str = "MSGOV_", environ: Mapping[str, str] = os.environ) -> None:
        self.name = "environment"
        self.prefix = prefix
        self._environ = environ

    @classmethod
    def from_url(cls, url: str) -> Env:
        """Make it from `env:`, or `env:SHOP_` for another prefix."""
        return cls(prefix=url.partition(":")[2] or "MSGOV_")

    async def watch(self) -> AsyncIterator[Reading]:
        """Yield it, and stay."""
        try:
            yield self.now()
        except RuleError as error:
            yield error
        await asyncio.Event().wait()

    def now(self) -> Tree:
        """Read the variables; raises `RuleError` that names each wrong one."""
        tree: dict[str, Value] = {}
        problems: list[Problem] = []
        for variable in sorted(self._environ):
            if not variable.startswith(self.prefix) or variable == self.prefix:
                continue
            text = self._environ[variable]
            try:
                problems += self._take(tree, variable, text)
            except RuleError as error:
                problems += error.problems
        if problems:
            raise RuleError(problems, where=self.name)
        return tree

    def origin(self, where: Path) -> str:
        """Name the variable that sets a path."""
        return self.prefix + "__".join(part.upper() for part in where)

    def _take(self, tree: dict[str, Value], variable: str, text: str) -> list[Problem]:
        parts = tuple(variable.removeprefix(self.prefix).lower().split("__"))
        if "" in parts:
            return [Problem(variable, "", "a name whose parts, joined by two underscores, are not empty")]
        if len(text.encode(errors="surrogateescape")) > LIMIT:
            return [Problem(variable, f"{len(text)} characters", f"at most {LIMIT} bytes")]
        value = scalar(text)
        try:
            alone: dict[str, Value] = {}
            plant(alone, parts, value, where="")
            vet(alone, where="")
            plant(tree, parts, value, where="")
        except RuleError as error:
            return [Problem(variable, value, f"{error.allowed} (key {shown(parts)})")]
        return []
