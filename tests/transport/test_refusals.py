"""What a policy refuses is told the same over every wire, by real servers: gRPC of both colours, and ASGI."""

from __future__ import annotations

import json
from typing import Any

import grpc
import pytest
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from msgov import wire
from msgov.errors import BreakerOpen, BulkheadFull, DeadlineSpent, MsgovError, RateLimited, Shed
from msgov.messaging.idempotency import KeyConflict
from msgov.resilience.limiter import Limiter, LimiterRule
from msgov.resilience.throttle import Throttled
from msgov.transport import problem
from msgov.transport.grpc import status
from tests.transport.grpc.served import WAYS, served
from tests.transport.web import TRACEPARENT, No, get, governed, raw, run, serving

Code = grpc.StatusCode

REFUSED = [
    (RateLimited("10 a second", retry_after=1.25), 429, Code.RESOURCE_EXHAUSTED, False),
    (Shed("cpu"), 503, Code.UNAVAILABLE, True),
    (Throttled("k"), 503, Code.UNAVAILABLE, True),
    (BulkheadFull("full"), 503, Code.UNAVAILABLE, True),
    (BreakerOpen("open", retry_after=2.0), 503, Code.UNAVAILABLE, True),
    (DeadlineSpent("spent"), 504, Code.DEADLINE_EXCEEDED, False),
]
IDS = [type(error).__name__ for error, *_ in REFUSED]


def _trailing(error: Any) -> dict[str, Any]:
    return dict(error.trailing_metadata())


def _details(error: Any) -> tuple[ErrorInfo, RetryInfo | None]:
    info, retry = ErrorInfo(), RetryInfo()
    told = Status.FromString(_trailing(error)[status.DETAILS])
    found = None
    for detail in told.details:
        detail.Unpack(info)
        if detail.Is(RetryInfo.DESCRIPTOR):
            detail.Unpack(retry)
            found = retry
    return info, found


def _handle(request: Any, context: Any) -> bytes:
    return b"answer"


async def _ahandle(request: Any, context: Any) -> bytes:
    return b"answer"


async def _app(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"x-own", b"1")]})
    await send({"type": "http.response.body", "body": b"yes"})


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("refused", "http", "code", "overloaded"), REFUSED, ids=IDS)
def test_grpc_tells_code_signal_and_time(
    way: str, refused: MsgovError, http: int, code: grpc.StatusCode, overloaded: bool
) -> None:
    """A client in any language can read that it was not done, why, and when to come back."""
    with served(way, _ahandle if way == "aio" else _handle, No(refused)) as s:
        error = s.fails()
    trailing, (info, retry) = _trailing(error), _details(error)
    assert error.code() is code
    assert (trailing["msgov-sent"], info.reason) == ("no", refused.reason.upper())
    assert (trailing.get("msgov-overloaded") == "1") is overloaded
    if refused.retry_after is None:
        assert (retry, "grpc-retry-pushback-ms" in trailing) == (None, False)
    else:
        assert retry is not None
        assert (
            retry.retry_delay.ToMilliseconds() == int(trailing["grpc-retry-pushback-ms"]) == refused.retry_after * 1000
        )


