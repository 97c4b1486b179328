"""Each metric is declared once, and docs, dashboards and the guard are made from the declaration.

A name is what Prometheus shows. `error_type` is empty when all is well: an empty label equals no label.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from msgov.observability import semconv as names
from msgov.observability.semconv import label

Kind = Literal["counter", "gauge", "histogram"]
Origin = Literal["stable", "candidate", "development", "prometheus", "msgov"]


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric: its exact name, its kind, its labels in order, and who named it.

    `origin` tells how far the name can be trusted to stay: OpenTelemetry's `stable`, `candidate` or `development`
    conventions, `prometheus` for the client's process metrics, or `msgov` where no convention exists. `buckets` are
    upper bounds without the infinite one, in seconds unless the name says otherwise.
    """

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    origin: Origin = "msgov"
    buckets: tuple[float, ...] = ()


Sample: TypeAlias = tuple[Metric, tuple[str, ...], float]
"""One number of a metric, with its label values in the metric's order."""


def _histogram(
    name: str, about: str, *labels: str, origin: Origin = "msgov", buckets: tuple[float, ...] = names.RPC_BUCKETS
) -> Metric:
    return Metric(name, "histogram", about, labels, origin, buckets)


def _counter(name: str, about: str, *labels: str, origin: Origin = "msgov") -> Metric:
    return Metric(name, "counter", about, labels, origin)


def _gauge(name: str, about: str, *labels: str, origin: Origin = "msgov") -> Metric:
    return Metric(name, "gauge", about, labels, origin)


_RPC: Final = (label(names.RPC_SYSTEM), label(names.RPC_METHOD), label(names.RPC_STATUS), label(names.ERROR_TYPE))
_HTTP: Final = (label(names.HTTP_METHOD), label(names.HTTP_ROUTE), label(names.HTTP_STATUS), label(names.ERROR_TYPE))
_ADDRESS: Final = label(names.SERVER_ADDRESS)
_MESSAGING: Final = (
    label(names.MESSAGING_SYSTEM),
    label(names.MESSAGING_OPERATION),
    label(names.MESSAGING_DESTINATION),
    label(names.MESSAGING_GROUP),
    label(names.ERROR_TYPE),
)

# Calls.
RPC_SERVER = _histogram(
    "rpc_server_call_duration_seconds", "How long calls took that this process served.", *_RPC, origin="candidate"
)
RPC_CLIENT = _histogram(
    "rpc_client_call_duration_seconds",
    "How long calls took that this process made, with retries, backoff and waiting in line.",
    *_RPC,
    _ADDRESS,
    origin="candidate",
)
HTTP_SERVER = _histogram(
    "http_server_request_duration_seconds", "How long HTTP requests took to serve.", *_HTTP, origin="stable"
)
HTTP_CLIENT = _histogram(
    "http_client_request_duration_seconds",
    "How long HTTP requests took, with retries, backoff and waiting in line.",
    *_HTTP,
    _ADDRESS,
    origin="stable",
)
PROCESS = _histogram(
    "messaging_process_duration_seconds",
    "How long handlers took to process a message.",
    *_MESSAGING,
    origin="development",
    buckets=names.QUEUE_BUCKETS,
)
OPERATION = _histogram(
    "messaging_client_operation_duration_seconds",
    "How long the broker took to take a message.",
    *_MESSAGING,
    origin="development",
)
SENT = _counter(
    "messaging_client_sent_messages_total", "Messages handed to a broker.", *_MESSAGING, origin="development"
)
CONSUMED = _counter(
    "messaging_client_consumed_messages_total", "Messages handed to a handler.", *_MESSAGING, origin="development"
)
INFLIGHT = _gauge("msgov_server_inflight", "Calls being served now.")
DEADLINE_LEFT = _histogram(
    "msgov_deadline_remaining_seconds", "Time that callers left for a call when it came in.", "entry"
)
DEADLINE_EXCEEDED = _counter(
    "msgov_deadline_exceeded_total",
    "Calls that ran out of time: inbound (served), outbound (made), queue (refused before they were sent).",
    "where",
)

