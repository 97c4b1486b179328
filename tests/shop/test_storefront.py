"""Shoppers get JSON, or a problem in words they can act on; what is not theirs does not exist."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest

from shop.order.service import Orders
from shop.storefront.app import Storefront
from shop.storefront.reading import LARGEST
from tests.shop.town import Crash, Fault, Fuse, Script, Town, in_town

PASSWORD = "correct horse"
BASKET = {"lines": [{"sku": "TEA", "quantity": 2}]}


@dataclass
class Shopper:
    """One who knows the address, and perhaps has a token."""

    client: httpx2.AsyncClient
    town: Town
    token: str = ""

    async def send(self, method: str, path: str, body: object = None, **headers: str) -> httpx2.Response:
        """Send a request."""
        told = {name.replace("_", "-"): value for name, value in headers.items()}
        if self.token:
            told.setdefault("authorization", f"Bearer {self.token}")
        return await self.client.request(method, path, json=body, headers=told)

    async def post(self, path: str, body: object = None, **headers: str) -> httpx2.Response:
        """Send a POST."""
        return await self.send("POST", path, body, **headers)

    async def read(self, path: str) -> httpx2.Response:
        """Send a GET."""
        return await self.send("GET", path)

    async def log_in(self, name: str, *, role: str = "customer") -> Shopper:
        """Become somebody."""
        await self.town.users.register(name, PASSWORD, role=role)
        reply = await self.post("/sessions", {"name": name, "password": PASSWORD})
        return Shopper(self.client, self.town, reply.json()["token"])


def shopping(
    folder: Path, story: Callable[[Shopper], Coroutine[object, None, None]], script: Script | None = None
) -> None:
    """Run a story in front of a storefront."""

    async def told(town: Town) -> None:
        async with front(town, town.orders(script=script)) as shopper:
            await story(shopper)

    in_town(folder, told)


@asynccontextmanager
async def front(town: Town, orders: Orders) -> AsyncIterator[Shopper]:
    """Open a storefront over an order instance."""
    users, products, order = town.stubs(orders)
    app = Storefront(users=users, products=products, orders=order).app()
    transport = httpx2.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx2.AsyncClient(transport=transport, base_url="http://shop") as client:
        yield Shopper(client, town)


def problem(reply: httpx2.Response, status: int, reason: str | None = None) -> dict[str, object]:
    """Insist on a problem of this kind."""
    assert reply.status_code == status, reply.text
    assert reply.headers["content-type"] == "application/problem+json"
    body: dict[str, object] = reply.json()
    assert {"type", "title", "status"} <= body.keys()
    assert body["status"] == status
    assert body.get("reason") == reason
    return body


def test_a_shopper_registers_logs_in_orders_and_looks(tmp_path: Path) -> None:
    """The whole way, as a browser would go it."""

    async def story(shopper: Shopper) -> None:
        reply = await shopper.post("/users", {"name": "ann", "password": PASSWORD})
        assert (reply.status_code, reply.json()["roles"]) == (201, ["customer"])
        reply = await shopper.post("/sessions", {"name": "ann", "password": PASSWORD})
        assert (reply.status_code, reply.headers["cache-control"]) == (201, "no-store")
        shopper = Shopper(shopper.client, shopper.town, reply.json()["token"])
        products = (await shopper.read("/products?category=drinks&page_size=1")).json()
        assert products["products"] == [
            {"sku": "TEA", "name": "Tea", "category": "drinks", "price": {"minor": 500, "currency": "EUR"}}
        ]
        reply = await shopper.post("/orders", BASKET, idempotency_key="k1")
        order = reply.json()
        assert (reply.status_code, order["state"], order["total"]["minor"]) == (201, "confirmed", 1_000)
        assert reply.headers["location"] == f"/orders/{order['id']}"
        assert (await shopper.read(f"/orders/{order['id']}")).json() == order
        shipment = (await shopper.read(f"/orders/{order['id']}/shipment")).json()
        assert (shipment["state"], [step["type"] for step in shipment["history"]]) == ("none", ["placed", "confirmed"])

    shopping(tmp_path, story)


def test_asking_again_with_the_key_gives_the_same_answer(tmp_path: Path) -> None:
    """And the key is needed: without one, a lost reply would mean two orders or none."""

    async def story(shopper: Shopper) -> None:
        ann = await shopper.log_in("ann")
        replies = [await ann.post("/orders", BASKET, idempotency_key="k1") for _ in range(2)]
        assert replies[0].json() == replies[1].json()
        problem(await ann.post("/orders", BASKET), 400)
        other = {"lines": [{"sku": "TEA", "quantity": 3}]}
        problem(await ann.post("/orders", other, idempotency_key="k1"), 409, "key_reused")
        assert (await shopper.town.books_are_right()).counts["orders"] == 1

    shopping(tmp_path, story)


def test_without_a_token_nothing_is_ordered(tmp_path: Path) -> None:
    """Missing, malformed, unknown: all the same 401, with the way to a token."""

    async def story(shopper: Shopper) -> None:
        for told in ("", "Bearer", "Bearer ", "Basic abc", "Bearer " + "x" * 257, "Bearer nonsense"):
            reply = await shopper.post("/orders", BASKET, idempotency_key="k1", authorization=told)
            assert problem(reply, 401, "unauthenticated" if "nonsense" in told else None)["detail"]
            assert reply.headers["www-authenticate"] == "Bearer"

    shopping(tmp_path, story)


def test_an_order_of_others_does_not_exist(tmp_path: Path) -> None:
    """403 would tell that it does; staff may look."""

    async def story(shopper: Shopper) -> None:
        ann, bob, clerk = [
            await shopper.log_in("ann"),
            await shopper.log_in("bob"),
            await shopper.log_in("clerk", role="clerk"),
        ]
        path = (await ann.post("/orders", BASKET, idempotency_key="k1")).headers["location"]
        for ask in (bob.read(path), bob.read(f"{path}/shipment"), bob.post(f"{path}/cancel"), bob.post(f"{path}/pay")):
            problem(await ask, 404)
        assert (await clerk.read(path)).status_code == 200
        assert (await ann.read(path)).json()["state"] == "confirmed"
        problem(await ann.read("/orders/nothing"), 404, "not_found")

    shopping(tmp_path, story)


def test_only_staff_ships(tmp_path: Path) -> None:
    """The permission is checked before the order is."""

    async def story(shopper: Shopper) -> None:
        ann, clerk = await shopper.log_in("ann"), await shopper.log_in("clerk", role="clerk")
        path = (await ann.post("/orders", BASKET, idempotency_key="k1")).headers["location"] + "/shipment"
        problem(await ann.post(path, {"state": "packed"}), 403)
        problem(await clerk.post(path, {"state": "shipped"}), 409, "step_left_out")
        problem(await clerk.post(path, {"state": "lost"}), 422)
        for state in ("packed", "shipped"):
            assert (await clerk.post(path, {"state": state})).json()["state"] == state
        assert (await ann.read(path)).json()["tracking"]
        problem(await ann.post(path.replace("shipment", "cancel")), 409, "shipped")

    shopping(tmp_path, story)


def test_an_order_is_paid_later_and_cancelled(tmp_path: Path) -> None:
    """Each answer shows where the order stands."""

    async def story(shopper: Shopper) -> None:
        ann = await shopper.log_in("ann")
        reply = await ann.post("/orders", BASKET | {"pay_later": True}, idempotency_key="k1")
        assert (reply.status_code, reply.json()["state"]) == (201, "unpaid")
        path = reply.headers["location"]
        assert (await ann.post(f"{path}/pay")).json()["state"] == "confirmed"
        cancelled = await ann.post(f"{path}/cancel")
        assert (cancelled.status_code, cancelled.json()["reason"]) == (200, "customer")
        assert (await ann.post("/orders", BASKET | {"pay_later": True}, idempotency_key="k1")).status_code == 201
        problem(await ann.post(f"{path}/pay"), 409, "cancelled")

    shopping(tmp_path, story)


@pytest.mark.parametrize(
    ("sku", "quantity", "status", "reason"),
    [("GOLD", 2, 402, "declined"), ("TEA", 101, 409, "out_of_stock"), ("CUP", 1, 422, "not_for_sale")],
)
def test_a_basket_that_falls_through_says_why(
    tmp_path: Path, sku: str, quantity: int, status: int, reason: str
) -> None:
    """Waiting changes nothing here, so no time to come back is given."""

    async def story(shopper: Shopper) -> None:
        ann = await shopper.log_in("ann")
        basket = {"lines": [{"sku": sku, "quantity": quantity}]}
        reply = await ann.post("/orders", basket, idempotency_key="k1")
        problem(reply, status, reason)
        assert "retry-after" not in reply.headers

    shopping(tmp_path, story)


def test_a_payment_that_is_kept_back_is_a_friendly_refusal_with_a_time(tmp_path: Path) -> None:
    """The breaker knows when to come back; the shopper is told so, and that nothing was charged."""

    async def story(shopper: Shopper) -> None:
        ann = await shopper.log_in("ann")
        reply = await ann.post("/orders", BASKET, idempotency_key="k1")
        body = problem(reply, 503, "payment_unavailable")
        assert (reply.headers["retry-after"], body["retry_after"]) == ("2", 2.0)
        assert "Nothing was charged" in str(body["detail"])
        await shopper.town.books_are_right()

    shopping(tmp_path, story, lambda method: Fault.UNSENT if method == "Charge" else None)


def test_an_order_still_under_way_is_accepted(tmp_path: Path) -> None:
    """202 with the place to look; later it is there."""

    async def story(shopper: Shopper) -> None:
        ann = await shopper.log_in("ann")
        reply = await ann.post("/orders", BASKET, idempotency_key="k1")
        assert (reply.status_code, reply.json()["state"]) == (202, "pending")
        await shopper.town.settle()
        assert (await ann.read(reply.headers["location"])).json()["state"] == "confirmed"

    shopping(tmp_path, story, lambda method: Fault.LOST_REPLY if method == "Commit" else None)


def test_a_service_that_is_away_is_a_friendly_refusal(tmp_path: Path) -> None:
    """Whatever its stub raises, the shopper gets 503, a time, and no inner text."""

    async def story(town: Town) -> None:
        async with front(town, town.orders()) as shopper:
            ann = await shopper.log_in("ann")

            class Away:
                async def Verify(self, request: object) -> object:
                    raise OSError("secret=hunter2")

            users, products, orders = town.stubs(town.orders())
            app = Storefront(users=Away(), products=products, orders=orders).app()  # type: ignore[arg-type]
            async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url="http://shop") as client:
                reply = await Shopper(client, town, ann.token).read("/orders/x")
            assert users is not None
            problem(reply, 503)
            assert reply.headers["retry-after"] == "1"
            assert "hunter2" not in reply.text

    in_town(tmp_path, story)


def test_our_own_mistakes_tell_nothing(tmp_path: Path) -> None:
    """A crash inside is a 500 with a fixed text."""

    async def story(town: Town) -> None:
        async with front(town, town.orders()) as shopper:
            ann = await shopper.log_in("ann")
            async with town.stores["order"].transaction() as tx:
                await tx.execute("ALTER TABLE orders RENAME TO hidden")
            reply = await ann.read("/orders/x")
            problem(reply, 500)
            assert "hidden" not in reply.text
            assert "orders" not in reply.text

    in_town(tmp_path, story)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 422),
        (b"{", 400),
        (b"[]", 400),
        (b"\xff", 400),
        (b"[" * 30_000, 400),
        (b'{"lines": ' + b"9" * 5_000 + b"}", 400),
        (b" " * (LARGEST + 1), 413),
        (b'{"lines": []}', 422),
        (b'{"lines": {}}', 422),
        (b'{"lines": [1]}', 422),
        (b'{"lines": [{"sku": "TEA"}]}', 422),
        (b'{"lines": [{"sku": "TEA", "quantity": true}]}', 422),
        (b'{"lines": [{"sku": "TEA", "quantity": 1.5}]}', 422),
        (b'{"lines": [{"sku": "TEA", "quantity": "1"}]}', 422),
        (b'{"lines": [{"sku": "TEA", "quantity": 0}]}', 422),
        (b'{"lines": [{"sku": "TEA", "quantity": 1001}]}', 422),
        (b'{"lines": [{"sku": "TEA", "quantity": 99999999999999999999}]}', 422),
        (b'{"lines": [{"sku": "TEA", "quantity": NaN}]}', 422),
        (b'{"lines": [{"sku": "\\ud800", "quantity": 1}]}', 422),
        (b'{"lines": [{"sku": "tea", "quantity": 1}]}', 422),
        (b'{"lines": [{"sku": "TEA", "quantity": 1}, {"sku": "TEA", "quantity": 1}]}', 422),
        (b'{"lines": [{"sku": "TEA", "quantity": 1}], "pay_later": "no"}', 422),
        (b'{"lines": [' + b",".join([b'{"sku": "TEA", "quantity": 1}'] * 51) + b"]}", 422),
    ],
)
def test_bad_orders_are_refused_without_effect(tmp_path: Path, body: bytes, status: int) -> None:
    """Never a 500, never half an order."""

    async def story(shopper: Shopper) -> None:
        ann = await shopper.log_in("ann")
        headers = {"authorization": f"Bearer {ann.token}", "idempotency-key": "k1"}
        reply = await ann.client.post("/orders", content=body, headers=headers)
        assert reply.status_code == status, reply.text
        assert reply.headers["content-type"] == "application/problem+json"
        assert not await shopper.town.stores["order"].fetch("SELECT * FROM orders")

    shopping(tmp_path, story)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("DELETE", "/orders", 405),
        ("GET", "/products?page_size=-1", 422),
        ("GET", "/products?page_size=1000", 422),
        ("GET", "/products?page_size=9999999999", 422),
        ("GET", "/products?page_token=%ff", 422),
        ("GET", "/products?category=" + "x" * 41, 422),
        ("POST", "/users", 422),
    ],
)
def test_what_is_not_there_or_not_right_is_a_problem_too(tmp_path: Path, method: str, path: str, status: int) -> None:
    """One form for everything that goes wrong."""

    async def story(shopper: Shopper) -> None:
        reply = await shopper.send(method, path)
        assert reply.status_code == status, reply.text
        assert reply.headers["content-type"] == "application/problem+json"

    shopping(tmp_path, story)


def test_an_instance_that_dies_behind_the_storefront_loses_no_order(tmp_path: Path) -> None:
    """What the shopper asks again with the same key is carried on by the next instance."""

    async def story(town: Town) -> None:
        async with front(town, town.orders(fuse=Fuse(at=6))) as shopper:
            ann = await shopper.log_in("ann")
            with pytest.raises(Crash):
                await ann.post("/orders", BASKET, idempotency_key="k1")
        async with front(town, town.orders()) as shopper:
            reply = await Shopper(shopper.client, town, ann.token).post("/orders", BASKET, idempotency_key="k1")
            assert (reply.status_code, reply.json()["state"]) == (201, "confirmed")
        assert (await town.books_are_right()).counts["orders"] == 1

    in_town(tmp_path, story)


def test_two_storefronts_and_one_double_click_make_one_order(tmp_path: Path) -> None:
    """Both replies name the same order."""

    async def story(town: Town) -> None:
        async with front(town, town.orders()) as one, front(town, town.orders()) as two:
            ann = await one.log_in("ann")
            also_ann = Shopper(two.client, town, ann.token)
            replies = await asyncio.gather(
                *(each.post("/orders", BASKET, idempotency_key="k1") for each in (ann, also_ann))
            )
        assert replies[0].json() == replies[1].json()
        assert (await town.books_are_right()).counts["orders"] == 1

    in_town(tmp_path, story)


def test_a_shopper_is_told_at_once_that_payment_rests(tmp_path: Path) -> None:
    """503 with a time to come back; for the breaker in front of the order service it is an answer, not a failure."""

    async def story(town: Town) -> None:
        async with front(town, town.orders(resting=1.2)) as shopper:
            ann = await shopper.log_in("ann")
            reply = await ann.post("/orders", {"lines": [{"sku": "TEA", "quantity": 1}]}, idempotency_key="k")
            body = problem(reply, 503, "payment_unavailable")
            assert (reply.headers["retry-after"], body["retry_after"]) == ("2", 1.2)
            assert "Nothing was charged" in str(body["detail"])
            assert "order" not in body

    in_town(tmp_path, story)
