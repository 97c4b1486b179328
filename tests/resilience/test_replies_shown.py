"""A failed reply is shown as the status that it is; what cannot judge one is refused where it is written."""

from __future__ import annotations

import asyncio
import inspect
import pickle
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from http import HTTPStatus
from pathlib import Path
from typing import assert_type, cast

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from msgov.call import PERMANENT, TRANSIENT, YES, Call, Outcome, Verdict
from msgov.errors import RuleError
from msgov.observability.edges import Rpc
from msgov.observability.setup import observability
from msgov.pipeline import Policy
from msgov.resilience import Breaker, FailedReply, policies
from msgov.service import Service
from msgov.testing import ScriptedHandler, run
from tests.drivers.conftest import colour
from tests.drivers.stage import Again, Aio, Colour, Door
from tests.observability.conftest import paper, unset
from tests.observability.reading import Paper
from tests.resilience.replying import Asked, Failed, Reply, bad

__all__ = ["colour", "paper", "unset"]  # fixtures: every test that asks for a colour runs in both


@pytest.mark.parametrize(
    ("reply", "says", "status"),
    [
        (Reply(503), True, "503"),
        (Reply(HTTPStatus.BAD_GATEWAY), True, "502"),
        (Reply(200), Outcome(TRANSIENT, status="UNAVAILABLE"), "UNAVAILABLE"),
        (Reply(70_000), True, "Reply"),
        ({"error": "s3cret"}, PERMANENT, "dict"),
        (None, True, "NoneType"),
    ],
    ids=str,
)
def test_status_is_the_replys_own(reply: object, says: bool | Verdict | Outcome, status: str, colour: Colour) -> None:
    """By what HTTP clients call it, or as the predicate says, or by its class: never by what is in it."""
    door = Door([], "door")
    Asked(colour, [door], reply, failed=lambda reply: says)
    (learnt,) = door.outcomes
    assert learnt.status == status
    assert str(learnt.error) == f"shop replied {status}, which counts as a failure"


def test_aiohttp_calls_it_status(colour: Colour) -> None:
    """The other name for the same number."""

    class Response:
        status = 504

    door = Door([], "door")
    Asked(colour, [door], Response(), failed=lambda reply: reply.status >= 500)
    assert door.outcomes[0].status == "504"


def test_failure_notes_how_often_it_was_tried(colour: Colour) -> None:
    """Whoever meets it inside, a fallback say, reads what an error would say."""
    door = Door([], "door")
    Asked(colour, [door, Again(2, apart=0.0)], Reply(503), Reply(503))
    (learnt,) = door.outcomes
    assert learnt.error is not None
    assert learnt.error.__notes__ == ["after 2 attempts"]