# Attempts.
ATTEMPTS = _counter(
    "msgov_client_attempts_total",
    "Attempts at calls; attempt is 1, 2, 3 or 4+, outcome the verdict on it or rejected.",
    "target",
    label(names.RPC_METHOD),
    "attempt",
    "outcome",
)
ATTEMPT_DURATION = _histogram(
    "msgov_client_attempt_duration_seconds", "How long single attempts took.", "target", "outcome"
)
RETRIES = _histogram(
    "msgov_client_call_retries",
    "Retries of the calls that were retried.",
    "target",
    label(names.RPC_METHOD),
    buckets=names.RETRY_BUCKETS,
)
RETRY_SUPPRESSED = _counter(
    "msgov_retry_suppressed_total",
    "Retries and hedges not made: budget, deadline, not_idempotent, breaker, pushback, allowance, attempts, rejected, "
    "of hedges also load, overloaded.",
    "target",
    "reason",
)
RETRIES_MADE = _counter("msgov_retries_total", "Attempts begun because one before them had failed.", "target")
RETRY_BUDGET = _gauge("msgov_retry_budget_remaining_ratio", "Share of the retry budget that is left.", "target")
HEDGES = _counter(
    "msgov_hedges_total",
    "Attempts beside one that was slow: started, won (its reply was taken), lost (another's was).",
    "target",
    "outcome",
)
HEDGE_DELAY = _gauge(
    "msgov_hedge_delay_seconds", "How long a first attempt has for itself; absent while too little is known.", "target"
)

# Answers without the callee.
FALLBACKS = _counter(
    "msgov_fallbacks_total",
    "Calls for which a fallback was asked: answered, or failed too.",
    "target",
    "kind",
    "outcome",
)
CACHE_REQUESTS = _counter(
    "msgov_cache_requests_total",
    "Calls by what the cache had: hit, miss, stale (served old), error (asked in vain); a stale one that was asked for "
    "first is a miss and an error too.",
    "cache",
    "result",
)
CACHE_ENTRIES = _gauge("msgov_cache_entries", "Answers that a cache keeps.", "cache")
CACHE_EVICTIONS = _counter("msgov_cache_evictions_total", "Answers that made room for others.", "cache")
COALESCE_CALLS = _counter(
    "msgov_coalesce_calls_total",
    "Calls by how they were executed: led, joined another's execution, alone for want of room.",
    "coalesce",
    "result",
)
COALESCE_INFLIGHT = _gauge("msgov_coalesce_inflight", "Executions under way that others can join.", "coalesce")

# Faults on purpose.
FAULTS = _counter("msgov_faults_injected_total", "Calls broken on purpose: latency, error, hang.", "fault", "kind")
FAULT_ALLOWED = _gauge("msgov_fault_allowed", "1 where a rule may break calls on purpose.", "fault")

