"""Every name that msgov puts on a wire stands here, with the code that writes and reads its value.

gRPC metadata, HTTP headers and message headers carry the same lower-case names. Deadlines are honoured from anyone,
since they only shrink; attempt allowance and criticality only from a trusted hop. What cannot be read is passed over,
never an error.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from random import getrandbits  # Python seeds it anew in a forked child

from msgov.call import Call
from msgov.scope import CRITICAL, Criticality, Scope, Trace, sooner

TRACEPARENT = "traceparent"  # W3C Trace Context
TRACESTATE = "tracestate"
BAGGAGE = "baggage"  # W3C Baggage
DEADLINE = "msgov-deadline-ms"  # what is left, relative, in whole milliseconds
ENVOY_DEADLINE = "x-envoy-expected-rq-timeout-ms"  # read only
GRPC_TIMEOUT = "grpc-timeout"  # read only: gRPC itself writes it
ATTEMPT = "msgov-attempt"  # from 2 on
ENVOY_ATTEMPT = "x-envoy-attempt-count"  # read only
GRPC_PREVIOUS = "grpc-previous-rpc-attempts"  # read only: gRPC's core writes it, and takes it away where others do
ATTEMPTS_LEFT = "msgov-attempts-left"  # what the layers below may still spend: nothing, for a retry
CRITICALITY = "msgov-criticality"  # "sheddable", "sheddable_plus", "critical_plus"; "critical" goes without saying
OVERLOADED = "msgov-overloaded"  # "1" on a refusal: do not pile on
ENVOY_OVERLOADED = "x-envoy-overloaded"  # read only: "true"
SENT = "msgov-sent"  # "no" on a refusal made before the handler ran
REASON = "msgov-reason"  # the short name of our own error
IDEMPOTENCY_KEY = "idempotency-key"  # draft-ietf-httpapi-idempotency-key-header
PUSHBACK = "grpc-retry-pushback-ms"  # gRFC A6
REQUEST_ID = "x-request-id"
TRACE_ID = "x-trace-id"  # on HTTP replies, for people
TRACERESPONSE = "traceresponse"  # W3C Trace Context 2, on HTTP replies

LONGEST = 600.0  # seconds; a longer deadline on the wire is clamped to it
STATE_LIMIT = 512  # characters of tracestate kept
BAGGAGE_LIMIT = 8192  # characters; W3C asks for no more

_PARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.ASCII)
_NO_TRACE, _NO_SPAN = "0" * 32, "0" * 16
_UNITS: Mapping[str, float] = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_PRINTABLE = re.compile(r"[\x20-\x7e]*", re.ASCII)


def new_trace_id() -> str:
    """Mint a random trace id of 32 hex digits; chance, not secrecy, is what it needs."""
    return getrandbits(128).to_bytes(16, "big").hex()  # half the time of formatting


def new_span_id() -> str:
    """Mint a random span id of 16 hex digits."""
    return getrandbits(64).to_bytes(8, "big").hex()


def child(trace: Trace | None) -> Trace:
    """Mint a new span under `trace`, or a new unsampled trace where there is none."""
    if trace is None:
        minted = getrandbits(192).to_bytes(24, "big").hex()
        return Trace(minted[:32], minted[32:])
    return Trace(trace.trace_id, getrandbits(64).to_bytes(8, "big").hex(), trace.sampled, trace.state)


def write_traceparent(trace: Trace) -> str:
    """Write the traceparent header, version 00."""
    return f"00-{trace.trace_id}-{trace.span_id}-{'01' if trace.sampled else '00'}"


def read_traceparent(value: str | None, state: str = "") -> Trace | None:
    """Read a traceparent header; None for one that W3C Trace Context says to ignore."""
    found = _PARENT.fullmatch(value) if value else None
    if found is None:
        return None
    version, trace_id, span_id, flags, rest = found.groups()
    if trace_id == _NO_TRACE or span_id == _NO_SPAN or version == "ff" or (rest and version == "00"):
        return None
    if state and (len(state) > STATE_LIMIT or not _PRINTABLE.fullmatch(state)):
        state = ""
    return Trace(trace_id, span_id, flags[1] in "13579bdf", state)


def read_milliseconds(value: str | None) -> float | None:
    """Read whole milliseconds into seconds, clamped to 0..LONGEST; None where there is no number."""
    if not value or len(value) > 18 or not value.isascii() or not value.isdigit():
        return None
    return min(int(value) / 1000.0, LONGEST)


def read_grpc_timeout(value: str | None) -> float | None:
    """Read a grpc-timeout (1 to 8 digits and a unit) into seconds, clamped; None where it is malformed."""
    if not value or not 2 <= len(value) <= 9 or not value[:-1].isascii() or not value[:-1].isdigit():
        return None
    unit = _UNITS.get(value[-1])
    return None if unit is None else min(int(value[:-1]) * unit, LONGEST)


def outgoing(call: Call, now: float, *, deadline: bool) -> list[tuple[str, str]]:
    """Return the headers that an attempt sends along; `deadline` where the transport has no field of its own."""
    headers: list[tuple[str, str]] = []
    trace = call.trace
    if trace is not None:
        headers.append((TRACEPARENT, write_traceparent(trace)))
        if trace.state:
            headers.append((TRACESTATE, trace.state))
    if deadline and call.deadline is not None:
        headers.append((DEADLINE, str(max(0, int((call.deadline - now) * 1000)))))
    if call.attempt > 1:
        headers.append((ATTEMPT, str(call.attempt)))
        if call.attempts_left is None:  # layers that retry each other's retries multiply; kitex ends the chain so too
            headers.append((ATTEMPTS_LEFT, "0"))
    if call.attempts_left is not None:
        headers.append((ATTEMPTS_LEFT, str(max(0, call.attempts_left))))
    if call.criticality != CRITICAL:
        headers.append((CRITICALITY, _NAMES[call.criticality]))
    return headers


def incoming(
    headers: Mapping[str, str], now: float, *, trusted: bool = False, seconds: float | None = None, key: str = ""
) -> Scope:
    """Read what came with a call into a scope; `key` says whom it is for.

    `seconds` is what the transport's own deadline leaves, where it has one. From an untrusted hop the trace goes on
    as it is; neither its attempt allowance nor its criticality is believed.
    """
    left = seconds if seconds is None or seconds < LONGEST else LONGEST
    get = headers.get
    for name in _DEADLINES:
        if name in headers:
            left = sooner(left, read_milliseconds(get(name)))
    if seconds is None:
        left = sooner(left, read_grpc_timeout(get(GRPC_TIMEOUT)))
    trace = read_traceparent(headers[TRACEPARENT], get(TRACESTATE, "")) if TRACEPARENT in headers else None
    attempts = get(ATTEMPTS_LEFT, "") if trusted else ""
    baggage = get(BAGGAGE, "")
    if baggage and (len(baggage) > BAGGAGE_LIMIT or not _PRINTABLE.fullmatch(baggage)):
        baggage = ""
    # By position: each call that comes in makes one of these.
    return Scope(
        None if left is None else now + left,
        trace,
        int(attempts) if attempts and attempts.isascii() and attempts.isdigit() and len(attempts) < 4 else None,
        key,
        baggage,
        _CRITICALITIES.get(get(CRITICALITY, ""), CRITICAL) if trusted else CRITICAL,
    )


_DEADLINES = (DEADLINE, ENVOY_DEADLINE)
_NAMES: Mapping[Criticality, str] = {each: each.name.lower() for each in Criticality}
_CRITICALITIES: Mapping[str, Criticality] = {name: each for each, name in _NAMES.items()}


def attempt(headers: Mapping[str, str]) -> int:
    """Return which attempt of its caller's a call is, 1 to 99, as ours, Envoy's or gRPC's own header says."""
    for name, before in _ATTEMPTS:
        value = headers.get(name)
        if value and len(value) < 3 and value.isascii() and value.isdigit():
            return max(1, int(value) + before)
    return 1


_ATTEMPTS = ((ATTEMPT, 0), (ENVOY_ATTEMPT, 0), (GRPC_PREVIOUS, 1))


def overloaded(headers: Mapping[str, str]) -> bool:
    """Whether a refusal says that its sender is overloaded, by our header or by Envoy's."""
    return headers.get(OVERLOADED) == "1" or headers.get(ENVOY_OVERLOADED) == "true"


def lowered(pairs: Iterable[tuple[str | bytes, str | bytes]]) -> dict[str, str]:
    """Make one mapping of header pairs, names in lower case; of a repeated name the first counts."""
    found: dict[str, str] = {}
    for name, value in pairs:
        key = (name.decode("latin-1") if isinstance(name, bytes) else name).lower()
        if key not in found:
            found[key] = value.decode("latin-1") if isinstance(value, bytes) else value
    return found
