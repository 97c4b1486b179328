"""What was counted becomes a page that Prometheus reads.

The families of `series` and whatever is read at scrape time stand behind one collector, so the hot path never touches
`prometheus_client`.
"""

from __future__ import annotations

import gc
import itertools
from collections.abc import Callable, Iterable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric as Page
from prometheus_client.registry import Collector, CollectorRegistry

from msgov.observability import catalogue
from msgov.observability.catalogue import Metric
from msgov.observability.series import Counter, Family, Histogram, text

Samples = dict[tuple[str, ...], float]
Reading = tuple[Metric, Samples]


class Pages(Collector):
    """One collector for all that this process knows of itself.

    What `families` returns adds up on the hot path; each of `readers` is asked at scrape time for what it can read off
    things that count for themselves.
    """

    def __init__(
        self,
        families: Callable[[], Iterable[Family[Counter] | Family[Histogram]]],
        *readers: Callable[[], Iterable[Reading]],
    ) -> None:
        self._families = families
        self._readers = readers

    def describe(self) -> Iterable[Page]:
        """Name what `collect` yields, so that a name taken twice is refused when it is registered."""
        return [_empty(metric) for metric in catalogue.CATALOGUE if metric.origin != "prometheus"]

    def collect(self) -> Iterator[Page]:
        """Yield every metric, those without a series too: their names and help are known from the first scrape."""
        sizes: Samples = {}
        for family in self._families():
            sizes[family.metric.name,] = len(family)
            yield _spread(family) if family.metric.kind == "histogram" else _plain(family.metric, _counted(family))
        for reader in self._readers:
            for metric, samples in reader():
                sizes[metric.name,] = len(samples)
                yield _plain(metric, samples)
        yield _plain(catalogue.SERIES, {key: size for key, size in sizes.items() if size})


def _empty(metric: Metric) -> Page:
    if metric.kind == "histogram":
        return HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
    return _family(metric)


def _family(metric: Metric) -> CounterMetricFamily | GaugeMetricFamily:
    kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
    return kind(metric.name, metric.help, labels=metric.labels)


def _plain(metric: Metric, samples: Samples) -> Page:
    page = _family(metric)
    for labels, value in samples.items():
        page.add_metric([text(label) for label in labels], value)
    return page


def _counted(family: Family[Counter] | Family[Histogram]) -> Samples:
    return {labels: child.value for labels, child in family.series() if isinstance(child, Counter)}


def _spread(family: Family[Counter] | Family[Histogram]) -> Page:
    metric = family.metric
    page = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
    bounds = [*(repr(float(bound)) for bound in metric.buckets), "+Inf"]
    for labels, child in family.series():
        if isinstance(child, Histogram):
            counts, total = child.read()
            running = itertools.accumulate(counts)
            page.add_metric(labels, list(zip(bounds, running, strict=True)), sum_value=total)
    return page


def garbage() -> Iterator[Reading]:
    """Read the collector's own statistics, by generation."""
    stats = gc.get_stats()
    for metric, key in (
        (catalogue.GC_COLLECTIONS, "collections"),
        (catalogue.GC_COLLECTED, "collected"),
        (catalogue.GC_UNCOLLECTABLE, "uncollectable"),
    ):
        yield metric, {(str(generation),): each[key] for generation, each in enumerate(stats)}


def exposition(registry: CollectorRegistry, accept: str = "") -> tuple[str, bytes]:
    """Write the page for `/metrics`: return its content type and its bytes.

    `accept` is the request's Accept header: OpenMetrics where it is asked for, else the Prometheus text format.
    """
    encoder, content_type = choose_encoder(accept)
    return content_type, encoder(registry)
