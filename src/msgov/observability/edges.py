"""The edges there are: gRPC, plain functions, HTTP and messages, each from its two sides."""

from __future__ import annotations

import logging
from typing import Final, Literal

from msgov import friendly
from msgov.call import IGNORED, OK, PERMANENT, Call, Outcome
from msgov.errors import MsgovError, Rejected
from msgov.observability import catalogue
from msgov.observability import semconv as names
from msgov.observability.edge import Edge, given_up, late, reason

_DEBUG, _INFO, _WARNING, _ERROR = logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR

_STATUSES: Final = frozenset(names.GRPC_STATUSES)

# go-grpc-middleware's tables, which people know: a server's faults stand out, a client's are the server's to tell.
_SERVER_LEVELS: Final = {
    "OK": _INFO, "CANCELLED": _INFO, "INVALID_ARGUMENT": _INFO, "NOT_FOUND": _INFO, "ALREADY_EXISTS": _INFO,
    "UNAUTHENTICATED": _INFO, "DEADLINE_EXCEEDED": _WARNING, "PERMISSION_DENIED": _WARNING,
    "RESOURCE_EXHAUSTED": _WARNING, "FAILED_PRECONDITION": _WARNING, "ABORTED": _WARNING, "OUT_OF_RANGE": _WARNING,
    "UNAVAILABLE": _WARNING,
}  # fmt: skip
_CLIENT_LEVELS: Final = {
    "UNKNOWN": _INFO, "DEADLINE_EXCEEDED": _INFO, "PERMISSION_DENIED": _INFO, "UNAUTHENTICATED": _INFO,
    "UNIMPLEMENTED": _WARNING, "INTERNAL": _WARNING, "UNAVAILABLE": _WARNING, "DATA_LOSS": _WARNING,
}  # fmt: skip


class Rpc(Edge):
    """A remote procedure call: gRPC, or a plain function that is governed as one (`system="function"`)."""

    def __init__(self, side: Literal["client", "server"], *, system: str = "grpc") -> None:
        self.side = side
        self.system = system
        self.duration = catalogue.RPC_CLIENT if side == "client" else catalogue.RPC_SERVER
        self.event = f"rpc.{side}.completed"
        self.field = "rpc_method"
        self._client = side == "client"

    def operation(self, call: Call) -> str:
        """Name the method, without a leading slash."""
        return call.method.lstrip("/") or call.target

    def status(self, outcome: Outcome) -> str:
        """Return the gRPC status name; a client that was refused on its own side has none."""
        if outcome.status in _STATUSES:
            return outcome.status
        if outcome.verdict is OK:
            return "OK"
        if given_up(outcome):
            return "CANCELLED"
        if late(outcome) and not (self._client and isinstance(outcome.error, Rejected)):
            return "DEADLINE_EXCEEDED"
        if self._client:
            return ""
        if isinstance(outcome.error, MsgovError):
            return friendly.told(friendly.reason(outcome.error)).grpc
        return "UNKNOWN"

    def error_type(self, outcome: Outcome) -> str:
        """Return the status name, or our own reason; on a server only for what is the server's fault."""
        status = self.status(outcome)
        if self._client:
            if isinstance(outcome.error, Rejected):
                return outcome.error.reason
            return "" if status == "OK" else status or reason(outcome.error)
        if status not in names.SERVER_FAULTS:
            return ""
        return outcome.error.reason if isinstance(outcome.error, Rejected) else status

    def labels(self, call: Call, outcome: Outcome) -> tuple[str, ...]:
        """Return system, method, status and error, and for a client the service called."""
        found = (self.system, self.operation(call), self.status(outcome), self.error_type(outcome))
        return (*found, call.target) if self._client else found

    def level(self, outcome: Outcome) -> int:
        """Return the level by status."""
        status = self.status(outcome)
        if self._client:
            return _CLIENT_LEVELS.get(status, _DEBUG) if status else _INFO
        return _SERVER_LEVELS.get(status, _ERROR)

    def span(self, call: Call) -> str:
        """Name it by the method."""
        return self.operation(call)

    def attributes(self, call: Call) -> dict[str, str]:
        """Return system and method, and for a client the service called."""
        found = {names.RPC_SYSTEM: self.system, names.RPC_METHOD: self.operation(call)}
        if self._client:
            found[names.SERVER_ADDRESS] = found[names.PEER_NAME] = call.target
        return found

    def answered(self, call: Call, outcome: Outcome) -> dict[str, str | int]:
        """Return the status, where there is one."""
        status = self.status(outcome)
        return {names.RPC_STATUS: status} if status else {}


