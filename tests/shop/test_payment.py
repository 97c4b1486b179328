"""Money is taken at most once an order, and a refund is the last word."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from shop.errors import AlreadyExists, Invalid, NotFound, Refused, Unavailable
from shop.payment.service import LIMIT, Faults, Payments, PaymentState
from tests.shop.town import Town, in_town


async def ledger(town: Town) -> list[tuple[str, str, int]]:
    """Return all that was booked."""
    rows = await town.stores["payment"].fetch("SELECT order_id, kind, amount FROM ledger ORDER BY id")
    return [tuple(row) for row in rows]


def test_a_charge_counts_once_however_often_it_is_asked(tmp_path: Path) -> None:
    """Callers ask again after a lost reply, also two at once and at two instances."""

    async def story(town: Town) -> None:
        other = Payments(town.stores["payment"])
        asked = [each.charge("o", 500, "EUR", key="k") for each in (town.payments, other, town.payments)]
        assert {payment.state for payment in await asyncio.gather(*asked)} == {PaymentState.CAPTURED}
        assert await ledger(town) == [("o", "capture", 500)]

    in_town(tmp_path, story)


def test_a_refund_gives_back_what_was_taken_once(tmp_path: Path) -> None:
    """Compensation is repeated until it is known to be done."""

    async def story(town: Town) -> None:
        await town.payments.charge("o", 500, "EUR", key="k")
        for _ in range(2):
            payment = await town.payments.refund("o")
            assert (payment.state, payment.amount) == (PaymentState.REFUNDED, 500)
        assert await ledger(town) == [("o", "capture", 500), ("o", "refund", 500)]

    in_town(tmp_path, story)


def test_a_late_charge_is_refused_after_a_refund(tmp_path: Path) -> None:
    """A request that overslept must not take money for an order that was given up."""

    async def story(town: Town) -> None:
        assert (await town.payments.refund("o")).state is PaymentState.VOIDED
        with pytest.raises(Refused) as refused:
            await town.payments.charge("o", 500, "EUR", key="k")
        assert refused.value.reason == "VOIDED"
        assert (await town.payments.refund("o")).state is PaymentState.VOIDED
        assert await ledger(town) == []

    in_town(tmp_path, story)


def test_a_charge_that_sleeps_through_a_refund_takes_nothing(tmp_path: Path) -> None:
    """The decisive look is inside the transaction, after the slow part."""

    async def story(town: Town) -> None:
        slept, wake = asyncio.Event(), asyncio.Event()

        class Slow(Payments):
            async def _suffer(self) -> None:
                slept.set()
                await wake.wait()

        charge = asyncio.create_task(Slow(town.stores["payment"]).charge("o", 500, "EUR", key="k"))
        await slept.wait()
        await town.payments.refund("o")
        wake.set()
        with pytest.raises(Refused):
            await charge
        assert await ledger(town) == []

    in_town(tmp_path, story)


def test_a_cancelled_slow_charge_leaves_nothing(tmp_path: Path) -> None:
    """The caller's deadline ends the call while the bank sleeps; the settings are read at each call."""

    async def story(town: Town) -> None:
        asked = asyncio.Event()

        def faults() -> Faults:
            asked.set()
            return Faults(slow_seconds=3600)

        charge = asyncio.create_task(Payments(town.stores["payment"], faults=faults).charge("o", 500, "EUR", key="k"))
        await asked.wait()
        charge.cancel()
        with pytest.raises(asyncio.CancelledError):
            await charge
        assert await ledger(town) == []
        with pytest.raises(NotFound):
            await town.payments.find("o")

    in_town(tmp_path, story)


def test_faults_are_switched_while_running(tmp_path: Path) -> None:
    """A setting is asked for at each charge, so a change needs no restart."""

    async def story(town: Town) -> None:
        chances: Iterator[float] = iter([0.49, 0.5])
        payments = Payments(town.stores["payment"], faults=lambda: town.faults, chance=lambda: next(chances))
        town.faults = Faults(fail_ratio=0.5)
        with pytest.raises(Unavailable):
            await payments.charge("o", 500, "EUR", key="k")
        assert await ledger(town) == []
        await payments.charge("o", 500, "EUR", key="k")
        town.faults = Faults(fail_ratio=1.0)
        await payments.charge("o", 500, "EUR", key="k")  # already taken: nothing left to fail
        assert len(await ledger(town)) == 1

    in_town(tmp_path, story)


def test_another_amount_or_key_is_refused(tmp_path: Path) -> None:
    """One order, one price; one key, one order."""

    async def story(town: Town) -> None:
        await town.payments.charge("o", 500, "EUR", key="k")
        for order, amount, currency, key in [
            ("o", 501, "EUR", "k"),
            ("o", 500, "CHF", "k"),
            ("o", 500, "EUR", "k2"),
            ("o2", 500, "EUR", "k"),
        ]:
            with pytest.raises(AlreadyExists):
                await town.payments.charge(order, amount, currency, key=key)
        assert len(await ledger(town)) == 1

    in_town(tmp_path, story)


def test_a_declined_card_pays_nothing(tmp_path: Path) -> None:
    """A refusal is an answer: asking again gives the same."""

    async def story(town: Town) -> None:
        await town.payments.charge("o", LIMIT, "EUR", key="k")
        with pytest.raises(Refused) as refused:
            await town.payments.charge("o2", LIMIT + 1, "EUR", key="k2")
        assert refused.value.reason == "DECLINED"
        assert len(await ledger(town)) == 1

    in_town(tmp_path, story)


@pytest.mark.parametrize(
    ("order", "amount", "currency", "key"),
    [("", 1, "EUR", "k"), ("o", 0, "EUR", "k"), ("o", -5, "EUR", "k"), ("o", 1, "eur", "k"), ("o", 1, "EUR", "k\n")],
)
def test_bad_input_is_named(tmp_path: Path, order: str, amount: int, currency: str, key: str) -> None:
    """What, which value, what is allowed."""

    async def story(town: Town) -> None:
        with pytest.raises(Invalid, match=r"allowed"):
            await town.payments.charge(order, amount, currency, key=key)

    in_town(tmp_path, story)
