"""`python -m tests.servers fetch|list|run`: the same servers for people, make and other languages."""

import argparse
import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence

from tests.servers.cache import Cache
from tests.servers.guard import die_with_parent
from tests.servers.recipe import HOST, Recipe, Unavailable
from tests.servers.recipes import recipe, recipes
from tests.servers.running import Server, StartFailed, running

COULD_NOT_RUN = 125  # as env and timeout say it: we failed, not the command
NOT_FOUND = 127
ENDING_SECONDS = 10.0


def main(arguments: Sequence[str]) -> int:
    """Do what the command line says, and return the exit code."""
    own, command = list(arguments), None
    if "--" in own:  # split by hand: what follows belongs to the command, options and all
        at = own.index("--")
        own, command = own[:at], own[at + 1 :]
    parser = argparse.ArgumentParser(prog="python -m tests.servers", description="Real servers for tests.")
    actions = parser.add_subparsers(dest="action", required=True)
    fetch = actions.add_parser("fetch", help="get servers into the cache; exits with 1 if any cannot be had")
    fetch.add_argument("names", nargs="*", metavar="NAME", help="default: all")
    actions.add_parser("list", help="what is known, and what is here already")
    run = actions.add_parser(
        "run", help="run NAME -- COMMAND: {url}, {host} and {port} in COMMAND become a fresh server's"
    )
    run.add_argument("name", metavar="NAME")
    chosen = parser.parse_args(own)
    if (chosen.action == "run") != bool(command):
        parser.error("run NAME -- COMMAND [ARGUMENT...]: a command follows --, and only for run")
    try:
        if chosen.action == "fetch":
            return _fetch([recipe(name) for name in chosen.names or recipes()])
        if chosen.action == "list":
            return _list()
        return _run(recipe(chosen.name), command or [])
    except LookupError as unknown:
        parser.error(str(unknown.args[0]))


def _fetch(wanted: Sequence[Recipe]) -> int:
    cache, failed = Cache(), 0
    for each in wanted:
        began = time.monotonic()
        try:
            cache.obtain(each)
            state, reason = "ready", _where(cache, each)
        except Unavailable as absent:
            state, reason = "unavailable", absent.reason
            failed += 1
        print(f"{each.name:<12} {state:<11} {time.monotonic() - began:5.1f} s  {reason}", flush=True)
    return 1 if failed else 0


def _list() -> int:
    cache = Cache()
    for each in recipes().values():
        print(f"{each.name:<12} {_where(cache, each)}")
    return 0


def _where(cache: Cache, chosen: Recipe) -> str:
    found = cache.find(chosen)
    return "not fetched" if found is None else ", ".join(str(path) for path in found.programs.values())


def _run(chosen: Recipe, command: Sequence[str]) -> int:
    try:
        with running(chosen, Cache().obtain(chosen)) as server:
            return _command([_filled(word, server) for word in command])
    except (Unavailable, StartFailed) as failed:
        print(failed, file=sys.stderr)
        return COULD_NOT_RUN


def _filled(word: str, server: Server) -> str:
    """Only the three names are replaced, so that JSON and shell braces pass."""
    return word.replace("{url}", server.url).replace("{host}", HOST).replace("{port}", str(server.port))


def _command(command: Sequence[str]) -> int:
    try:
        child = subprocess.Popen(command, preexec_fn=die_with_parent)
    except OSError as failed:
        print(f"{command[0]} cannot be run: {failed.strerror}", file=sys.stderr)
        return NOT_FOUND if isinstance(failed, FileNotFoundError) else NOT_FOUND - 1
    with _ended(child):
        code = child.wait()
    return code if code >= 0 else 128 - code


@contextlib.contextmanager
def _ended(child: subprocess.Popen[bytes]) -> Iterator[None]:
    """On Ctrl-C the command has had the same signal and may finish; otherwise it is asked to end, and then made to."""
    try:
        try:
            yield
        except KeyboardInterrupt:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(ENDING_SECONDS)
            raise
        finally:
            if child.poll() is None:
                child.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(ENDING_SECONDS)
    finally:
        child.kill()  # does nothing to a child that has been waited for
        child.wait()


def _terminated(number: int, _frame: object) -> None:
    sys.exit(128 + number)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _terminated)
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
