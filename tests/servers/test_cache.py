"""A server is fetched once, whoever asks, and what is half there never looks whole."""

import os
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.servers import Unavailable
from tests.servers.cache import Cache
from tests.servers.debian import carriers
from tests.servers.recipe import Command, FetchFailed, Installed, Recipe

PROGRAM = "msgov-test-program"  # on nobody's PATH


class Script:
    """A source without a network: one shell script, and a count of how often it was asked for."""

    def __init__(self, text: str = "exit 0", failure: str = "") -> None:
        self.text = text
        self.failure = failure
        self.fills = 0

    def __repr__(self) -> str:
        return "Script()"

    def fill(self, tree: Path, *, programs: Sequence[str], shared: Path) -> Installed:
        """Write the script, or leave half of it and fail."""
        self.fills += 1
        path = tree / PROGRAM
        path.write_text(f"#!/bin/sh\n{self.text}\n")
        if self.failure:
            raise FetchFailed(self.failure)
        path.chmod(0o755)
        return Installed({PROGRAM: path}, (), tree)


def scripted(source: Script) -> Recipe:
    """A recipe that is only fetched."""
    return Recipe(
        name="scripted",
        programs=(PROGRAM,),
        source=source,
        url="none://{host}:{port}",
        launch=lambda installed, place: Command([str(installed.programs[PROGRAM])]),
        ready=lambda place: True,
    )


def test_a_second_fetch_fetches_nothing(tmp_path: Path) -> None:
    """`make servers` stands before every test run, so it must cost nothing when all is there."""
    source = Script()
    first = Cache(tmp_path).obtain(scripted(source))
    assert Cache(tmp_path).obtain(scripted(source)).programs == first.programs
    assert source.fills == 1


def test_two_fetches_at_once_share_one(tmp_path: Path) -> None:
    """Suites run side by side on one machine, and neither may see the other's half-filled folder."""
    source = Script()
    threads = [threading.Thread(target=lambda: Cache(tmp_path).obtain(scripted(source))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert source.fills == 1


def test_a_failed_fetch_leaves_no_folder_and_is_remembered(tmp_path: Path) -> None:
    """What is half there must never look whole, and a dead mirror is asked once a run, not once a test."""
    source, cache = Script(failure="the mirror is closed"), Cache(tmp_path)
    for _ in range(2):
        with pytest.raises(Unavailable, match=f"{PROGRAM} on PATH; the mirror is closed"):
            cache.obtain(scripted(source))
    assert source.fills == 1
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []


def test_what_a_killed_fetch_left_is_cleared(tmp_path: Path) -> None:
    """A fetch ended by `kill -9` cannot clean up, so the next one does."""
    corpse = tmp_path / "scripted.part-dead"
    corpse.mkdir()
    Cache(tmp_path).obtain(scripted(Script()))
    assert not corpse.exists()


def test_a_program_that_does_not_run_is_not_ready(tmp_path: Path) -> None:
    """A library of the wrong version shows at the fetch, with its message, not in some test later."""
    with pytest.raises(Unavailable, match="exited with 3: wrong library"):
        Cache(tmp_path).obtain(scripted(Script("echo wrong library >&2; exit 3")))


def test_a_shim_on_path_is_not_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Version managers put programs on PATH that only say that nothing is installed."""
    shim = tmp_path / "bin" / PROGRAM
    shim.parent.mkdir()
    shim.write_text("#!/bin/sh\nexit 127\n")
    shim.chmod(0o755)
    monkeypatch.setenv("PATH", str(shim.parent), prepend=os.pathsep)
    assert Cache(tmp_path / "cache").obtain(scripted(Script())).tree is not None


def test_carriers_are_the_packages_named_after_a_library() -> None:
    """Debian's naming is all there is to go by, in both of its forms, and libc is never replaced."""
    dependencies = {"libssl3t64", "libsystemd0", "libc6", "libjemalloc2", "liblzf1", "libssh2-1"}
    assert carriers("libssl.so.3", dependencies) == {"libssl3t64"}
    assert carriers("libssh2.so.1", dependencies) == {"libssh2-1"}
    assert carriers("libc.so.6", dependencies) == set()
