"""Dashboards and alerts are written against these names: they are spelled out here a second time on purpose."""

from __future__ import annotations

import re

from msgov.observability.catalogue import CATALOGUE, Metric
from msgov.observability.semconv import DB_BUCKETS, RPC_BUCKETS

RPC = ("rpc_system_name", "rpc_method", "rpc_status_code", "error_type")
HTTP = ("http_request_method", "http_route", "http_response_status_code", "error_type")
MESSAGING = (
    "messaging_system",
    "messaging_operation_name",
    "messaging_destination_name",
    "messaging_consumer_group_name",
    "error_type",
)
BY_NAME = {metric.name: metric for metric in CATALOGUE}


def labels(name: str) -> tuple[str, ...]:
    """Return the labels of a metric."""
    return BY_NAME[name].labels


def test_names_are_unique() -> None:
    """Two metrics of one name would make a page that Prometheus refuses."""
    assert len(BY_NAME) == len(CATALOGUE)


def test_calls_have_the_labels_of_the_conventions() -> None:
    """A user may replace us by OpenTelemetry's own metrics without touching a dashboard."""
    assert labels("rpc_server_call_duration_seconds") == RPC
    assert labels("rpc_client_call_duration_seconds") == (*RPC, "server_address")
    assert labels("http_server_request_duration_seconds") == HTTP
    assert labels("http_client_request_duration_seconds") == (*HTTP, "server_address")
    assert labels("messaging_process_duration_seconds") == MESSAGING
    assert labels("messaging_client_operation_duration_seconds") == MESSAGING
    assert labels("messaging_client_sent_messages_total") == MESSAGING
    assert labels("messaging_client_consumed_messages_total") == MESSAGING


def test_governance_has_the_labels_that_dashboards_ask_for() -> None:
    """No convention exists for these, so the catalogue is the convention."""
    assert labels("msgov_client_attempts_total") == ("target", "rpc_method", "attempt", "outcome")
    assert labels("msgov_client_attempt_duration_seconds") == ("target", "outcome")
    assert labels("msgov_retry_suppressed_total") == ("target", "reason")
    assert labels("msgov_retry_budget_remaining_ratio") == ("target",)
    assert labels("msgov_breaker_state") == ("breaker", "target", "state")
    assert labels("msgov_breaker_transitions_total") == ("breaker", "target", "from", "to", "reason")
    assert labels("msgov_breaker_calls_total") == ("breaker", "target", "outcome")
    assert labels("msgov_limiter_decisions_total") == ("limiter", "decision")
    assert labels("msgov_deadline_remaining_seconds") == ("entry",)
    assert labels("msgov_deadline_exceeded_total") == ("where",)
    assert labels("msgov_fallbacks_total") == ("target", "kind", "outcome")
    assert labels("msgov_cache_requests_total") == ("cache", "result")
    assert labels("msgov_shed_total") == ("reason", "priority")
    for gauge in ("failure_ratio", "slow_ratio", "failure_ratio_threshold", "slow_ratio_threshold"):
        assert labels(f"msgov_breaker_{gauge}") == ("breaker", "target")
    assert labels("msgov_breaker_opened_timestamp_seconds") == ("breaker", "target")
    assert labels("msgov_limiter_limit") == labels("msgov_limiter_inflight") == ("limiter",)
    for gauge in ("inflight", "limit", "queue_depth", "rejected_total"):
        assert labels(f"msgov_bulkhead_{gauge}") == ("bulkhead",)
    assert labels("msgov_discovery_instances") == ("target", "state")
    assert labels("msgov_config_info") == ("namespace", "version", "source")
    assert labels("msgov_config_reloads_total") == ("outcome",)


def test_names_of_our_own_have_labels_of_the_same_kind() -> None:
    """Where the list of names is silent: who, then what became of it."""
    assert labels("msgov_retries_total") == ("target",)
    assert labels("msgov_hedges_total") == ("target", "outcome")
    assert labels("msgov_throttle_calls_total") == ("throttle", "outcome")
    assert labels("msgov_coalesce_calls_total") == ("coalesce", "result")
    assert labels("msgov_faults_injected_total") == ("fault", "kind")
    assert labels("msgov_deadline_calls_total") == ("deadline", "policy", "outcome")
    assert labels("msgov_shadow_rejections_total") == ("policy", "name")
    assert labels("msgov_breaker_keys") == ("breaker", "target", "state")


def test_names_follow_prometheus() -> None:
    """Base units, `_total` on counters alone, no milliseconds."""
    for metric in CATALOGUE:
        assert re.fullmatch(r"[a-z][a-z0-9_]*", metric.name), metric
        assert metric.name.endswith("_total") == (metric.kind == "counter"), metric
        assert "_ms" not in metric.name, metric
        assert metric.help.endswith("."), metric


def test_only_histograms_have_buckets() -> None:
    """Buckets are the conventions' own where a duration is one of theirs."""
    for metric in CATALOGUE:
        assert bool(metric.buckets) == (metric.kind == "histogram"), metric
        assert list(metric.buckets) == sorted(set(metric.buckets)), metric
    assert BY_NAME["rpc_server_call_duration_seconds"].buckets == RPC_BUCKETS
    assert RPC_BUCKETS[0] == 0.005
    assert RPC_BUCKETS[-1] == 10
    assert DB_BUCKETS[0] == 0.001


def test_label_names_are_never_those_that_prometheus_sets() -> None:
    """`job` and `instance` say which service and which replica: a label of that name would be renamed by the scrape."""
    for metric in CATALOGUE:
        assert not {"job", "instance", "le"} & set(metric.labels), metric


def test_a_metric_is_a_value() -> None:
    """What docs and dashboards are made from cannot change under them."""
    assert Metric("a", "gauge", "A.") == Metric("a", "gauge", "A.")
