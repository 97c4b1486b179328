"""The page is what Prometheus expects, in either of its formats."""

from __future__ import annotations

import pytest
from prometheus_client import Counter as Foreign
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.registry import CollectorRegistry

from msgov.observability import catalogue
from msgov.observability.metrics import Metrics
from tests.observability.reading import sample, samples


def test_a_histogram_is_cumulative(metrics: Metrics) -> None:
    """Prometheus computes quantiles from buckets that each hold those below."""
    child = metrics.histogram(catalogue.RETRIES, "payment", "shop.Payment/Charge")
    for value in (1, 1, 3, 9):
        child.observe(value)
    labels = {"target": "payment", "rpc_method": "shop.Payment/Charge"}
    found = [
        sample(metrics, "msgov_client_call_retries_bucket", le=bound, **labels)
        for bound in ("1.0", "2.0", "3.0", "4.0", "5.0", "+Inf")
    ]
    assert found == [2, 2, 3, 3, 3, 4]
    assert sample(metrics, "msgov_client_call_retries_count", **labels) == 4
    assert sample(metrics, "msgov_client_call_retries_sum", **labels) == 14


def test_every_name_on_the_page_is_in_the_catalogue(metrics: Metrics) -> None:
    """Docs and alerts are made from the catalogue: nothing may be shown that it does not name."""
    metrics.histogram(catalogue.RPC_SERVER, "grpc", "a", "OK", "").observe(1)
    known = {metric.name for metric in catalogue.CATALOGUE}
    for name, _ in samples(metrics):
        bare = name.removesuffix("_bucket").removesuffix("_count").removesuffix("_sum")
        assert name in known or bare in known, name


def test_the_text_format_is_the_default(metrics: Metrics) -> None:
    """Whoever asks for nothing in particular reads plain text."""
    kind, page = metrics.exposition()
    assert kind.startswith("text/plain; version=0.0.4")
    assert b"# TYPE msgov_build_info gauge" in page


def test_openmetrics_is_written_where_it_is_asked_for(metrics: Metrics) -> None:
    """Its own strict parser must take the page."""
    metrics.counter(catalogue.CONFIG_RELOADS, "applied").inc()
    kind, page = metrics.exposition("application/openmetrics-text;version=1.0.0,text/plain;q=0.5")
    assert kind.startswith("application/openmetrics-text")
    families = {family.name for family in openmetrics(page.decode())}
    assert "msgov_config_reloads" in families


@pytest.mark.parametrize("accept", ["", "*/*", "\x00\xff", "application/openmetrics-text;version=;;;", "a" * 10_000])
def test_a_strange_accept_header_gets_a_page(metrics: Metrics, accept: str) -> None:
    """Anybody may send anything."""
    kind, page = metrics.exposition(accept)
    assert kind
    assert b"msgov_build_info" in page


def test_a_foreign_registry_is_joined_and_left() -> None:
    """A service with metrics of its own has one page, not two."""
    registry = CollectorRegistry()
    own = Foreign("shop_orders", "Orders.", registry=registry)
    own.inc()
    metrics = Metrics(registry)
    assert b"shop_orders_total 1.0" in metrics.exposition()[1]
    assert b"msgov_build_info" in metrics.exposition()[1]
    metrics.close()
    metrics.close()
    assert b"msgov_build_info" not in metrics.exposition()[1]


def test_a_name_that_is_taken_is_refused() -> None:
    """Two metrics of one name make a page that Prometheus drops whole."""
    registry = CollectorRegistry()
    Foreign("msgov_config_reloads", "Taken.", ["outcome"], registry=registry)
    with pytest.raises(ValueError, match="msgov_config_reloads"):
        Metrics(registry)


def test_the_page_tells_of_the_process(metrics: Metrics) -> None:
    """Memory and garbage stand beside the calls."""
    assert (sample(metrics, "process_resident_memory_bytes") or 0) > 0
    assert sample(metrics, "cpython_gc_collections_total", cpython_gc_generation="0") is not None


def test_the_page_counts_its_own_series(metrics: Metrics) -> None:
    """Telemetry watches itself."""
    for status in ("OK", "UNKNOWN"):
        metrics.histogram(catalogue.RPC_SERVER, "grpc", "a", status, "")
    assert sample(metrics, "msgov_metric_series", metric="rpc_server_call_duration_seconds") == 2