@pytest.mark.parametrize(("refused", "http", "code", "overloaded"), REFUSED, ids=IDS)
def test_http_tells_status_signal_and_time(
    refused: MsgovError, http: int, code: grpc.StatusCode, overloaded: bool
) -> None:
    """The same, as a problem with Retry-After."""

    @run
    async def test() -> None:
        async with serving(governed(_app, No(refused))) as port:
            answer = await raw(port, get("/a", TRACEPARENT))
        assert (answer.status, answer.problem["code"]) == (http, refused.reason)
        assert (answer.headers["msgov-sent"], answer.headers.get("msgov-overloaded") == "1") == ("no", overloaded)
        wait = refused.retry_after
        assert answer.headers.get("retry-after") == (None if wait is None else str(-int(-wait // 1)))

    test()


@pytest.mark.parametrize("way", WAYS)
def test_a_clients_own_policies_read_it_as_it_was_meant(way: str) -> None:
    """Never sent, overloaded, and when: the outcome that a retry and a breaker learn from."""
    with served(way, _ahandle if way == "aio" else _handle, No(Shed("cpu", retry_after=0.5))) as s:
        error = s.fails()
    found = status.outcome(error.code(), error.trailing_metadata(), error)
    assert (found.verdict.name, found.sent.name, found.overloaded, found.retry_after) == ("TRANSIENT", "NO", True, 0.5)


@pytest.mark.parametrize("way", WAYS)
def test_a_key_that_came_with_another_body_is_aborted_for_good(way: str) -> None:
    """ABORTED may pass, by its name; this never will, so it says not to try again."""
    conflict = KeyConflict("order: key k came before with another body", key="k")

    def handle(request: Any, context: Any) -> bytes:
        raise conflict

    async def ahandle(request: Any, context: Any) -> bytes:
        raise conflict

    with served(way, ahandle if way == "aio" else handle) as s:
        error = s.fails()
    assert error.code() is Code.ABORTED
    assert "key k" not in error.details()
    found = status.outcome(error.code(), error.trailing_metadata(), error)
    assert found.retry_after is not None
    assert found.retry_after < 0


@run
async def test_a_key_that_came_with_another_body_is_a_conflict() -> None:
    """Asking again will not help, and over HTTP the status says so by itself."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise KeyConflict("order: key k came before with another body", key="k")

    async with serving(governed(app)) as port:
        answer = await raw(port, get("/a"))
    assert (answer.status, answer.problem["code"]) == (409, "idempotency_conflict")
    assert b"key k" not in answer.body
    found = problem.outcome(answer.status, answer.headers, None)
    assert found.verdict.name == "PERMANENT"


@run
async def test_a_limit_that_is_hit_is_told_in_ratelimit_headers() -> None:
    """draft-ietf-httpapi-ratelimit-headers: by the numbers that decided, and Retry-After wins."""
    limiter = Limiter(LimiterRule(rate="2/minute"), name="api")
    async with serving(governed(_app, limiter)) as port:
        good = [await raw(port, get("/a")) for _ in range(2)]
        answer = await raw(port, get("/a"))
    assert [(each.status, "ratelimit" in each.headers) for each in good] == [(200, False)] * 2
    assert answer.status == 429
    assert answer.headers["ratelimit-policy"] == '"api";q=2;w=60'
    assert answer.headers["ratelimit"].startswith('"api";r=0;t=')
    assert 25 <= int(answer.headers["retry-after"]) <= 30
    assert answer.problem["why"]["limit"] == pytest.approx(2 / 60, abs=1e-6)


@run
async def test_an_edge_may_tell_every_caller_where_it_stands() -> None:
    """Who sees the limit coming slows down before it is hit."""
    limiter = Limiter(LimiterRule(rate="2/minute"), name="api")
    async with serving(governed(_app, limiter, standing=True)) as port:
        found = [await raw(port, get("/a", TRACEPARENT)) for _ in range(3)]
    assert [each.status for each in found] == [200, 200, 429]
    assert [each.headers["ratelimit"].split(";")[1] for each in found] == ["r=1", "r=0", "r=0"]
    assert found[0].headers["x-own"] == "1"


@run
async def test_a_limit_further_in_is_nobody_elses_business() -> None:
    """The caller did not reach the limit that a call of ours did."""
    limiter = Limiter(LimiterRule(rate="1/minute"), name="inner-secret")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        from msgov.call import Call

        limiter.admit(Call("payment"), 0.0)
        limiter.admit(Call("payment"), 0.0)

    async with serving(governed(app)) as port:
        answer = await raw(port, get("/a"))
    assert answer.status == 429
    assert ("ratelimit" in answer.headers, "why" in answer.problem, "msgov-sent" in answer.headers) == (False,) * 3
    assert b"inner-secret" not in answer.body


def test_numbers_that_no_wire_can_hold_are_cut() -> None:
    """A wait of years, or for ever, is a wait of weeks: A6 has 32 bits for its milliseconds."""
    for wait in (1e12, float("inf")):
        refusal = status.refusal(RateLimited("x", retry_after=wait), began=False, trace_id="")
        assert int(dict(refusal.trailing)["grpc-retry-pushback-ms"]) < 2**31
        assert "retry-after" in {
            name.decode()
            for name, _ in problem.refusal(RateLimited("x", retry_after=1e12), began=False, trace=None).headers
        }


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("400", 0.4),
        ("0", 0.0),
        ("-1", -1.0),
        ("soon", -1.0),
        ("", -1.0),
        ("1_0", -1.0),
        ("9" * 400, -1.0),
        ("1.5", -1.0),
    ],
)
def test_a_pushback_is_a_number_or_a_no(value: str, seconds: float) -> None:
    """gRFC A6: negative or unparsable means that nobody tries again."""
    found = status.outcome(Code.UNAVAILABLE, ((wire.PUSHBACK, value),), None)
    assert found.retry_after == seconds


def test_retry_info_is_read_where_no_pushback_came() -> None:
    """Services in other languages send the details, and not our header."""
    refusal = status.refusal(RateLimited("x", retry_after=1.5), began=False, trace_id="")
    details = tuple(pair for pair in refusal.trailing if pair[0] == status.DETAILS)
    assert status.outcome(Code.RESOURCE_EXHAUSTED, details, None).retry_after == 1.5
    broken = ((status.DETAILS, b"\xff\xff not a message"),)
    assert status.outcome(Code.RESOURCE_EXHAUSTED, broken, None).retry_after is None


def test_a_problem_is_plain_json() -> None:
    """Whatever facts decided."""
    error = Shed("x", level=3, cpu=float("nan"), who="secret")
    body = json.loads(problem.refusal(error, began=False, trace=None).body)
    assert body["why"] == {"level": 3, "safe_to_retry": True}
