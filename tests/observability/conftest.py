"""What the tests of this folder share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from msgov.observability import setup
from msgov.observability.metrics import Metrics
from tests.observability.reading import Paper, Written


@pytest.fixture(autouse=True)
def unset(monkeypatch: pytest.MonkeyPatch) -> None:
    """Begin in a process that nobody has set up, whatever was left open elsewhere."""
    monkeypatch.setattr(setup, "_running", [])


@pytest.fixture
def metrics() -> Iterator[Metrics]:
    """Metrics of their own registry."""
    made = Metrics(service="order", release="1.4.0")
    yield made
    made.close()


@pytest.fixture
def paper(tmp_path: Path) -> Iterator[Paper]:
    """A file to write lines to."""
    made = Paper(tmp_path / "lines")
    yield made
    os.close(made.fd)


@pytest.fixture
def written(tmp_path: Path) -> Iterator[Written]:
    """A file that this process logs to."""
    made = Written(tmp_path / "log")
    yield made
    made.close()
