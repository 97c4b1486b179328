"""The books are right, or this says which law is broken and by what.

    L1  stock    initial = on_hand + reserved + sold for each SKU, none below zero; sold and held are what orders say
    L2  money    CONFIRMED: exactly one capture of exactly the total; else captures - refunds = 0; the sums agree
    L3  orders   what a shopper was told exists, once a key; what was refused has no effect; none is left half done
    L4  audit    one row for each event of each order, recorded once; versions without a gap
    L5  outbox   nothing unsent, no state without its event, no event without its state, no dead letters but poison

`check` looks at rest: after the last order, when recovery and delivery have run dry. `stock` holds at any moment.
It reads the files with SQL of its own and shares no code with the services, so that it cannot share their mistakes.
"""

from __future__ import annotations

import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

SHOWN = 20  # violations of one law that are told one by one

Rows = Sequence[sqlite3.Row]


class Law(NamedTuple):
    """Whether a law holds, and what breaks it."""

    holds: bool
    violations: Sequence[str]


@dataclass(frozen=True, slots=True)
class Books:
    """Where the services' databases are."""

    order: Path
    inventory: Path
    payment: Path
    audit: Path


@dataclass(frozen=True, slots=True)
class Asked:
    """What one shopper asked for with one key, and was told in the end.

    `told`: "placed" with the `order_id` that the shopper was given, whatever became of it; "refused" when there should
    be no such order; "unknown" when no answer came, so that all or nothing may be there. `lines` is the basket; empty
    leaves it unchecked. A key used again with another basket is one `Asked` more, "refused" with `reused` set.
    """

    user_id: str
    key: str
    told: Literal["placed", "refused", "unknown"]
    order_id: str = ""
    lines: Mapping[str, int] | None = None
    reused: bool = False


@dataclass(frozen=True, slots=True)
class Findings:
    """What the books say."""

    laws: Mapping[str, Law]
    counts: Mapping[str, int]

    @property
    def hold(self) -> bool:
        """Whether all of them do."""
        return all(law.holds for law in self.laws.values())


def check(books: Books, *, asked: Iterable[Asked] = (), unsent: int, dead: int, poisoned: int = 0) -> Findings:
    """Check every law at rest.

    `unsent` is how many messages the outbox still holds, `dead` how many dead letters there are, and `poisoned` how
    many were put in on purpose.
    """
    seen = _read(books)
    laws = {
        "L1": _law([*_stock_sums(seen.stock), *_stock_orders(seen)]),
        "L2": _law(_money(seen)),
        "L3": _law(_promises(seen, asked)),
        "L4": _law(_audit(seen)),
        "L5": _law(_outbox(seen, unsent=unsent, dead=dead, poisoned=poisoned)),
    }
    return Findings(laws, _counts(seen))


def stock(path: Path) -> Law:
    """Check at any moment that no stock came from nowhere or went there, in inventory's database."""
    return _law(_stock_sums(_rows(path, {"stock": "SELECT * FROM stock"})["stock"]))


@dataclass(frozen=True, slots=True)
class _Seen:
    orders: Mapping[str, sqlite3.Row]
    lines: Mapping[str, Mapping[str, int]]
    history: Rows
    stock: Rows
    holds: Mapping[str, str]
    held: Mapping[str, Mapping[str, int]]
    ledger: Rows
    audit: Rows


def _read(books: Books) -> _Seen:
    order = _rows(
        books.order,
        {
            "orders": "SELECT * FROM orders",
            "lines": "SELECT order_id, sku, quantity FROM order_lines",
            "history": "SELECT order_id, version, type FROM order_history",
        },
    )
    inventory = _rows(
        books.inventory,
        {
            "stock": "SELECT * FROM stock",
            "holds": "SELECT order_id, state FROM holds",
            "held": "SELECT order_id, sku, quantity FROM hold_lines",
        },
    )
    payment = _rows(books.payment, {"ledger": "SELECT order_id, kind, amount, currency FROM ledger"})
    audit = _rows(books.audit, {"audit": "SELECT order_id, version, type, times FROM audit"})
    return _Seen(
        orders={row["id"]: row for row in order["orders"]},
        lines=_by_order(order["lines"]),
        history=order["history"],
        stock=inventory["stock"],
        holds={row["order_id"]: row["state"] for row in inventory["holds"]},
        held=_by_order(inventory["held"]),
        ledger=payment["ledger"],
        audit=audit["audit"],
    )


