"""What observes a call is put round what governs it: one tuple per method, the same until its policies change shape."""

from __future__ import annotations

from collections.abc import Callable

from msgov.config.policies import Chain, Pick, Policies
from msgov.config.rules import called
from msgov.observability.edge import Edge
from msgov.observability.edges import Http, Rpc
from msgov.observability.setup import Observability
from msgov.pipeline import Policy
from msgov.policy import Gate, Plan

Tuple = tuple[Policy, ...]


class Composer:
    """Composes the pipelines of a service, in the order that `Policies` gives."""

    def __init__(self, policies: Policies, observe: Observability) -> None:
        self.policies = policies
        self.observe = observe
        self._made: dict[tuple[str, str, str], tuple[Chain, Tuple]] = {}
        self._gates: dict[str, tuple[Edge, tuple[Gate[object], ...], tuple[Gate[object], ...]]] = {}

    def grpc_calls(self, target: str, pick: Pick) -> Callable[[str], Tuple]:
        """Return the policies of outgoing gRPC calls by method path."""
        policies = self.policies
        return lambda path: self._composed(
            ("rpc", target, path), policies.for_call(target, path, pick=pick), "rpc client"
        )

    def grpc_server(self) -> Callable[[str], Tuple]:
        """Return the policies of incoming gRPC calls by method path."""
        return lambda path: self._composed(("rpc", "", path), self.policies.for_server(path), "rpc server")

    def http_calls(self, target: str, pick: Pick) -> Callable[[str], Tuple]:
        """Return the policies of outgoing requests by "VERB /path": paths under one entry share its state."""

        def find(operation: str) -> Tuple:
            entry = self._entry("call", called(target, operation))
            method = entry.removeprefix(f"{target}/") or "*"
            return self._composed(
                ("http", target, method), self.policies.for_call(target, method, pick=pick), "http client"
            )

        return find

    def http_server(self) -> Callable[[str], Tuple]:
        """Return the policies of incoming requests by "VERB /path": paths under one entry share its state."""

        def find(operation: str) -> Tuple:
            entry = self._entry("server", operation)
            return self._composed(("http", "", entry), self.policies.for_server(entry), "http server")

        return find

    def function(self, name: str) -> Tuple:
        """Return the policies of a guarded function."""
        return self._composed(("function", name, ""), self.policies.for_function(name), "function client")

    def consumer(self, topic: str, edge: Edge) -> Tuple:
        """Return the policies of a topic's messages."""
        self._edges(f"consumer {edge.system}", edge)
        return self._composed(("consumer", topic, ""), self.policies.for_consumer(topic), f"consumer {edge.system}")

    def _entry(self, kind: str, name: str) -> str:
        """Return the pattern of the entry that governs a name: what clients make up must not make state."""
        found = self.policies.book.find(kind, name)
        return "*" if found is None else found.pattern

    def _composed(self, key: tuple[str, str, str], chain: Chain, edge: str) -> Tuple:
        made = self._made.get(key)
        if made is not None and made[0] is chain:
            return made[1]
        _, calls, attempts = self._edges(edge)
        policies: list[Policy] = [*calls]
        for policy in chain:
            policies.append(policy)
            if isinstance(policy, Plan):
                policies += attempts
        composed = tuple(policies)
        self._made[key] = (chain, composed)
        return composed

    def _edges(
        self, name: str, edge: Edge | None = None
    ) -> tuple[Edge, tuple[Gate[object], ...], tuple[Gate[object], ...]]:
        found = self._gates.get(name)
        if found is None:
            made = edge or _EDGES[name]()
            found = self._gates[name] = (made, self.observe.gates(made), self.observe.attempts(made))
        return found


_EDGES: dict[str, Callable[[], Edge]] = {
    "rpc client": lambda: Rpc("client"),
    "rpc server": lambda: Rpc("server"),
    "http client": lambda: Http("client"),
    "http server": lambda: Http("server"),
    "function client": lambda: Rpc("client", system="function"),
}
