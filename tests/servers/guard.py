"""A server ends when its owner ends, however the owner ends.

A small process of its own between owner and server, run as a script with nothing but the standard library.
The owner holds the other end of its standard input: a byte there means "stop, keep the data", and the end of
the stream, which even `kill -9` of the owner brings about, means "stop, and remove the data". A pipe is used rather
than the parent-death signal alone, because that one fires when the *thread* that started the child ends, and setting
it needs code between fork and exec, which deadlocks under threads. In here there is one thread, so the
server itself gets that signal too, for the case that this process is killed. On Linux it also adopts whatever the
server leaves behind (a daemon that double-forks), and ends that as well.

Standard output gets one line, the server's process id. The exit code is the server's own if it ended by itself, else 0.
"""

import contextlib
import ctypes
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_OWNER_CHECK_SECONDS = 1.0  # a fork of the owner may hold the pipe open after the owner's death
_LEFTOVER_SECONDS = 5.0


def die_with_parent() -> None:
    """Between fork and exec, in a process with one thread: the child is killed when its parent dies."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def main() -> int:
    """Start the server that the one argument describes, and see it out."""
    order = json.loads(sys.argv[1])
    woken, alarm = os.pipe()
    os.set_blocking(alarm, False)
    os.set_blocking(woken, False)
    signal.set_wakeup_fd(alarm, warn_on_full_buffer=False)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    server = subprocess.Popen(
        order["command"],
        cwd=order["data"],
        env=os.environ | order["environment"],
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr,
        start_new_session=True,
        preexec_fn=die_with_parent,
    )
    code: int | None = None
    keep = True
    try:
        os.write(1, b"%d\n" % server.pid)
        os.close(1)
        while (code := _reaped(server.pid)) is None:
            readable, _, _ = select.select([0, woken], [], [], _OWNER_CHECK_SECONDS)
            if 0 in readable:
                keep = os.read(0, 1) != b""
                break
            if os.getppid() != order["owner"]:
                keep = False
                break
            if woken in readable and set(os.read(woken, 512)) & {signal.SIGTERM, signal.SIGINT}:
                break
    except BrokenPipeError:  # the owner died before it read the line
        keep = False
    finally:
        if code is None:
            _end(server.pid, order["signal"], order["seconds"], woken)
        _end_leftovers(server.pid)
        if not keep:
            shutil.rmtree(order["data"], ignore_errors=True)
    return 0 if code is None else code if code >= 0 else 128 - code


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _reaped(server: int) -> int | None:
    """Collect every child that ended; the server's exit code once it is among them."""
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0] != 0:
            if ended[0] == server:
                return os.waitstatus_to_exitcode(ended[1])
    return None


def _end(server: int, number: int, seconds: float, woken: int) -> None:
    """Ask the server to stop, and kill it when it has not after `seconds`."""
    os.kill(server, number)
    os.kill(server, signal.SIGCONT)  # a test may have paused it
    deadline = time.monotonic() + seconds
    while _reaped(server) is None:
        left = deadline - time.monotonic()
        if left <= 0:
            os.kill(server, signal.SIGKILL)
            deadline += 3600.0
        elif select.select([woken], [], [], left)[0]:
            os.read(woken, 512)


def _end_leftovers(server: int) -> None:
    """Kill what the server started and left: first its process group, then whoever was adopted here."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(server, signal.SIGKILL)
    deadline = time.monotonic() + _LEFTOVER_SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            for child in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split():
                os.kill(int(child), signal.SIGKILL)
        try:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                time.sleep(0.005)
        except ChildProcessError:
            return


if __name__ == "__main__":
    sys.exit(main())
