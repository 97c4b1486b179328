"""Every line says where it belongs, and tells no secret."""

from __future__ import annotations

import io
import json
import logging
import re
from pathlib import Path

import pytest
import structlog
from structlog.contextvars import bound_contextvars
from structlog.testing import capture_logs

from msgov.observability.logs import PROCESSORS, get_logger, installed, levels
from msgov.observability.redact import MASK, Secret
from msgov.observability.roots import trace_root
from msgov.scope import Scope, Trace, current
from tests.observability.reading import Written

PLANTED = "hunter2-Zx91"


def test_a_line_has_the_fields_of_all_lines(written: Written) -> None:
    """In one order, so that people find them."""
    get_logger("shop").info("order.placed", order=7)
    line = written.line()
    assert list(line) == [
        "timestamp", "level", "event", "logger", "service", "version", "instance", "trace_id", "span_id", "order",
    ]  # fmt: skip
    assert line["event"] == "order.placed"
    assert line["level"] == "info"
    assert (line["service"], line["version"], line["instance"]) == ("order", "1.4.0", "order-1")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", str(line["timestamp"]))


def test_a_line_belongs_to_the_trace_under_way(written: Written) -> None:
    """That is how it is found."""
    token = current.set(Scope(trace=Trace("a" * 32, "b" * 16)))
    try:
        get_logger("shop").info("x")
    finally:
        current.reset(token)
    assert (written.line()["trace_id"], written.line()["span_id"]) == ("a" * 32, "b" * 16)


def test_a_line_outside_of_any_request_belongs_to_the_process(written: Written) -> None:
    """Every line has 32 digits, and those of one process's start are found together."""
    get_logger("shop").info("x")
    get_logger("shop").info("y")
    first, second = (line["trace_id"] for line in written.lines())
    assert first == second
    assert re.fullmatch(r"[0-9a-f]{32}", str(first))


def test_background_work_names_its_task(written: Written) -> None:
    """And has a trace of its own."""
    with trace_root("sweep") as trace:
        get_logger("shop").info("x")
    assert written.line()["task"] == "sweep"
    assert written.line()["trace_id"] == trace.trace_id


def test_bound_fields_stay(written: Written) -> None:
    """Those of the logger, those of the context, those of the line; the nearest wins."""
    log = get_logger("shop", part="cart").bind(user=7)
    with bound_contextvars(tenant="acme", user=1):
        log.unbind("part").info("x", order=3)
    line = written.line()
    assert (line.get("part"), line["user"], line["tenant"], line["order"]) == (None, 7, "acme", 3)


@pytest.mark.parametrize("level", ["debug", "info", "warning", "error", "critical"])
def test_a_silent_level_writes_nothing(written: Written, level: str) -> None:
    """And one that is not silent does, at once, in loggers that exist already."""
    log = get_logger("shop.levels")
    say = getattr(log, level)
    try:
        levels.set("critical", logger="shop.levels")
        say("x")
        assert len(written.lines()) == (level == "critical")
        levels.set(level, logger="shop.levels")
        say("y")
        assert written.lines()[-1]["level"] == level
    finally:
        levels.restore()


def test_an_exception_is_told_with_its_frames_and_without_their_values(written: Written) -> None:
    """structlog's own tracebacks print every local variable."""

    def pay() -> None:
        card = "-".join(("4111", "1111", "1111", "1111"))
        raise ValueError(f"no such card, ends {card[-2:]}")

    log = get_logger("shop")
    try:
        pay()
    except ValueError:
        log.exception("payment.failed")
    line = written.line()
    assert line["level"] == "error"
    assert line["error"] == {"type": "ValueError", "message": "no such card, ends 11"}
    assert "in pay" in str(line["exception"])
    assert "4111-1111" not in written.text()


@pytest.mark.parametrize("spelling", ["value", "tuple", "true"])
def test_an_exception_is_found_in_each_spelling(written: Written, spelling: str) -> None:
    """Loggers of other libraries hand over any of them."""
    try:
        raise KeyError("x")
    except KeyError as error:
        info: object = {"value": error, "tuple": (KeyError, error, None), "true": True}[spelling]
        get_logger("shop").warning("x", exc_info=info)
    assert str(written.line()["exception"]).endswith("KeyError: 'x'")


