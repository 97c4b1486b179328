"""A shopper speaks HTTP like anybody: with a time limit, and asks again with the same key when no answer came."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import httpx2

from .tally import Attempt, Tally, Told

TIMEOUT: Final = 10.0  # seconds for one answer
TRIES: Final = 8
PAUSE, LONGEST = 0.05, 1.0  # seconds before asking again; doubled each time, longer where the shop says so
RESTING: Final = "payment_unavailable"  # why the shop refuses at once while the breaker before payment is open


class NoAnswer(Exception):
    """The shop gave none, however often it was asked."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer of the shop, `seconds` after it was asked for; `wait` is when it asks to be asked again."""

    status: int
    body: Mapping[str, Any]
    wait: float | None
    seconds: float

    @property
    def sure(self) -> bool:
        """Whether it tells what became of the request: a 429 or a 5xx does not, unless an order comes with it."""
        told = "order" in self.body or self.body.get("reason") == RESTING
        return told or (self.status < 500 and self.status != 429)


class Counter:
    """The shop's counter, wherever it is at the moment; `transport` is how it is reached, by default over the net."""

    def __init__(
        self, address: Callable[[], str], tally: Tally, *, transport: httpx2.AsyncBaseTransport | None = None
    ) -> None:
        self.tally = tally
        self._address = address
        # Nothing between the processes of one machine goes through a proxy.
        self._http = httpx2.AsyncClient(
            trust_env=False, timeout=TIMEOUT, limits=httpx2.Limits(max_connections=200), transport=transport
        )

    async def ask(
        self,
        verb: str,
        path: str,
        *,
        token: str = "",
        key: str = "",
        body: object = None,
        doubted: Callable[[], None] = lambda: None,
    ) -> Answer:
        """Ask until there is an answer that tells something; `doubted` is told when one got lost. Raises `NoAnswer`."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        if key:
            headers["Idempotency-Key"] = key
        pause = PAUSE
        for tried in range(TRIES):
            if tried:
                self.tally.again += 1
                await asyncio.sleep(pause * (0.5 + secrets.randbelow(1000) / 1000))
                pause = min(LONGEST, pause * 2)
            began = time.monotonic()
            try:
                reply = await self._http.request(verb, f"{self._address()}{path}", headers=headers, json=body)
                answer = _read(reply, time.monotonic() - began)
            except (httpx2.HTTPError, ValueError):
                doubted()
                continue
            if answer.sure:
                return answer
            if answer.status != 429:
                doubted()
            pause = max(pause, min(answer.wait or 0.0, 2.0))
        raise NoAnswer(f"{verb} {path} was not answered in {TRIES} tries")

    async def aclose(self) -> None:
        """Hang up."""
        await self._http.aclose()


def _read(reply: httpx2.Response, seconds: float) -> Answer:
    body = reply.json()
    if not isinstance(body, dict):
        raise ValueError("not an object")
    wait = reply.headers.get("retry-after", "")
    return Answer(reply.status_code, body, float(wait) if wait.isdigit() else None, seconds)


class Shopper:
    """One customer with an account; made by `arrive`."""

    def __init__(self, counter: Counter, *, user_id: str, token: str) -> None:
        self.user_id = user_id
        self.token = token
        self._counter = counter

    @classmethod
    async def arrive(cls, counter: Counter) -> Shopper:
        """Register and log in; raises `NoAnswer`."""
        account = {"name": f"shopper-{secrets.token_hex(8)}", "password": secrets.token_urlsafe(12)}
        made = await counter.ask("POST", "/users", body=account)
        if made.status not in (201, 409):  # 409: an answer got lost, and this is the second time
            raise NoAnswer(f"POST /users was answered {made.status}")
        session = await counter.ask("POST", "/sessions", body=account)
        if session.status != 201:
            raise NoAnswer(f"POST /sessions was answered {session.status}")
        return cls(counter, user_id=session.body["user_id"], token=session.body["token"])

    async def browse(self) -> list[str]:
        """Look at what is for sale; return the SKUs."""
        page = await self._counter.ask("GET", "/products?page_size=50")
        return [each["sku"] for each in page.body.get("products", ())]

    async def place(self, lines: Mapping[str, int], *, key: str = "", reused: bool = False) -> Attempt:
        """Place an order and hear what became of it; with a `key` that was used before, when `reused`."""
        attempt = Attempt(self.user_id, self.token, key or secrets.token_hex(12), lines, reused)
        tally = self._counter.tally
        tally.attempts.append(attempt)
        began = time.monotonic()
        try:
            answer = await place(self._counter, attempt)
        except NoAnswer:
            tally.count("unanswered")
            return attempt
        tally.waits.append(time.monotonic() - began)
        if answer.body.get("reason") == RESTING:
            tally.friendly.append(answer.seconds)
            tally.count("friendly")
        else:
            tally.count(str((answer.body.get("order") or answer.body).get("state") or "refused"))
        return attempt

    async def cancel(self, attempt: Attempt) -> None:
        """Think better of it."""
        await self._counter.ask("POST", f"/orders/{attempt.order_id}/cancel", token=self.token)

    async def follow(self, attempt: Attempt) -> None:
        """Look where it is."""
        await self._counter.ask("GET", f"/orders/{attempt.order_id}/shipment", token=self.token)


async def place(counter: Counter, attempt: Attempt) -> Answer:
    """Ask for an order, as often as it takes, and write down what was told; raises `NoAnswer`."""

    def doubted() -> None:
        attempt.doubt = True

    lines = [{"sku": sku, "quantity": quantity} for sku, quantity in attempt.lines.items()]
    answer = await counter.ask(
        "POST", "/orders", token=attempt.token, key=attempt.key, body={"lines": lines}, doubted=doubted
    )
    order = answer.body.get("order", answer.body)
    if isinstance(order, dict) and "id" in order:
        attempt.told, attempt.order_id = Told.PLACED, order["id"]
    elif not attempt.doubt:
        attempt.told = Told.REFUSED
    return answer


async def read_back(counter: Counter, attempt: Attempt) -> None:
    """Find out what an order has become; one of which nothing was heard is asked for once more, with its key."""
    if attempt.told is Told.NOTHING:
        attempt.doubt = False
        await place(counter, attempt)
    if attempt.told is Told.PLACED:
        answer = await counter.ask("GET", f"/orders/{attempt.order_id}", token=attempt.token)
        attempt.state = answer.body.get("state", "") if answer.status == 200 else ""
