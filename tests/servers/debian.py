"""Debian packages give programs without being installed: downloaded, unpacked, and run where they lie.

The packages come from the mirrors the system already names. Its own lists are used first; when they are missing
or too old, `apt-get update` fills private lists beside the cache, so no step needs root.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.servers.cache import locked
from tests.servers.recipe import FetchFailed, Installed

COMMAND_SECONDS = 300.0
_SETTINGS = (
    "Acquire::http::Timeout=20",  # seconds without a byte: offline is told in time
    "Acquire::https::Timeout=20",
    "Acquire::Retries=2",
    "Acquire::Languages=none",
    "APT::Sandbox::User=root",  # the user who fetches writes the files, whoever that is
)


class Debian:
    """Some packages, unpacked together with the shared libraries that their programs miss."""

    def __init__(self, *packages: str) -> None:
        self.packages = packages

    def __repr__(self) -> str:
        return f"Debian{self.packages!r}"

    def fill(self, tree: Path, *, programs: Sequence[str], shared: Path) -> Installed:
        """Unpack the packages, then those of their dependencies that carry a library nothing else here has."""
        for tool in ("apt-get", "dpkg-deb", "ldd"):
            if shutil.which(tool) is None:
                raise FetchFailed(f"{tool} is not on PATH, and unpacking {' '.join(self.packages)} needs it")
        dependencies = _unpack(self.packages, tree, shared)
        had = set(self.packages)
        while True:
            found = Installed({name: program(tree, name) for name in programs}, _library_folders(tree), tree)
            missing = _missing_libraries(found)
            if not missing:
                return found
            wanted = {package for library in missing for package in carriers(library, dependencies)} - had
            if not wanted:
                raise FetchFailed(
                    f"{' '.join(sorted(missing))} missing, and no dependency is named after it:"
                    f" {' '.join(sorted(dependencies))}"
                )
            had |= wanted
            dependencies |= _unpack(sorted(wanted), tree, shared)


def program(tree: Path, name: str) -> Path:
    """The executable `name` inside an unpacked tree."""
    usual = (tree / folder / name for folder in ("usr/bin", "usr/sbin", "bin", "sbin"))
    for found in (*usual, *sorted(tree.rglob(name))):
        if found.is_file() and os.access(found, os.X_OK):
            return found
    raise FetchFailed(f"no executable {name} in what was fetched")


def carriers(library: str, dependencies: set[str]) -> set[str]:
    """Which packages hold `libssl.so.3`: Debian names them after it (libssl3, libssl3t64); libc is never replaced."""
    stem = library.partition(".so")[0].lower().replace("_", "-")
    return {name for name in dependencies if re.fullmatch(re.escape(stem) + r"[-.\d]*(t64)?", name) and name != "libc6"}


def _unpack(packages: Sequence[str], tree: Path, shared: Path) -> set[str]:
    """Download and unpack `packages`; return the names of all they depend on."""
    downloads = tree / ".downloads"
    downloads.mkdir()
    _download(packages, downloads, shared)
    dependencies: set[str] = set()
    for package in sorted(downloads.glob("*.deb")):
        _output(["dpkg-deb", "-x", str(package), str(tree)])
        depends = _output(["dpkg-deb", "-f", str(package), "Depends", "Pre-Depends"])
        dependencies |= set(re.findall(r"(?:^|[,|:])\s*([a-z0-9][a-z0-9+.-]+)", depends, re.MULTILINE))
    shutil.rmtree(downloads)
    return dependencies


def _download(packages: Sequence[str], into: Path, shared: Path) -> None:
    """Try the system's lists, then private ones as they are, then private ones made new."""
    try:
        return _apt("download", *packages, cwd=into)
    except FetchFailed as failed:
        tried = [f"with the system's lists: {failed}"]
    shared.mkdir(parents=True, exist_ok=True)
    with locked(shared / "apt.lock"):  # two servers fetched at once share one update
        private = _private_lists(shared)
        for update in (False, True) if any((shared / "lists").glob("*_Packages*")) else (True,):
            if update:
                try:
                    _apt("update", options=private, cwd=into)
                except FetchFailed as failed:  # one mirror of many may be down: what counts is the download after it
                    tried.append(str(failed))
            try:
                return _apt("download", *packages, options=private, cwd=into)
            except FetchFailed as failed:
                tried.append(f"with private lists{', new by apt-get update' if update else ''}: {failed}")
    raise FetchFailed("; ".join(tried))


def _private_lists(shared: Path) -> list[str]:
    """Options that keep all apt writes inside `shared`, and skip the hooks a system may run after an update."""
    for folder in ("lists/partial", "cache/archives/partial"):
        (shared / folder).mkdir(parents=True, exist_ok=True)
    hooks = shared / "no-hooks.conf"
    hooks.write_text(
        "#clear APT::Update::Pre-Invoke;\n#clear APT::Update::Post-Invoke;\n#clear APT::Update::Post-Invoke-Success;\n"
    )
    folders = (f"Dir::State::lists={shared / 'lists'}", f"Dir::Cache={shared / 'cache'}")
    no_index_kept = ("Dir::Cache::pkgcache=", "Dir::Cache::srcpkgcache=")
    return ["-c", str(hooks), *(word for setting in folders + no_index_kept for word in ("-o", setting))]


def _apt(action: str, *packages: str, options: Sequence[str] = (), cwd: Path) -> None:
    settings = [word for setting in _SETTINGS for word in ("-o", setting)]
    _output(
        ["apt-get", "-q", *options, *settings, action, *packages],
        cwd=cwd,
        shown=" ".join(("apt-get", action, *packages)),
    )


def _library_folders(tree: Path) -> list[Path]:
    return sorted({found.parent for found in tree.rglob("*.so*") if found.is_file()})


def _missing_libraries(found: Installed) -> set[str]:
    """What the loader cannot find; a script is no concern of the loader and misses nothing."""
    said = [_output(["ldd", str(path)], extra=found.environment, check=False) for path in found.programs.values()]
    return {library for text in said for library in re.findall(r"^\s*(\S+) => not found", text, re.MULTILINE)}


def _output(
    command: Sequence[str],
    *,
    cwd: Path | None = None,
    extra: Mapping[str, str] | None = None,
    shown: str | None = None,
    check: bool = True,
) -> str:
    """Run to the end and return stdout; a failure tells the command and its last words."""
    shown = shown or " ".join(command)
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            env=os.environ | {"LC_ALL": "C"} | dict(extra or {}),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise FetchFailed(f"{shown} was not done after {COMMAND_SECONDS:g} s") from None
    if check and done.returncode != 0:
        words = [line for line in done.stderr.splitlines() if line.strip()][-3:] or ["no message"]
        raise FetchFailed(f"{shown} exited with {done.returncode}: {' / '.join(words)}")
    return done.stdout
