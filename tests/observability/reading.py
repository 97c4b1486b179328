"""Reads what the tests need: the samples of a page, the lines of a file."""

from __future__ import annotations

import json
import os
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from msgov.observability.logs import Logs, install
from msgov.observability.metrics import Metrics
from msgov.observability.readings import Readings
from msgov.observability.sink import Sink
from msgov.testing import ManualClock

Samples = dict[tuple[str, ...], float]


def samples(metrics: Metrics) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Return every sample of the page by name and labels."""
    _, page = metrics.exposition()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(page.decode())
        for sample in family.samples
    }


def sample(metrics: Metrics, name: str, **labels: str) -> float | None:
    """Return one sample of the page; None when it is not there."""
    return samples(metrics).get((name, frozenset(labels.items())))


def read(readings: Readings) -> dict[str, Samples]:
    """Return what is read, by metric."""
    return {metric.name: found for metric, found in readings.read()}


def watching(*things: object) -> Readings:
    """Watch things at the time 100, and at 1000 on the wall."""
    readings = Readings(ManualClock(100.0), at=ManualClock(1000.0))
    readings.watch(*things)
    return readings


class Paper:
    """A file that lines are written to, and read from again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self.sink = Sink(self.fd)

    def text(self) -> str:
        """Return all that was written."""
        return self.path.read_text()

    def lines(self) -> list[dict[str, object]]:
        """Return the lines, each of which must be JSON."""
        return [json.loads(line) for line in self.text().splitlines()]

    def line(self) -> dict[str, object]:
        """Return the one line that was written."""
        (line,) = self.lines()
        return line


class Written(Paper):
    """A file that this process logs to, until it is closed."""

    def __init__(self, path: Path, **options: object) -> None:
        super().__init__(path)
        self.logs = Logs(service="order", version="1.4.0", instance="order-1", sink=self.sink, **options)
        self._before = install(self.logs)

    def close(self) -> None:
        """Log as before."""
        install(self._before)
        os.close(self.fd)