class Http(Edge):
    """An HTTP request. `call.method` is "GET /orders/{id}": the verb and the route, never the path that was asked for.

    On a server the route may come late: an application's router finds it. A client has one only where it was told.
    """

    def __init__(self, side: Literal["client", "server"]) -> None:
        self.side = side
        self.system = "http"
        self.duration = catalogue.HTTP_CLIENT if side == "client" else catalogue.HTTP_SERVER
        self.event = f"http.{side}.completed"
        self.field = "http_route"
        self._client = side == "client"

    def operation(self, call: Call) -> str:
        """Name verb and route."""
        return " ".join(part for part in self._parts(call) if part)

    @staticmethod
    def _parts(call: Call) -> tuple[str, str]:
        verb, _, route = call.method.partition(" ")
        return (verb if verb in names.HTTP_METHODS else names.OTHER), route

    def status(self, outcome: Outcome) -> str:
        """Return the code as a text; 200 and 500 where a server's edge tells none, 499 where the caller went away."""
        if outcome.status.isdigit():
            return outcome.status
        if outcome.verdict is OK:
            return "200"
        if self._client:
            return ""
        if given_up(outcome):
            return "499"
        if late(outcome):
            return "504"
        if isinstance(outcome.error, MsgovError):
            return str(friendly.told(friendly.reason(outcome.error)).http)
        return "500"

    def error_type(self, outcome: Outcome) -> str:
        """Return the code from 500 (a client: from 400) on, our own reason, or the exception's class."""
        status = self.status(outcome)
        if status:
            return status if status >= ("400" if self._client else "500") else ""
        return reason(outcome.error) or "cancelled"

    def labels(self, call: Call, outcome: Outcome) -> tuple[str, ...]:
        """Return verb, route, code and error, and for a client the service called."""
        verb, route = self._parts(call)
        status, error = self.status(outcome), self.error_type(outcome)
        if self._client:
            return verb, route, status, error, call.target
        return verb, route or names.OTHER, status, error  # none was found, or it was refused before

    def level(self, outcome: Outcome) -> int:
        """Return the level by code, as for the gRPC status that means the same."""
        status = self.status(outcome)
        if self._client:
            return _WARNING if status >= "500" else _DEBUG if status and status < "400" else _INFO
        if status in ("403", "408", "412", "429", "503", "504"):
            return _WARNING
        return _ERROR if status >= "500" else _INFO

    def span(self, call: Call) -> str:
        """Name it by verb and route."""
        return self.operation(call)

    def attributes(self, call: Call) -> dict[str, str]:
        """Return the verb and, as far as it is known, the route."""
        verb, route = self._parts(call)
        found = {names.HTTP_METHOD: verb}
        if route:
            found[names.HTTP_ROUTE] = route
        if self._client:
            found[names.SERVER_ADDRESS] = found[names.PEER_NAME] = call.target
        return found

    def answered(self, call: Call, outcome: Outcome) -> dict[str, str | int]:
        """Return the code, and the route that was found in the meantime."""
        status = self.status(outcome)
        found: dict[str, str | int] = {names.HTTP_STATUS: int(status)} if status else {}
        route = self._parts(call)[1]
        if route:
            found[names.HTTP_ROUTE] = route
        return found


class Messages(Edge):
    """A message that is sent or processed: `call.method` is its destination, a consumer's `call.target` its group.

    `system` names the broker ("embedded", "kafka"); `group` is for calls that do not name theirs.
    """

    def __init__(self, side: Literal["producer", "consumer"], *, system: str, group: str = "") -> None:
        self.side = side
        self.system = system
        self.group = group
        self.duration = catalogue.OPERATION if side == "producer" else catalogue.PROCESS
        self.verb = "send" if side == "producer" else "process"
        self.event = "message.sent" if side == "producer" else "message.processed"
        self.field = "destination"

    def operation(self, call: Call) -> str:
        """Name the destination."""
        return call.method or call.target

    def _group(self, call: Call) -> str:
        return (call.target or self.group) if self.side == "consumer" else ""

    def status(self, outcome: Outcome) -> str:
        """Return the verdict: a message has no status of its own."""
        return outcome.verdict.value

    def error_type(self, outcome: Outcome) -> str:
        """Return our own reason, or the exception's class."""
        return "" if outcome.verdict is OK else reason(outcome.error) or outcome.status or outcome.verdict.value

    def labels(self, call: Call, outcome: Outcome) -> tuple[str, ...]:
        """Return system, operation, destination, group and error."""
        return (self.system, self.verb, self.operation(call), self._group(call), self.error_type(outcome))

    def level(self, outcome: Outcome) -> int:
        """Warn of what will come again; what will not is an error."""
        if outcome.verdict is OK:
            return _DEBUG if self.side == "producer" else _INFO
        if outcome.verdict is IGNORED:
            return _INFO
        return _ERROR if outcome.verdict is PERMANENT else _WARNING

    def span(self, call: Call) -> str:
        """Name it by what is done where."""
        return f"{self.verb} {self.operation(call)}"

    def attributes(self, call: Call) -> dict[str, str]:
        """Return system, operation, destination and group."""
        found = {
            names.MESSAGING_SYSTEM: self.system,
            names.MESSAGING_OPERATION: self.verb,
            names.MESSAGING_OPERATION_TYPE: self.verb,
            names.MESSAGING_DESTINATION: self.operation(call),
        }
        group = self._group(call)
        if group:
            found[names.MESSAGING_GROUP] = group
        return found

    def answered(self, call: Call, outcome: Outcome) -> dict[str, str | int]:
        """Return nothing more: a message has no answer."""
        return {}


GRPC_CLIENT: Final = Rpc("client")
GRPC_SERVER: Final = Rpc("server")
FUNCTION: Final = Rpc("client", system="function")
HTTP_CLIENT: Final = Http("client")
HTTP_SERVER: Final = Http("server")