def test_a_long_traceback_keeps_its_end(written: Written) -> None:
    """The frames nearest to the failure stand last."""

    def deep(n: int) -> None:
        if n:
            deep(n - 1)
        raise ValueError("y" * 20_000 + " at the bottom")

    try:
        deep(300)
    except ValueError as error:
        get_logger("shop").error("x", exc_info=error)
    text = str(written.line()["exception"])
    assert len(text) < 9000
    assert text.startswith("Traceback")
    assert text.endswith("at the bottom")


def test_secrets_planted_anywhere_appear_nowhere(written: Written) -> None:
    """By key, by type, by looks, in messages, in exceptions and their causes, at any depth."""
    log = get_logger("shop", api_key=PLANTED)
    log.info("x", password=PLANTED, nested={"token": [PLANTED]}, secret=Secret(PLANTED), value=[Secret(PLANTED)])
    log.info(f"calling http://u:{PLANTED}@h/", header=f"Bearer {PLANTED}")
    try:
        try:
            raise OSError(f"postgres://app:{PLANTED}@db refused")
        except OSError as inner:
            raise RuntimeError(f"password={PLANTED}") from inner
    except RuntimeError:
        log.exception("failed", dsn=PLANTED)
    with bound_contextvars(session_token=PLANTED):
        log.warning("y", raw=f'{{"client_secret": "{PLANTED}"}}')
    assert len(written.lines()) == 4
    assert PLANTED not in written.text()
    assert MASK in written.text()


def test_a_field_cannot_pass_for_one_of_all_lines(written: Written) -> None:
    """A caller's field must not change which service or trace a line belongs to."""
    get_logger("shop").info("x", service="evil", trace_id="0", timestamp="never", level="debug", logger="root")
    line = written.line()
    assert line["service"] == "order"
    assert line["_service"] == "evil"
    assert len(str(line["trace_id"])) == 32
    assert line["level"] == "info"


def test_a_control_character_forges_nothing(written: Written) -> None:
    """Neither a second line nor a colour."""
    get_logger("shop").info('x\n{"event":"forged"}', value="a\x1b[31m\u2028b\x00", **{"ke\ny\x9b": 1})
    assert len(written.lines()) == 1
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028]", written.text())


def test_nothing_that_is_logged_raises(written: Written) -> None:
    """A line must not cost the work that it speaks of."""

    class Broken:
        def __repr__(self) -> str:
            raise RuntimeError

        __str__ = __repr__

    class Worse(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    ring: dict[str, object] = {}
    ring["ring"] = ring
    log = get_logger("shop")
    log.info("x", a=Broken(), b=ring, c="\ud800", d=2**100, e=float("inf"), f={1: 2}, exc_info=Worse())
    assert len(written.lines()) == 1
    log.info(7)
    assert written.lines()[1]["event"] == "7"


def test_what_goes_wrong_inside_is_counted(tmp_path: Path) -> None:
    """A chain that fails drops its line."""

    def broken() -> Trace:
        raise RuntimeError

    written = Written(tmp_path / "log", place=broken)
    try:
        get_logger("shop").info("x")
        installed().tell(logging.INFO, "shop", "y")
        assert written.text() == ""
        assert written.sink.dropped == 2
    finally:
        written.close()


def test_columns_for_people_have_the_trace_too(tmp_path: Path) -> None:
    """A line on the terminal is searched for in the log store."""
    written = Written(tmp_path / "log", human=True)
    try:
        get_logger("shop").warning("order.late\nforged", order=7, note="a\nb")
    finally:
        written.close()
    (line,) = written.text().splitlines()
    assert "order.late" in line
    assert "order=7" in line
    assert "warning" in line
    assert re.search(r"[0-9a-f]{32}", line)
    assert "\x1b" not in line


def test_an_environment_is_named_where_there_is_one(tmp_path: Path) -> None:
    """Staging and production end up in one store."""
    written = Written(tmp_path / "log", env="staging")
    try:
        get_logger("shop").info("x")
    finally:
        written.close()
    assert written.line()["env"] == "staging"


def test_structlogs_own_way_to_test_works(written: Written) -> None:
    """Who tests with `capture_logs` keeps doing so."""
    structlog.configure(processors=PROCESSORS)
    try:
        with capture_logs() as captured:
            get_logger("shop").info("x", order=7)
    finally:
        structlog.reset_defaults()
    assert captured == [{"event": "x", "order": 7, "log_level": "info"}]
    assert written.text() == ""
    get_logger("shop").info("y")
    assert json.loads(io.StringIO(written.text()).read())["event"] == "y"
