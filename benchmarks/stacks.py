"""What a careful user composes by hand today: the peers' stacks that a governed call is measured against."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import aiolimiter
import backoff
import circuitbreaker
import limits
import limits.aio.storage
import limits.aio.strategies
import limits.storage
import limits.strategies
import orjson
import pybreaker
import structlog
import tenacity
from opentelemetry import trace
from opentelemetry.propagate import inject
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from pyresilience import (
    BulkheadConfig,
    CircuitBreakerConfig,
    RateLimiterConfig,
    RetryConfig,
    TimeoutConfig,
    resilient,
)

MANY = limits.parse("1000000000/second")
Call = Callable[..., Any]


class Limited(Exception):
    pass


def _retry() -> Any:
    return tenacity.retry(
        stop=tenacity.stop_after_attempt(3),
        wait=tenacity.wait_random_exponential(multiplier=0.05, max=1),
        retry=tenacity.retry_if_exception_type((ConnectionError, TimeoutError)),
        reraise=True,
    )


def typical_sync(target: Call) -> Call:
    """tenacity, limits, a semaphore, pybreaker."""
    breaker = pybreaker.CircuitBreaker(fail_max=5, reset_timeout=30)
    limiter = limits.strategies.FixedWindowRateLimiter(limits.storage.MemoryStorage())
    places = threading.BoundedSemaphore(64)

    @_retry()
    def call(*args: Any, **options: Any) -> Any:
        if not limiter.hit(MANY, "service"):
            raise Limited
        with places:
            return breaker.call(target, *args, **options)

    return call


def typical(target: Callable[..., Awaitable[Any]]) -> Call:
    """tenacity, limits, a semaphore, asyncio.timeout, pybreaker."""
    breaker = pybreaker.CircuitBreaker(fail_max=5, reset_timeout=30)
    limiter = limits.aio.strategies.FixedWindowRateLimiter(limits.aio.storage.MemoryStorage())
    places = asyncio.Semaphore(64)

    @_retry()
    async def call(*args: Any, **options: Any) -> Any:
        if not await limiter.hit(MANY, "service"):
            raise Limited
        async with places, asyncio.timeout(5):
            with breaker.calling():
                return await target(*args, **options)

    return call


def cheapest(target: Callable[..., Awaitable[Any]]) -> Call:
    """The cheapest peer of each kind: backoff, aiolimiter, a semaphore, asyncio.timeout, circuitbreaker."""
    limiter = aiolimiter.AsyncLimiter(10**9, 1)
    places = asyncio.Semaphore(64)
    guarded = circuitbreaker.CircuitBreaker(name="cheapest")(target)

    @backoff.on_exception(backoff.expo, (ConnectionError, TimeoutError), max_tries=3)
    async def call(*args: Any, **options: Any) -> Any:
        async with limiter, places, asyncio.timeout(5):
            return await guarded(*args, **options)

    return call


def pyresilient(target: Call, *, timeout: bool) -> Call:
    """pyresilience: retry, breaker, bulkhead, limiter; with its timeout or without."""
    options: dict[str, Any] = {
        "retry": RetryConfig(max_attempts=3),
        "circuit_breaker": CircuitBreakerConfig(),
        "bulkhead": BulkheadConfig(max_concurrent=64),
        "rate_limiter": RateLimiterConfig(max_calls=10**9, period=1.0),
    }
    if timeout:
        options["timeout"] = TimeoutConfig(seconds=5)
    return resilient(**options)(target)  # type: ignore[no-any-return]


def logger() -> Any:
    """structlog at its fastest: orjson, bytes, cached."""
    return structlog.wrap_logger(
        structlog.BytesLogger(open(os.devnull, "wb")),
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(serializer=orjson.dumps),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        cache_logger_on_first_use=True,
        context_class=dict,
    )


class Observed:
    """prometheus counter, histogram and gauge with labels per call, an OTel span with W3C inject, a JSON line."""

    def __init__(self, provider: Any) -> None:
        registry = CollectorRegistry()
        names = ("service", "method", "code")
        self.count = Counter("rpc_calls", "calls", names, registry=registry)
        self.seconds = Histogram("rpc_seconds", "seconds", names[:2], registry=registry)
        self.inflight = Gauge("rpc_inflight", "in flight", names[:2], registry=registry)
        self.tracer = provider.get_tracer("bench")
        self.log = logger().bind(service="echo.Echo")

    def around(self, target: Call) -> Call:
        async def call(*args: Any, **options: Any) -> Any:
            began = time.perf_counter()
            self.inflight.labels("echo.Echo", "Echo").inc()
            with self.tracer.start_as_current_span("echo.Echo/Echo") as span:
                try:
                    inject({})
                    return await target(*args, **options)
                finally:
                    self._ended(span, began)

        return call

    def around_sync(self, target: Call) -> Call:
        def call(*args: Any, **options: Any) -> Any:
            began = time.perf_counter()
            self.inflight.labels("echo.Echo", "Echo").inc()
            with self.tracer.start_as_current_span("echo.Echo/Echo") as span:
                try:
                    inject({})
                    return target(*args, **options)
                finally:
                    self._ended(span, began)

        return call

    def _ended(self, span: Any, began: float) -> None:
        seconds = time.perf_counter() - began
        self.inflight.labels("echo.Echo", "Echo").dec()
        self.count.labels("echo.Echo", "Echo", "OK").inc()
        self.seconds.labels("echo.Echo", "Echo").observe(seconds)
        place = span.get_span_context()
        self.log.info("call", method="Echo", seconds=seconds, trace_id=format(place.trace_id, "032x"))


def provider(share: float | None) -> Any:
    """A tracer provider: none at all, or the SDK at a sampling share with an exporter that throws spans away."""
    if share is None:
        return trace.NoOpTracerProvider()
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
    from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

    class Nowhere(SpanExporter):
        def export(self, spans: Any) -> SpanExportResult:
            return SpanExportResult.SUCCESS

    made = TracerProvider(sampler=ParentBased(TraceIdRatioBased(share)), shutdown_on_exit=False)
    made.add_span_processor(BatchSpanProcessor(Nowhere()))
    return made
