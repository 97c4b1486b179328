from __future__ import annotations

from pathlib import Path

import pytest

from msgov.errors import RuleError
from msgov.messaging import bus
from msgov.messaging.memory import Memory
from tests.contract.messaging import BusContract


class TestMemory(BusContract):
    def make(self, folder: Path, *, capacity: int = 10_000) -> Memory:
        return Memory(capacity=capacity)


def test_url_with_a_name_is_refused() -> None:
    """It would look shared, and every process would have its own."""
    with pytest.raises(RuleError, match="memory:"):
        bus.open("memory:shop")