# Gates.
BREAKER_STATE = _gauge("msgov_breaker_state", "1 for the state that the breaker is in.", "breaker", "target", "state")
BREAKER_TRANSITIONS = _counter(
    "msgov_breaker_transitions_total", "Changes of a breaker's state.", "breaker", "target", "from", "to", "reason"
)
BREAKER_CALLS = _counter(
    "msgov_breaker_calls_total",
    "Calls by what the breaker made of them: success, failure, slow (of both), ignored, rejected.",
    "breaker",
    "target",
    "outcome",
)
BREAKER_FAILURES = _gauge("msgov_breaker_failure_ratio", "Share of failures in the window.", "breaker", "target")
BREAKER_THRESHOLD = _gauge(
    "msgov_breaker_failure_ratio_threshold",
    "Share of failures at which the breaker opens; absent where it does not open by it.",
    "breaker",
    "target",
)
BREAKER_SLOW = _gauge("msgov_breaker_slow_ratio", "Share of slow calls in the window.", "breaker", "target")
BREAKER_SLOW_THRESHOLD = _gauge(
    "msgov_breaker_slow_ratio_threshold",
    "Share of slow calls at which the breaker opens; absent where it does not open by it.",
    "breaker",
    "target",
)
BREAKER_OPENED = _gauge(
    "msgov_breaker_opened_timestamp_seconds",
    "When the breaker opened; absent while it is not open.",
    "breaker",
    "target",
)
BREAKER_ADMITTED = _gauge(
    "msgov_breaker_admitted_ratio",
    "Share of calls let in, probes apart: 1 closed, 0 open, in between while it comes back.",
    "breaker",
    "target",
)
BREAKER_KEYS = _gauge(
    "msgov_breaker_keys",
    "Breakers of a keyed one, such as one for each instance, by state.",
    "breaker",
    "target",
    "state",
)
BREAKER_OVERFLOWED = _counter(
    "msgov_breaker_overflowed_total", "Calls that shared a breaker since there were too many keys.", "breaker", "target"
)
LIMITER_DECISIONS = _counter(
    "msgov_limiter_decisions_total",
    "What a limiter decided: admitted or rejected; of an adaptive one queued or rejected.",
    "limiter",
    "decision",
)
LIMITER_LIMIT = _gauge(
    "msgov_limiter_limit",
    "What a limiter allows: calls per second, of an adaptive one calls at once; absent of a pace that is off.",
    "limiter",
)
LIMITER_KEYS = _gauge("msgov_limiter_keys", "Keys that a limiter remembers.", "limiter")
LIMITER_OVERFLOWED = _counter(
    "msgov_limiter_overflowed_total", "Calls that shared a bucket since there were too many keys.", "limiter"
)
LIMITER_INFLIGHT = _gauge("msgov_limiter_inflight", "Calls inside an adaptive limiter.", "limiter")
LIMITER_QUEUE = _gauge("msgov_limiter_queue_depth", "Calls waiting for room in an adaptive limiter.", "limiter")
LIMITER_DROPS = _counter(
    "msgov_limiter_drops_total",
    "Calls that ended late or refused for overload, which lower an adaptive limit.",
    "limiter",
)
LIMITER_SHARES = _gauge(
    "msgov_limiter_share_inflight", "Calls inside an adaptive limiter by the share they use.", "limiter", "share"
)
QUOTA_BY_PART = _counter(
    "msgov_quota_by_part_total", "Calls that this process's part of a quota decided, not the store.", "limiter"
)
QUOTA_LOST = _gauge("msgov_quota_store_lost", "1 while the store of a quota is not reached.", "limiter")
QUOTA_LOSSES = _counter("msgov_quota_store_losses_total", "Times that the store of a quota was lost.", "limiter")
BULKHEAD_INFLIGHT = _gauge("msgov_bulkhead_inflight", "Calls inside a bulkhead.", "bulkhead")
BULKHEAD_LIMIT = _gauge("msgov_bulkhead_limit", "Calls that a bulkhead has room for.", "bulkhead")
BULKHEAD_QUEUE = _gauge("msgov_bulkhead_queue_depth", "Calls waiting for room in a bulkhead.", "bulkhead")
BULKHEAD_REJECTED = _counter("msgov_bulkhead_rejected_total", "Calls that found a bulkhead full.", "bulkhead")
BULKHEAD_QUEUED = _counter("msgov_bulkhead_queued_total", "Calls that had to wait for room in a bulkhead.", "bulkhead")
SHED = _counter(
    "msgov_shed_total",
    "Calls turned away by what was too high (cpu, lag, delay, or recent: one of them just before) and how much they "
    "matter.",
    "reason",
    "priority",
)
SHED_INFLIGHT = _gauge("msgov_shed_inflight", "Calls inside a shedder.", "shedder")
SHED_CEILING = _gauge(
    "msgov_shed_ceiling", "Calls in flight that can be done without waiting; absent until it is known.", "shedder"
)
SHED_THRESHOLD = _gauge("msgov_shed_threshold", "Level below which a call past the ceiling is shed.", "shedder")
LOAD_CPU = _gauge("msgov_load_cpu_ratio", "Share of the CPU in use, smoothed, as shedding sees it.")
LOAD_LAG = _gauge("msgov_load_loop_lag_seconds", "How late the event loop is, smoothed, as shedding sees it.")
LOAD_DELAY = _gauge("msgov_load_thread_delay_seconds", "How long work waits for a thread, as shedding sees it.")
THROTTLE_CALLS = _counter(
    "msgov_throttle_calls_total",
    "Calls by what became of them: taken or refused by the callee, held back here.",
    "throttle",
    "outcome",
)
THROTTLE_HELD = _gauge("msgov_throttle_held_ratio", "Share of calls that is held back now.", "throttle")
DEADLINE_CALLS = _counter(
    "msgov_deadline_calls_total",
    "Calls with too little time: refused unsent, let_through all the same, exceeded under way; the policy is deadline "
    "or attempt_deadline.",
    "deadline",
    "policy",
    "outcome",
)
SHADOW = _counter(
    "msgov_shadow_rejections_total",
    "Calls that a policy in shadow would have refused, and let in; absent where none was ever in shadow.",
    "policy",
    "name",
)

