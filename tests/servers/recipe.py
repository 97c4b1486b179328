"""A recipe says all there is to know of one server, so that a new server is one small file."""

import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

HOST = "127.0.0.1"


class Unavailable(Exception):
    """The server cannot be had here; `reason` says on one line what was tried and how each try ended."""

    def __init__(self, server: str, reason: str) -> None:
        super().__init__(f"server {server} cannot be had: {reason}")
        self.server = server
        self.reason = reason


class FetchFailed(Exception):
    """A source could not deliver; the text says what was tried. The cache turns it into `Unavailable`."""


@dataclass(frozen=True, slots=True)
class Installed:
    """Programs that can be started: where each one lies, and where their libraries are."""

    programs: Mapping[str, Path]
    libraries: Sequence[Path] = ()
    tree: Path | None = None  # what was fetched; None when the programs were found on PATH

    @property
    def environment(self) -> dict[str, str]:
        """What the programs need on top of the caller's environment."""
        return {"LD_LIBRARY_PATH": ":".join(map(str, self.libraries))} if self.libraries else {}


@dataclass(frozen=True, slots=True)
class Place:
    """Where one server lives: its own data folder, and loopback ports that were free a moment ago."""

    data: Path
    ports: Mapping[str, int]  # by the names the recipe gave; the first one is where clients go

    @property
    def port(self) -> int:
        """The port that clients use."""
        return next(iter(self.ports.values()))


@dataclass(frozen=True, slots=True)
class Command:
    """What to execute, in the foreground: a server that daemonises itself cannot be stopped by its own id."""

    arguments: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)  # on top of the caller's


class Source(Protocol):
    """One way to get programs. Its repr names the cache folder, so that a changed source is fetched anew."""

    def fill(self, tree: Path, *, programs: Sequence[str], shared: Path) -> Installed:
        """Fill the empty folder `tree`, and say where in it the programs and their libraries are.

        `shared` is a folder that all fetches use for what is worth keeping, such as package lists; whoever
        writes to it holds a lock file in it. Raises `FetchFailed`.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One server: where it comes from, how it starts at a place, and how it shows that it is ready.

    `ready` must get a real answer that only *this* server can give (its data folder, its node name), since a
    stranger may have taken the port. It may raise OSError, ValueError or HTTPException for "not yet".
    """

    name: str
    programs: tuple[str, ...]  # all of them on PATH, or all of them fetched
    source: Source
    url: str  # with {host} and {port}
    launch: Callable[[Installed, Place], Command]
    ready: Callable[[Place], bool]
    ports: tuple[str, ...] = ("client",)
    probe: tuple[str, ...] = ("--version",)  # each program must exit 0 on it before it is trusted
    stop_signal: signal.Signals = signal.SIGTERM
    start_seconds: float = 30.0  # far above what any of them needs, for machines under load
    stop_seconds: float = 10.0  # then SIGKILL
