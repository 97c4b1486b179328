"""A refusal crosses a wire whole, and nothing else of the inside does."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

import grpc.aio
import pytest

from msgov.errors import BreakerOpen, DeadlineExceeded
from shop import calls, errors
from shop.answers import CODES, answers
from shop.calls import CallError, ask
from shop.local import Local
from shop.pb import audit_pb2 as pb
from shop.pb.audit_pb2_grpc import AuditServicer, AuditStub, add_AuditServicer_to_server
from tests.shop.town import KeptBack

SECRET = "secret=hunter2"


class Refusing(AuditServicer):
    """Raises what it is told to."""

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.asked = 0

    @answers
    async def Entries(
        self, request: pb.EntriesRequest, context: grpc.aio.ServicerContext[pb.EntriesRequest, pb.EntriesReply]
    ) -> pb.EntriesReply:
        """Refuse."""
        self.asked += 1
        raise self.error


@asynccontextmanager
async def served(servicer: AuditServicer, *, wire: bool) -> AsyncIterator[AuditStub]:
    """Give the generated stub over a real wire, or the one without."""
    if not wire:
        yield cast("AuditStub", Local(servicer))
        return
    server = grpc.aio.server()
    add_AuditServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.enable_http_proxy", 0)]) as channel:
            yield AuditStub(channel)
    finally:
        await server.stop(None)


async def failure_of(error: Exception, *, wire: bool) -> calls.Failure:
    """Ask a servicer that raises `error`, and read what comes back."""
    async with served(Refusing(error), wire=wire) as stub:
        with pytest.raises(CallError) as failed:
            await ask(lambda: stub.Entries(pb.EntriesRequest()), tries=1)
        return failed.value.failure


@pytest.mark.parametrize("wire", [True, False], ids=["wire", "local"])
@pytest.mark.parametrize("kind", CODES, ids=lambda kind: kind.__name__)
def test_every_refusal_arrives_with_code_reason_words_and_time(kind: type[errors.ShopError], *, wire: bool) -> None:
    """The same without a wire: a shop in one process is no other shop."""
    failure = asyncio.run(failure_of(kind("not like this", reason="BECAUSE", retry_after=2.5), wire=wire))
    assert failure == calls.Failure(
        CODES[kind], "BECAUSE", "not like this", answered=kind is not errors.Unavailable, sent=True, retry_after=2.5
    )


@pytest.mark.parametrize("wire", [True, False], ids=["wire", "local"])
def test_the_text_of_an_exception_stays_inside(caplog: pytest.LogCaptureFixture, *, wire: bool) -> None:
    """What was never meant for strangers may hold anything; it is logged here, and INTERNAL there."""
    with caplog.at_level(logging.ERROR, "shop.answers"):
        failure = asyncio.run(failure_of(ValueError(SECRET), wire=wire))
    assert (failure.code, failure.message, failure.answered) == (grpc.StatusCode.INTERNAL, "", False)
    assert SECRET not in repr(failure)
    assert SECRET in caplog.text


def test_every_class_of_refusal_has_a_code() -> None:
    """A new one without a code would break the refusal itself."""
    assert set(CODES) == set(errors.ShopError.__subclasses__())


def test_an_answer_is_not_asked_for_again_and_silence_is() -> None:
    """No is no; nobody knows is a question still open."""

    async def story() -> tuple[int, int]:
        no, silent = Refusing(errors.Refused("no")), Refusing(errors.Unavailable("not now"))
        for servicer in (no, silent):
            stub = cast("AuditStub", Local(servicer))
            with pytest.raises(CallError) as failed:
                await ask(functools.partial(stub.Entries, pb.EntriesRequest()), tries=3)
            assert failed.value.maybe is (servicer is silent)
        return no.asked, silent.asked

    assert asyncio.run(story()) == (1, 3)


def test_a_refusal_after_a_silence_may_still_mean_done() -> None:
    """The first try may have been carried out, whatever the second is told."""
    raised = [TimeoutError(), KeptBack()]

    async def call() -> None:
        raise raised.pop(0)

    with pytest.raises(CallError) as failed:
        asyncio.run(ask(call, tries=2))
    assert failed.value.maybe
    assert not failed.value.failure.sent


def test_msgovs_own_refusals_are_read_without_naming_msgov() -> None:
    """The shop knows its library by two attributes: what was not sent was not done, and when to come back."""
    kept_back = calls.read(BreakerOpen("open", retry_after=2.5))
    assert (kept_back.sent, kept_back.answered, kept_back.retry_after) == (False, False, 2.5)
    late = calls.read(DeadlineExceeded("late"))
    assert (late.code, late.sent, late.answered) == (grpc.StatusCode.DEADLINE_EXCEEDED, True, False)


@pytest.mark.parametrize("packed", [b"", b"\xff\xff\xff", b"\x08"])
def test_details_that_cannot_be_read_are_passed_over(packed: bytes) -> None:
    """They come from another process, perhaps of another make."""
    assert calls.details([("grpc-status-details-bin", packed)]) == ("", None)


def test_words_of_others_are_not_repeated_to_strangers() -> None:
    """Only a status with our own reason carries text that was written to be shown."""
    nothing = grpc.aio.Metadata()
    error = grpc.aio.AioRpcError(grpc.StatusCode.NOT_FOUND, nothing, nothing, SECRET, SECRET)
    failure = calls.read(error)
    assert (failure.answered, failure.message) == (True, "")
