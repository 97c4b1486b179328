"""A line goes out whole or not at all."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from msgov.observability.redact import Secret
from msgov.observability.sink import Sink, Stamp, encode
from tests.observability.reading import Paper


def test_a_line_is_one_line(paper: Paper) -> None:
    """A newline in a value must not begin another."""
    paper.sink.write(encode({"event": 'a\nb\r\n{"event": "forged"}'}))
    assert paper.text().count("\n") == 1
    assert paper.line()["event"] == 'a\nb\r\n{"event": "forged"}'


def test_threads_do_not_mix_their_lines(paper: Paper) -> None:
    """Each line is written by one call."""
    line = encode({"event": "x" * 5000})
    threads = [threading.Thread(target=lambda: [paper.sink.write(line) for _ in range(50)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(paper.lines()) == 200


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_drops_and_counts() -> None:
    """What cannot be written must not stop the work, nor pile up."""
    fd = os.open("/dev/full", os.O_WRONLY)
    try:
        sink = Sink(fd)
        sink.write(b"a")
        sink.write(b"b")
        assert sink.dropped == 2
    finally:
        os.close(fd)


def test_a_pipe_that_nobody_reads_drops_and_counts() -> None:
    """A reader that went away, or that is too slow for a pipe that does not wait."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    sink = Sink(writer)
    for _ in range(100):
        sink.write(b"x" * 4095)
    assert 0 < sink.dropped < 100
    os.close(reader)
    before = sink.dropped
    sink.write(b"x")
    assert sink.dropped == before + 1
    os.close(writer)


def test_a_closed_descriptor_drops_and_counts() -> None:
    """A daemon may have no stderr."""
    reader, writer = os.pipe()
    os.close(reader)
    os.close(writer)
    sink = Sink(writer)
    sink.write(b"x")
    assert sink.dropped == 1


def test_a_line_cut_short_spoils_no_other() -> None:
    """The half that got out is ended before the next one begins."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    sink = Sink(writer)
    sink.write(b"x" * 500_000)
    assert sink.dropped == 1
    first = b""
    while chunk := _read(reader):
        first += chunk
    sink.write(b"whole")
    sink.write(b"again")
    rest = _read(reader)
    assert b"\n" not in first
    assert rest == b"\nwhole\nagain\n"
    os.close(reader)
    os.close(writer)


def test_a_write_that_a_signal_breaks_off_goes_on_where_it_was() -> None:
    """The system says how much it took; the rest follows, once."""
    reader, writer = os.pipe()
    broken_off = threading.Event()
    found: list[bytes] = []

    def drain() -> None:
        broken_off.wait(30)
        while chunk := os.read(reader, 1 << 20):
            found.append(chunk)

    thread = threading.Thread(target=drain)
    thread.start()
    before = signal.signal(signal.SIGALRM, lambda *_: broken_off.set())
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    line = b"".join(b"%06d" % number for number in range(50_000))
    sink = Sink(writer)
    try:
        sink.write(line)  # more than a pipe holds: it stands until the signal comes
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        os.close(writer)
        thread.join()
        os.close(reader)
    assert b"".join(found) == line + b"\n"
    assert sink.dropped == 0


def _read(fd: int) -> bytes:
    os.set_blocking(fd, False)
    try:
        return os.read(fd, 1 << 20)
    except BlockingIOError:
        return b""


def test_what_json_cannot_say_is_shown_as_text() -> None:
    """A line with a strange value is better than none."""
    strange = {
        "a": object,
        "b": {1, 2},
        "c": float("nan"),
        "d": 2**70,
        "e": "\ud800",
        "password": Secret("x"),
        "f": b"x",
    }
    found = json.loads(encode(strange))
    assert set(found) == set(strange)
    assert "x" not in found["password"]


def test_unicode_is_written_as_it_is() -> None:
    """Half the world's logs would be unreadable otherwise."""
    assert "订单".encode() in encode({"event": "订单"})


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "1970-01-01T00:00:00.000Z"),
        (1_795_428_000.1239, "2026-11-23T10:00:00.123Z"),
        (1_795_428_000.9999, "2026-11-23T10:00:00.999Z"),
        (1_795_428_001.0, "2026-11-23T10:00:01.000Z"),
    ],
)
def test_a_stamp_is_in_utc_to_the_millisecond(seconds: float, text: str) -> None:
    """RFC 3339, so that every collector reads it."""
    stamp = Stamp().at
    assert stamp(seconds) == text
    assert stamp(seconds) == text


def test_a_stamp_goes_on_with_the_clock() -> None:
    """Each second is formatted once, and only for its own lines; a clock set back is followed too."""
    stamp = Stamp().at
    assert [stamp(seconds)[17:] for seconds in (1.5, 1.75, 2.0, 1.25)] == ["01.500Z", "01.750Z", "02.000Z", "01.250Z"]


def test_lines_are_the_same_without_the_faster_encoder() -> None:
    """The extra that brings it is a matter of speed."""
    script = """
        import sys

        sys.modules["orjson"] = None
        from msgov.observability.sink import encode

        print(encode({"event": "订单\\u2028", "n": 1.5, "list": [True, None]}).decode())
        print(encode({"a": float("nan"), "b": object, "c": "\\ud800"}).decode())
    """
    done = subprocess.run(
        [sys.executable, "-X", "utf8", "-c", textwrap.dedent(script)],
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=True,
    )
    first, second, _ = done.stdout.split("\n")
    assert first == encode({"event": "订单\u2028", "n": 1.5, "list": [True, None]}).decode()
    assert json.loads(second) == json.loads(encode({"a": float("nan"), "b": object, "c": "\ud800"}))


def test_a_short_line_does_not_fall_into_the_middle_of_a_long_one() -> None:
    """A pipe takes a line longer than PIPE_BUF in pieces, when its reader is slow: meanwhile all others wait."""
    reads, writes = os.pipe()
    sink = Sink(writes)
    long, short = b'{"long":"' + b"x" * 300_000 + b'"}', b'{"short":1}'
    together = threading.Barrier(2)

    def write(line: bytes, times: int) -> None:
        together.wait()
        for _ in range(times):
            sink.write(line)
        if together.wait() == 0:  # the last word is out
            os.close(writes)

    writers = [threading.Thread(target=write, args=(long, 3)), threading.Thread(target=write, args=(short, 200))]
    for writer in writers:
        writer.start()
    found = bytearray()
    while piece := os.read(reads, 4096):
        found += piece
    for writer in writers:
        writer.join()
    os.close(reads)
    lines = bytes(found).splitlines()
    assert (lines.count(long), lines.count(short), len(lines)) == (3, 200, 203)
