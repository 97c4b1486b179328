"""What other libraries write comes out as our lines, while we hold the terminal and no longer."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
import textwrap
import warnings
from collections.abc import Iterator

import pytest
import structlog

from msgov.observability.foreign import Capture
from tests.observability.reading import Written

PLANTED = "hunter2-Zx91"


@pytest.fixture
def capture(written: Written) -> Iterator[Capture]:
    """Take over, and give back."""
    made = Capture()
    before = logging.getLogger().level
    logging.getLogger().setLevel(logging.INFO)
    yield made
    logging.getLogger().setLevel(before)
    made.end()


@pytest.mark.usefixtures("capture")
def test_a_foreign_line_is_one_of_ours(written: Written) -> None:
    """The same fields, the same redaction, the same trace."""
    logging.getLogger("aiokafka.consumer").warning(
        "lost %s of %d", "x", 3, extra={"topic": "orders", "password": PLANTED}
    )
    line = written.line()
    assert line["event"] == "lost x of 3"
    assert (line["level"], line["logger"], line["service"]) == ("warning", "aiokafka.consumer", "order")
    assert (line["topic"], line["password"]) == ("orders", "**********")
    assert re.fullmatch(r"[0-9a-f]{32}", str(line["trace_id"]))


@pytest.mark.usefixtures("capture")
def test_a_foreign_exception_is_told_without_values(written: Written) -> None:
    """With a stack where one was asked for."""
    try:
        raise OSError(f"redis://:{PLANTED}@cache refused")
    except OSError:
        logging.getLogger("redis").exception("lost", stack_info=True)
    assert "OSError" in str(written.line()["exception"])
    assert "test_foreign" in str(written.line()["stack"])
    assert PLANTED not in written.text()


@pytest.mark.usefixtures("capture")
def test_arguments_that_do_not_fit_do_not_cost_the_line(written: Written, capfd: pytest.CaptureFixture[str]) -> None:
    """The standard library prints a traceback instead."""
    logging.getLogger("lib").error("%d of %d", "x")
    assert written.line()["event"] == "%d of %d (its arguments do not fit)"
    assert capfd.readouterr().err == ""


@pytest.mark.usefixtures("capture")
def test_a_warning_is_a_line(written: Written) -> None:
    """Python prints it in two lines that no collector reads."""
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(False)
        logging.captureWarnings(True)
        warnings.warn("old", DeprecationWarning, stacklevel=1)
    assert "DeprecationWarning: old" in str(written.line()["event"])


@pytest.mark.usefixtures("capture")
def test_structlogs_loggers_write_by_our_chain(written: Written) -> None:
    """Whoever uses structlog directly keeps doing so."""
    structlog.get_logger("shop.own").info("placed", order=7, token=PLANTED)
    structlog.get_logger().warning("nameless")
    first, second = written.lines()
    assert (first["event"], first["logger"], first["order"]) == ("placed", "shop.own", 7)
    assert second["level"] == "warning"
    assert PLANTED not in written.text()


@pytest.mark.usefixtures("capture")
def test_writing_a_line_that_logs_itself_ends(written: Written) -> None:
    """A repr that logs would go on for ever."""

    class Chatty:
        def __repr__(self) -> str:
            logging.getLogger("chatty").warning("my repr was asked for")
            return "chatty"

    logging.getLogger("lib").warning("x", extra={"value": Chatty()})
    assert written.line()["value"] == "chatty"


def test_everything_is_put_back(written: Written) -> None:
    """Tests, notebooks and embedding programs go on as before."""
    root = logging.getLogger()
    access = logging.getLogger("uvicorn.access")
    terminal = logging.StreamHandler(sys.stderr)
    root.addHandler(terminal)
    try:
        before = (
            list(root.handlers),
            logging.raiseExceptions,
            access.propagate,
            access.disabled,
            structlog.get_config(),
        )
        capture = Capture()
        assert terminal not in root.handlers
        assert access.disabled
        capture.end()
        capture.end()
        after = (
            list(root.handlers),
            logging.raiseExceptions,
            access.propagate,
            access.disabled,
            structlog.get_config(),
        )
        assert set(after[0]) == set(before[0])
        assert after[1:] == before[1:]
        assert not structlog.is_configured()
    finally:
        root.removeHandler(terminal)


def test_a_configuration_of_structlogs_own_is_put_back(written: Written) -> None:
    """A program may have set it up for itself."""
    processors = [structlog.processors.KeyValueRenderer()]
    structlog.configure(processors=processors)
    try:
        Capture().end()
        assert structlog.get_config()["processors"] is processors
    finally:
        structlog.reset_defaults()


def test_handlers_that_write_elsewhere_stay(written: Written) -> None:
    """An error tracker or a file is no terminal."""
    root = logging.getLogger()
    elsewhere = logging.NullHandler()
    root.addHandler(elsewhere)
    capture = Capture()
    try:
        assert elsewhere in root.handlers
    finally:
        capture.end()
        root.removeHandler(elsewhere)


def test_what_a_process_dies_of_is_a_line() -> None:
    """An uncaught exception, a thread that died, and what could not be raised: Python prints all three raw."""
    script = """
        import threading
        from msgov.observability.setup import observability

        class Odd:
            def __del__(self):
                raise ValueError("in a finaliser")

        observability("order", logs="json")
        thread = threading.Thread(target=lambda: 1 / 0, name="worker")
        thread.start()
        thread.join()
        Odd()
        raise OSError("password=hunter2-Zx91")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert done.stdout == ""
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert [line["event"] for line in lines] == ["thread.died", "ignored", "uncaught"]
    assert lines[0]["thread"] == "worker"
    assert "ZeroDivisionError" in lines[0]["exception"]
    assert lines[2]["level"] == "critical"
    assert all(re.fullmatch(r"[0-9a-f]{32}", line["trace_id"]) for line in lines)
    assert PLANTED not in done.stderr