def _rows(path: Path, queries: Mapping[str, str]) -> dict[str, Rows]:
    with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, isolation_level=None)) as connection:
        connection.row_factory = sqlite3.Row
        connection.execute("BEGIN")  # all of one file as of one moment
        return {name: connection.execute(query).fetchall() for name, query in queries.items()}


def _by_order(rows: Rows) -> Mapping[str, Mapping[str, int]]:
    found: defaultdict[str, dict[str, int]] = defaultdict(dict)
    for row in rows:
        found[row["order_id"]][row["sku"]] = row["quantity"]
    return found


def _law(violations: Iterable[str]) -> Law:
    found = list(violations)
    shown = found[:SHOWN] + ([f"and {len(found) - SHOWN} more"] if len(found) > SHOWN else [])
    return Law(not found, shown)


def _stock_sums(rows: Rows) -> Iterator[str]:
    for row in rows:
        sku, initial, parts = row["sku"], row["initial"], (row["on_hand"], row["reserved"], row["sold"])
        if initial != sum(parts):
            yield f"{sku}: initial {initial} is not on_hand {parts[0]} + reserved {parts[1]} + sold {parts[2]}"
        if min(parts) < 0:
            yield f"{sku}: on_hand {parts[0]}, reserved {parts[1]}, sold {parts[2]}: one is below zero"


def _stock_orders(seen: _Seen) -> Iterator[str]:
    wanted = {"UNPAID": "RESERVED", "CONFIRMED": "COMMITTED", "CANCELLED": "RELEASED"}
    reserved: Counter[str] = Counter()
    sold: Counter[str] = Counter()
    for order_id, order in seen.orders.items():
        hold, lines = seen.holds.get(order_id, "not touched"), seen.lines.get(order_id, {})
        if hold != wanted.get(order["state"], hold):
            yield f"order {order_id} is {order['state']}, its stock is {hold}"
        elif hold != "RELEASED" and seen.held.get(order_id) != lines:
            yield f"order {order_id} is for {lines}, held is {seen.held.get(order_id)}"
        {"UNPAID": reserved, "CONFIRMED": sold}.get(order["state"], Counter[str]()).update(lines)
    for order_id in seen.holds.keys() - seen.orders.keys():
        if seen.holds[order_id] != "RELEASED":
            yield f"stock is {seen.holds[order_id]} for order {order_id}, which does not exist"
    for row in seen.stock:
        if row["reserved"] != reserved[row["sku"]]:
            yield f"{row['sku']}: reserved {row['reserved']}, unpaid orders hold {reserved[row['sku']]}"
        if row["sold"] != sold[row["sku"]]:
            yield f"{row['sku']}: sold {row['sold']}, confirmed orders took {sold[row['sku']]}"


def _money(seen: _Seen) -> Iterator[str]:
    captured, given_back = _ledger(seen, "capture"), _ledger(seen, "refund")
    for order_id in captured.keys() | given_back.keys() | seen.orders.keys():
        order = seen.orders.get(order_id)
        took, gave = captured.get(order_id, []), given_back.get(order_id, [])
        if order is None:
            yield f"captured {took} and refunded {gave} for order {order_id}, which does not exist"
        elif len(took) > 1 or len(gave) > 1:
            yield f"order {order_id} was captured {len(took)} and refunded {len(gave)} times"
        elif order["state"] == "CONFIRMED" and (took != [(order["total"], order["currency"])] or gave):
            yield f"order {order_id} is CONFIRMED at {order['total']}: captured {took}, refunded {gave}"
        elif order["state"] != "CONFIRMED" and took != gave:
            yield f"order {order_id} is {order['state']}: captured {took}, refunded {gave}"
    net = sum(row["amount"] * (1 if row["kind"] == "capture" else -1) for row in seen.ledger)
    confirmed = sum(order["total"] for order in seen.orders.values() if order["state"] == "CONFIRMED")
    if net != confirmed:
        yield f"the till holds {net}, confirmed orders come to {confirmed}"