# Knowledge.
INSTANCES = _gauge(
    "msgov_discovery_instances",
    "Known instances of a service: healthy, unhealthy, draining, ejected.",
    "target",
    "state",
)
DISCOVERY_UPDATED = _gauge(
    "msgov_discovery_last_update_timestamp_seconds", "When the registry last spoke of a service.", "target"
)
DISCOVERY_STALE = _gauge(
    "msgov_discovery_serving_stale", "1 while the registry is silent and old knowledge serves.", "target"
)
REGISTERED = _gauge("msgov_discovery_registered", "1 while the registry knows this instance.", "target")
CONFIG_INFO = _gauge("msgov_config_info", "1 for the version in force.", "namespace", "version", "source")
CONFIG_STALE = _gauge("msgov_config_serving_stale", "1 while a layer's source is silent.", "layer")
CONFIG_RELOADS = _counter(
    "msgov_config_reloads_total", "Reloads of the configuration: applied, rejected, unchanged.", "outcome"
)
CONFIG_RELOADED = _gauge("msgov_config_last_reload_timestamp_seconds", "When the configuration last changed.")

# Messages.
CONSUMER_LAG = _gauge("msgov_consumer_lag_messages", "Messages that wait for a consumer.", "destination", "group")
DEAD_LETTERS = _counter("msgov_dead_letters_total", "Messages given up on.", "destination", "group")
REDELIVERIES = _counter("msgov_redeliveries_total", "Messages delivered again.", "destination", "group")
OUTBOX_PENDING = _gauge("msgov_outbox_pending", "Messages written but not yet handed to the broker.", "outbox")
OUTBOX_AGE = _gauge("msgov_outbox_oldest_age_seconds", "Age of the oldest pending message.", "outbox")
DEDUP = _counter("msgov_dedup_total", "What the inbox said of a message: first, duplicate.", "group", "result")

# Telemetry watches itself.
SERIES = _gauge("msgov_metric_series", "Series that a metric has.", "metric")
OVERFLOW = _counter(
    "msgov_metric_label_overflow_total", "Times a label value, or a series, was one too many.", "metric", "label"
)
DROPPED = _counter("msgov_telemetry_dropped_total", "Telemetry that could not be written.", "signal", "reason")
BUILD = _gauge("msgov_build_info", "1, for the versions at work.", "service", "version", "msgov", "python")

# The process.
GC_COLLECTIONS = _counter(
    "cpython_gc_collections_total", "Runs of the collector.", label(names.GC_GENERATION), origin="development"
)
GC_COLLECTED = _counter(
    "cpython_gc_collected_objects_total", "Objects collected.", label(names.GC_GENERATION), origin="development"
)
GC_UNCOLLECTABLE = _counter(
    "cpython_gc_uncollectable_objects_total",
    "Objects that could not be collected.",
    label(names.GC_GENERATION),
    origin="development",
)
_PROCESS: Final = (
    _gauge("process_virtual_memory_bytes", "Virtual memory size in bytes.", origin="prometheus"),
    _gauge("process_resident_memory_bytes", "Resident memory size in bytes.", origin="prometheus"),
    _gauge("process_start_time_seconds", "Start time of the process since unix epoch.", origin="prometheus"),
    _counter("process_cpu_seconds_total", "User and system CPU time spent.", origin="prometheus"),
    _gauge("process_open_fds", "Number of open file descriptors.", origin="prometheus"),
    _gauge("process_max_fds", "Maximum number of open file descriptors.", origin="prometheus"),
)

CATALOGUE: Final[tuple[Metric, ...]] = (
    *(value for value in tuple(globals().values()) if isinstance(value, Metric)),
    *_PROCESS,
)
"""Every metric that msgov emits, in the order of this file."""
