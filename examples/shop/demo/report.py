"""What a run came to: one JSON object for programs, a page for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..laws import Findings
from .books import Left
from .child import Child
from .gauges import Gauges
from .tally import Tally, milliseconds, percentile

Json = Mapping[str, Any]

NAMES = {
    "L1": "stock: what came in is on the shelf, held or sold",
    "L2": "money: an order is confirmed if it is paid, once",
    "L3": "orders: none lost, none doubled, none half done",
    "L4": "audit: one row for each event, no gap",
    "L5": "outbox: empty, and no dead letters",
}


@dataclass(frozen=True, slots=True)
class Run:
    """All there is to say about a run."""

    mode: str
    scenario: str
    seconds: float
    tally: Tally
    findings: Findings
    left: Left
    restarts: int
    breaker: Json | None
    services: Sequence[Child]

    @property
    def good(self) -> bool:
        """Whether every law holds, nothing is lost, and, where a breaker was to open, it opened and closed again."""
        turned = self.breaker is None or (self.breaker["opened"] >= 1 and self.breaker["closed_again"])
        return self.findings.hold and self.tally.orders()["lost"] == 0 and turned

    def as_json(self) -> Json:
        """Write it for programs; times in milliseconds."""
        waits, friendly, counts = self.tally.waits, self.tally.friendly, self.findings.counts
        services: dict[str, list[Json]] = {}
        for child in self.services:
            where = {"pid": child.pid, "port": child.port, "admin": child.admin}
            services.setdefault(child.service, []).append(where)
        told: dict[str, Any] = {
            "mode": self.mode,
            "scenario": self.scenario,
            "seconds": round(self.seconds, 1),
            "orders": self.tally.orders(),
            "laws": {name: law.holds for name, law in self.findings.laws.items()},
            "violations": {name: list(law.violations) for name, law in self.findings.laws.items() if not law.holds},
            "latency_ms": {
                "p50": milliseconds(percentile(waits, 0.50)),
                "p99": milliseconds(percentile(waits, 0.99)),
            },
            "asked_again": self.tally.again,
            "restarts": self.restarts,
            "double_charges": counts["double_charges"],
            "books": dict(counts),
            "services": services,
        }
        if self.breaker is not None:
            told["breaker"] = dict(self.breaker)
            told["friendly"] = {"count": len(friendly), "p99_ms": milliseconds(percentile(friendly, 0.99))}
        return told

    def as_text(self) -> str:
        """Write it for people."""
        told = self.as_json()
        orders, latency = told["orders"], told["latency_ms"]
        lines = [
            f"{orders['placed']} orders tried in {self.seconds:.0f} s: {orders['confirmed']} confirmed, "
            f"{orders['cancelled']} cancelled, {orders['refused']} refused, {orders['lost']} lost",
            f"an answer took {latency['p50']} ms (half of them), {latency['p99']} ms (all but one in a hundred)",
        ]
        if self.breaker is not None:
            friendly = told["friendly"]
            after = "closed again" if self.breaker["closed_again"] else "did not close again"
            lines.append(f"breakers before payment opened {self.breaker['opened']} times and {after};")
            lines.append(f"{friendly['count']} shoppers were told so at once (p99 {friendly['p99_ms']} ms)")
            lines.append(f"{told['double_charges']} orders were charged twice")
        if self.restarts:
            lines.append(f"{self.restarts} processes died and were started again")
        lines.append("")
        for name, law in self.findings.laws.items():
            lines.append(f"{name} {'holds ' if law.holds else 'BROKEN'}  {NAMES[name]}")
            lines += [f"    {violation}" for violation in law.violations]
        if not self.left.nothing:
            lines.append(
                f"not at rest: {self.left.open} orders open, {self.left.unsent} messages unsent, "
                f"{self.left.unheard} events not recorded"
            )
        lines += ["", "The books are right." if self.good else "The books are NOT right."]
        return "\n".join(lines)


def breaker(gauges: Gauges) -> Json:
    """Say what the breakers did."""
    return {"opened": gauges.opened, "closed_again": gauges.closed_again}
