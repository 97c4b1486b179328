"""The registry in a file keeps the contract, and what a file adds to it: deletion, locks, killed processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from msgov.discovery.embedded import Embedded
from tests.contract.discovery import Acknowledges, Both, Forgets, Outlasts


class Client(Embedded, Both):
    """One process's view of the file."""


class TestEmbedded(Acknowledges, Forgets, Outlasts):
    """Hold it to the contract."""

    visible = 0.2
    ttl = 0.6

    @pytest.fixture(autouse=True)
    def _registry(self, tmp_path: Path) -> None:
        self.folder = tmp_path / "registry"
        self.folder.mkdir()
        self.path = self.folder / "registry.db"

    def client(self) -> Both:
        return Client(self.path, ttl=self.ttl)

    async def forget(self) -> None:
        self.path.unlink()

    async def stop(self) -> None:
        self.folder.rename(self.folder.with_name("away"))

    async def start(self) -> None:
        self.folder.with_name("away").rename(self.folder)