def _ledger(seen: _Seen, kind: str) -> Mapping[str, list[tuple[int, str]]]:
    found: defaultdict[str, list[tuple[int, str]]] = defaultdict(list)
    for row in seen.ledger:
        if row["kind"] == kind:
            found[row["order_id"]].append((row["amount"], row["currency"]))
    return found


def _promises(seen: _Seen, asked: Iterable[Asked]) -> Iterator[str]:
    by_key: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for order_id, order in seen.orders.items():
        by_key[order["user_id"], order["key"]].append(order_id)
        if order["state"] in ("PENDING", "CANCELLING"):
            yield f"order {order_id} is still {order['state']}"
    for (user_id, key), ids in by_key.items():
        if len(ids) > 1:
            yield f"key {key} of user {user_id} has {len(ids)} orders: {', '.join(sorted(ids))}"
    for each in asked:
        ids = by_key.get((each.user_id, each.key), [])
        if each.told == "placed" and each.order_id not in ids:
            yield f"order {each.order_id} (key {each.key}) was promised and is lost"
        elif each.told == "refused" and ids and not each.reused:
            yield f"key {each.key} was refused, but has order {ids[0]}"
        for order_id in ids:
            if each.lines is not None and (seen.lines.get(order_id) == each.lines) is each.reused:
                yield f"order {order_id} (key {each.key}) is for {seen.lines.get(order_id)}, asked was {each.lines}"


def _audit(seen: _Seen) -> Iterator[str]:
    happened = Counter((row["order_id"], row["version"], row["type"]) for row in seen.history)
    recorded = Counter((row["order_id"], row["version"], row["type"]) for row in seen.audit)
    for event in sorted((happened - recorded).keys()):
        yield f"order {event[0]} version {event[1]} ({event[2]}) happened, audit has no row"
    for event in sorted((recorded - happened).keys()):
        yield f"audit has order {event[0]} version {event[1]} ({event[2]}), more often than it happened"
    for row in seen.audit:
        if row["times"] != 1:
            yield f"order {row['order_id']} version {row['version']} was recorded {row['times']} times"
    versions: defaultdict[str, list[int]] = defaultdict(list)
    for row in seen.audit:
        versions[row["order_id"]].append(row["version"])
    for order_id, found in versions.items():
        if sorted(found) != list(range(1, len(found) + 1)):
            yield f"order {order_id} has audited versions {sorted(found)}: there is a gap"


def _outbox(seen: _Seen, *, unsent: int, dead: int, poisoned: int) -> Iterator[str]:
    if unsent:
        yield f"the outbox still holds {unsent} messages"
    if dead != poisoned:
        yield f"there are {dead} dead letters, {poisoned} were poison"
    told: defaultdict[str, list[int]] = defaultdict(list)
    for row in seen.history:
        told[row["order_id"]].append(row["version"])
    for order_id, order in seen.orders.items():
        if sorted(told[order_id]) != list(range(1, order["version"] + 1)):
            yield f"order {order_id} is at version {order['version']}, its events are {sorted(told[order_id])}"
    for order_id in told.keys() - seen.orders.keys():
        yield f"there are events of order {order_id}, which does not exist"


def _counts(seen: _Seen) -> Mapping[str, int]:
    states = Counter(order["state"].lower() for order in seen.orders.values())
    captures = Counter(row["order_id"] for row in seen.ledger if row["kind"] == "capture")
    return {
        "orders": len(seen.orders),
        **{name: states[name] for name in ("pending", "unpaid", "confirmed", "cancelling", "cancelled")},
        "captures": sum(captures.values()),
        "refunds": sum(1 for row in seen.ledger if row["kind"] == "refund"),
        "double_charges": sum(1 for times in captures.values() if times > 1),
        "events": len(seen.history),
        "audited": len(seen.audit),
    }