@pytest.mark.parametrize(("told", "seen"), [(True, "503"), (Outcome(TRANSIENT, status="UNAVAILABLE"), "UNAVAILABLE")])
def test_logs_and_traces_show_the_status(told: bool | Outcome, seen: str, colour: Colour, paper: Paper) -> None:
    """Although the caller gets a reply, this was a failed call, and they say of what kind."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    with observability("order", logs="json", traces=provider, fd=paper.fd) as observe:
        Asked(colour, observe.gates(Rpc("client", system="function")), Reply(503), failed=lambda reply: told)
    provider.shutdown()
    (line,), (span,) = paper.lines(), exporter.get_finished_spans()
    assert seen in str(line["error"])
    assert seen in (span.attributes or {}).values()
    assert not span.status.is_ok


def test_who_does_not_use_it_pays_nothing(colour: Colour) -> None:
    """The written walk calls the function itself, with nothing between, and nothing stands round the walk."""

    async def later() -> int:
        return 1

    def now() -> int:
        return 1

    function: Callable[[], object] = later if isinstance(colour, Aio) else now
    plain, judged = policies(Breaker())(function), policies(Breaker(), failed=bad)(function)
    assert plain.__code__.co_filename.startswith("<msgov walk")
    assert inspect.getclosurevars(plain).nonlocals["handler"] is function
    assert not judged.__code__.co_filename.startswith("<msgov walk")
    assert policies(failed=bad)(function) is function


def _items() -> Iterator[int]:
    yield 1


async def _flow() -> AsyncIterator[int]:
    yield 1


@pytest.mark.parametrize("function", [_items, _flow])
@pytest.mark.parametrize("chain", [[], [Breaker()]], ids=["bare", "governed"])
def test_generator_has_no_reply_to_judge(function: Callable[[], object], chain: list[Policy]) -> None:
    """Said where it is written, though nothing else stood in the chain."""
    with pytest.raises(RuleError, match=r"failed = .*its items are its reply"):
        policies(*chain, failed=bad)(function)


async def _later(reply: object) -> bool:
    return True


@pytest.mark.parametrize(
    ("failed", "says"),
    [
        (500, "a function of the reply"),
        (_later, "nobody awaits"),
        (lambda: True, "of one thing: the reply"),
        (lambda reply, call: True, "of one thing: the reply"),
    ],
)
def test_predicate_that_cannot_judge_is_refused_at_once(failed: object, says: str) -> None:
    """Not with the first reply."""
    with pytest.raises(RuleError, match=says):
        policies(Breaker(), failed=cast("Failed", failed))


def test_builtin_that_tells_no_signature_may_judge(colour: Colour) -> None:
    """`bool` of the reply is a judge, too."""
    door = Door([], "door")
    assert Asked(colour, [door], 1, failed=bool).got == [1]
    assert door.verdicts == [TRANSIENT]


def test_signature_and_types_stay() -> None:
    """A type checker and a framework see the function that was decorated."""

    @policies(Breaker(), failed=lambda reply: reply.status_code >= 500)
    async def later(number: int) -> Reply:
        """Ask."""
        return Reply(number)

    @policies(Breaker(), failed=bad)
    def now(number: int) -> Reply:
        return Reply(number)

    async def scene() -> None:
        assert_type(await later(503), Reply)

    assert_type(now(503), Reply)
    assert inspect.iscoroutinefunction(later)
    assert (later.__name__, later.__doc__) == ("later", "Ask.")
    assert list(inspect.signature(later).parameters) == ["number"]
    run(scene())


def test_failure_crosses_processes_whole() -> None:
    """As every error of msgov does."""
    error = FailedReply("shop", {"a": 1}, Outcome(PERMANENT, status="404", retry_after=2.0))
    back = pickle.loads(pickle.dumps(error))  # noqa: S301  our own
    assert (back.reply, back.status, back.verdict, back.sent) == ({"a": 1}, "404", PERMANENT, YES)
    assert (str(back), back.retry_after, back.facts) == (str(error), 2.0, {"status": "404"})


def test_guarded_function_takes_it_too(colour: Colour, tmp_path: Path) -> None:
    """By the rules of the file: the reply is tried again as often as they say."""
    file = tmp_path / "order.toml"
    file.write_text("[function.stock]\nretry = {attempts = 3, base = 0.001}\n")
    svc = Service("order", config=file, logs="off", environ={})
    callee = ScriptedHandler(Reply(503), Reply(503), Reply(200))
    guard = svc.guarded("stock", idempotent=True, failed=bad)
    try:
        if isinstance(colour, Aio):
            later = cast("Callable[[Call], Awaitable[Reply]]", guard(callee.aio))

            async def scene() -> int:
                return (await later(Call("stock"))).status_code

            assert asyncio.run(scene()) == 200
        else:
            assert cast("Reply", guard(callee.sync)(Call("stock"))).status_code == 200
        assert len(callee.calls) == 3
        with pytest.raises(RuleError, match="its items are its reply"):
            svc.guarded("items", failed=bad)(_items)
    finally:
        svc.close()
