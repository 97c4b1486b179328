"""`msgov demo` keeps its books right, whatever is slow, killed or broken off, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx2
import pytest

from shop.demo.scenarios import payment_deadline
from tests.cli.stage import Demo, demo

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="what is left of a run is looked for in /proc"),
]

PLAN = {"user": 1, "product": 1, "inventory": 2, "payment": 2, "order": 2, "audit": 1, "storefront": 1}


def good(told: Mapping[str, Any]) -> None:
    """Insist that the books are right, and that the numbers are whole."""
    orders = told["orders"]
    assert told["laws"] == {"L1": True, "L2": True, "L3": True, "L4": True, "L5": True}, told["violations"]
    assert orders["lost"] == 0
    assert orders["placed"] == sum(orders[name] for name in ("confirmed", "cancelled", "refused", "lost"))
    assert orders["confirmed"] > 0
    assert told["double_charges"] == 0
    assert 0 < told["latency_ms"]["p50"] <= told["latency_ms"]["p99"]


def test_apart(tmp_path: Path) -> None:
    """Ten processes, one JSON object on standard output, nothing else there."""
    with demo(tmp_path, "--seconds", "4", "--json") as run:
        text, code = run.end()
        assert code == 0, run.errors()
        told = json.loads(text)
        good(told)
        assert {name: len(found) for name, found in told["services"].items()} == PLAN
        assert all(set(each) == {"pid", "port", "admin"} for found in told["services"].values() for each in found)
        assert told["restarts"] == 0


def test_together(tmp_path: Path) -> None:
    """The same shop in one process, and a page for people."""
    with demo(tmp_path, "--seconds", "3", "--together") as run:
        text, code = run.end()
        assert code == 0, run.errors()
        assert "The books are right." in text
        assert " 0 lost" in text


def test_payment_slow(tmp_path: Path) -> None:
    """The breaker opens, shoppers are told at once, nobody is charged twice, and all recovers by itself."""
    with demo(tmp_path, "--seconds", "12", "--scenario", "payment-slow", "--json") as run:
        text, code = run.end()
        assert code == 0, run.errors()
        told = json.loads(text)
        good(told)
        assert told["breaker"]["opened"] >= 1
        assert told["breaker"]["closed_again"] is True
        assert told["friendly"]["count"] > 0
        assert told["friendly"]["p99_ms"] < payment_deadline() * 1000 / 10


class Customer:
    """Somebody who orders by hand while the shop stays open."""

    def __init__(self, port: int) -> None:
        self._http = httpx2.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=15)
        account = {"name": "by-hand", "password": "correct horse"}
        self._http.post("/users", json=account)
        token = self._http.post("/sessions", json=account).json()["token"]
        self._http.headers["Authorization"] = f"Bearer {token}"

    def order(self, key: str) -> str:
        """Place an order; return its id."""
        lines = [{"sku": "CUP-PLAIN", "quantity": 1}]
        reply = self._http.post("/orders", json={"lines": lines}, headers={"Idempotency-Key": key})
        assert reply.status_code == 201, reply.text
        return str(reply.json()["id"])

    def state(self, order: str) -> str:
        """Read what has become of it."""
        reply = self._http.get(f"/orders/{order}")
        assert reply.status_code == 200, reply.text
        return str(reply.json()["state"])

    def close(self) -> None:
        """Leave."""
        self._http.close()


def kill(run: Demo, *names: str) -> None:
    """Kill instances, each by its id."""
    for name in names:
        (pid,) = (pid for pid, found in run.processes().items() if found == name)
        os.kill(pid, signal.SIGKILL)


def test_killed_instances_lose_nothing(tmp_path: Path) -> None:
    """One of each pair is killed under load, then the others while the shop stays open: calls go to who is left."""
    with demo(tmp_path, "--seconds", "6", "--keep", "--json") as run:
        run.wait_for("processes ready")
        time.sleep(2.0)  # somewhere in the middle of the traffic
        kill(run, "order-1", "inventory-1", "payment-1")
        told = run.line()
        good(told)
        assert told["restarts"] == 3
        run.wait_for("the shop stays open")
        customer = Customer(told["services"]["storefront"][0]["port"])
        orders = [customer.order("before")]
        for name in ("order-2", "inventory-2", "payment-2"):
            kill(run, name)
            orders.append(customer.order(f"right after {name}".replace(" ", "-")))
        assert {customer.state(order) for order in orders} == {"confirmed"}
        customer.close()
        for name in ("order-2", "inventory-2", "payment-2"):
            run.wait_for(f"{name} is back")
        run.send(signal.SIGTERM)
        assert run.end()[1] == 0


def test_a_killed_parent_leaves_no_child(tmp_path: Path) -> None:
    """Each child sees the pipe close, and drains."""
    run = Demo(tmp_path, "--seconds", "60")
    try:
        run.wait_for("processes ready")
        assert len(run.processes()) == 11
        run.send(signal.SIGKILL)
        until = time.monotonic() + 20
        while run.processes() and time.monotonic() < until:
            time.sleep(0.05)
        assert run.processes() == {}
        (left,) = run.temporary.iterdir()  # nobody was there to remove the files; the sockets went with their owners
        assert [path.name for path in left.iterdir() if path.is_socket()] == []
    finally:
        run.close()


@pytest.mark.parametrize("said", ["starting the shop", "processes ready"])
def test_an_interrupted_run_leaves_nothing(tmp_path: Path, said: str) -> None:
    """Ctrl-C while processes start, and while shoppers are in the shop; a second one changes nothing."""
    with demo(tmp_path, "--seconds", "60", "--json") as run:
        run.wait_for(said)
        time.sleep(0.5)
        run.send(signal.SIGINT)
        time.sleep(0.1)
        if run.process.poll() is None:
            run.send(signal.SIGINT)
        assert run.end() == ("", 130)


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    """Which service, which address; the others are stopped."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        at = f"127.0.0.1:{taken.getsockname()[1]}"
        with demo(tmp_path, "--json", MSGOV_SHOP__AT=at) as run:
            assert run.end() == ("", 1)
            assert f"cannot listen on {at}" in run.errors()
            assert "ended with code 1 while it was starting" in run.errors()


def test_a_setting_that_cannot_be_is_named(tmp_path: Path) -> None:
    """By the variable that it stands in, with the values that are allowed."""
    with demo(tmp_path, MSGOV_PAYMENT__SLOW_SECONDS="-1") as run:
        assert run.end() == ("", 1)
        assert "msgov demo: payment-" in run.errors()
        assert "payment.slow_seconds = -1" in run.errors()
        assert "MSGOV_PAYMENT__SLOW_SECONDS" in run.errors()
