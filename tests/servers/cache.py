"""A server is fetched once per user, however many runs ask for it at the same time."""

import contextlib
import fcntl
import hashlib
import json
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.servers.recipe import FetchFailed, Installed, Recipe, Unavailable

PROBE_SECONDS = 60.0
_INDEX = "installed.json"  # written last; with the rename it is why a folder that is there is whole


def default_folder() -> Path:
    """`$MSGOV_SERVERS_CACHE`, else `msgov/servers` under `$XDG_CACHE_HOME` or `~/.cache`."""
    if chosen := os.environ.get("MSGOV_SERVERS_CACHE"):
        return Path(chosen).absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute() / "msgov" / "servers"


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file; the system lets go of it when the holder dies, so a lock never goes stale."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class Cache:
    """What can be started here, fetched at first need; a failure is remembered until the process ends."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or default_folder()
        self._found: dict[str, Installed] = {}
        self._failed: dict[str, str] = {}

    def find(self, recipe: Recipe) -> Installed | None:
        """The programs on PATH or in the cache, without fetching anything."""
        if recipe.name not in self._found:
            found = _on_path(recipe) or self._cached(recipe)
            if found is None:
                return None
            self._found[recipe.name] = found
        return self._found[recipe.name]

    def obtain(self, recipe: Recipe) -> Installed:
        """The programs, fetched if need be. Raises `Unavailable` with all that was tried, and the same ever after."""
        if recipe.name in self._failed:
            raise Unavailable(recipe.name, self._failed[recipe.name])
        try:
            return self.find(recipe) or self._fetched(recipe)
        except (FetchFailed, OSError) as failed:
            reason = " ".join(f"not all of {', '.join(recipe.programs)} on PATH; {failed}".split())
            self._failed[recipe.name] = reason
            raise Unavailable(recipe.name, reason) from failed

    def _fetched(self, recipe: Recipe) -> Installed:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as failed:
            raise FetchFailed(
                f"the cache cannot be made ({failed}); set MSGOV_SERVERS_CACHE to a folder that can"
            ) from None
        with locked(self.folder / f"{recipe.name}.lock"):
            if (done_by_another := self.find(recipe)) is not None:
                return done_by_another
            for corpse in self.folder.glob(f"{recipe.name}.part-*"):  # ours alone under the lock: a run that was killed
                shutil.rmtree(corpse)
            part = Path(tempfile.mkdtemp(prefix=f"{recipe.name}.part-", dir=self.folder))
            try:
                self._fill(recipe, part)
                part.rename(self._home(recipe))
            finally:
                shutil.rmtree(part, ignore_errors=True)
            found = self.find(recipe)
            if found is None:
                raise FetchFailed(f"{self._home(recipe)} vanished as soon as it was made")
            return found

    def _fill(self, recipe: Recipe, part: Path) -> None:
        filled = recipe.source.fill(part, programs=recipe.programs, shared=self.folder / "shared")
        if (complaint := _complaint(recipe, filled)) is not None:
            raise FetchFailed(f"fetched, but {complaint}")
        index = {
            "programs": {name: str(path.relative_to(part)) for name, path in filled.programs.items()},
            "libraries": [str(folder.relative_to(part)) for folder in filled.libraries],
        }
        (part / _INDEX).write_text(json.dumps(index))

    def _cached(self, recipe: Recipe) -> Installed | None:
        home = self._home(recipe)
        return _read(home) if (home / _INDEX).is_file() else None

    def _home(self, recipe: Recipe) -> Path:
        """Another source, system or processor gets another folder: one home may be shared by several systems."""
        system: dict[str, str] = {}
        with contextlib.suppress(OSError):
            system = platform.freedesktop_os_release()
        key = (repr(recipe.source), recipe.programs, platform.machine(), system.get("ID"), system.get("VERSION_ID"))
        return self.folder / f"{recipe.name}-{hashlib.sha256(repr(key).encode()).hexdigest()[:12]}"


def _on_path(recipe: Recipe) -> Installed | None:
    paths = {name: shutil.which(name) for name in recipe.programs}
    found = Installed({name: Path(path) for name, path in paths.items() if path is not None})
    if len(found.programs) < len(recipe.programs) or _complaint(recipe, found) is not None:
        return None
    return found


def _read(tree: Path) -> Installed:
    index = json.loads((tree / _INDEX).read_text())
    return Installed(
        programs={name: tree / path for name, path in index["programs"].items()},
        libraries=[tree / folder for folder in index["libraries"]],
        tree=tree,
    )


def _complaint(recipe: Recipe, installed: Installed) -> str | None:
    """Why the programs cannot be trusted to run: a shim on PATH, or a library that is the wrong one."""
    for name, path in installed.programs.items():
        try:
            subprocess.run(
                [path, *recipe.probe],
                env=os.environ | installed.environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=PROBE_SECONDS,
                check=True,
            )
        except subprocess.CalledProcessError as failed:
            last = (failed.stderr.strip() or "no message").splitlines()[-1]
            return f"{name} {' '.join(recipe.probe)} exited with {failed.returncode}: {last}"
        except (OSError, subprocess.TimeoutExpired) as failed:
            return f"{name} does not run: {failed}"
    return None
