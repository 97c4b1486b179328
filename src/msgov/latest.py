"""Knowledge is a source of whole snapshots: a dead backend makes it old, never absent."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from msgov.errors import SourceError
from msgov.event import unraisable
from msgov.failpoint import failpoint

T = TypeVar("T")
S = TypeVar("S", covariant=True)


class Source(Protocol[S]):
    """Where knowledge comes from: `watch` yields whole values, never deltas, the first one soon.

    It may raise when its backend fails; whoever follows it backs off and calls `watch` again, which begins with a
    whole value once more.
    """

    def watch(self) -> AsyncIterator[S]:
        """Yield the value now, then each time it has changed."""
        ...


class Latest(Generic[T]):
    """The last good value of a source, how old it is, and whoever wants to know when it changes.

    Reading `value` is one attribute read, from any thread. `put` and `fail` are called by the one who follows the
    source. A listener gets (old, new) after the store, in the caller's thread; old is None the first time.
    """

    __slots__ = ("_listeners", "_value", "changes", "error", "name", "since")

    def __init__(self, name: str, value: T | None = None, *, now: float | None = None) -> None:
        self.name = name
        self.changes = 0
        self.error: BaseException | None = None
        self.since = now
        self._value = value
        self._listeners: tuple[Callable[[T | None, T], None], ...] = ()

    @property
    def known(self) -> bool:
        """Whether any value is known."""
        return self._value is not None

    @property
    def value(self) -> T:
        """The last good value; raises `SourceError` when none is known yet."""
        value = self._value
        if value is None:
            raise SourceError(f"{self.name}: nothing is known yet" + (f" ({self.error})" if self.error else ""))
        return value

    @property
    def stale(self) -> bool:
        """Whether the source is failing, so that `value` may be out of date."""
        return self.error is not None

    def age(self, now: float) -> float | None:
        """Return the seconds since the source last spoke; None if it never did."""
        return None if self.since is None else max(0.0, now - self.since)

    def put(self, value: T, now: float) -> bool:
        """Take a whole value; return whether it differs from the last one."""
        old, self._value = self._value, value
        self.since, self.error = now, None
        if old is not None and old == value:
            return False
        self.changes += 1
        for listener in self._listeners:
            try:
                listener(old, value)
            except Exception as fault:  # noqa: BLE001  a listener's fault is not the source's
                unraisable(fault, listener)
        return True

    def fail(self, error: BaseException) -> None:
        """Remember that the source is failing; the value stays."""
        self.error = error

    def listen(self, listener: Callable[[T | None, T], None]) -> Callable[[], None]:
        """Tell `listener` of each change; return a function that ends it."""
        self._listeners = (*self._listeners, listener)

        def end() -> None:
            self._listeners = tuple(other for other in self._listeners if other is not listener)

        return end


class DiskCopy:
    """A checksummed copy of the last good value, so that a process can start while its backend is down.

    Written to a temporary file, flushed, then renamed: a reader sees the old copy or the new one, never half of one.
    A copy that fails its checksum is ignored. The file is readable by its owner only.
    """

    __slots__ = ("path",)

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def save(self, body: bytes) -> None:
        """Replace the copy; raises OSError when the disk refuses, and leaves the old copy as it was."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=self.path.parent, prefix=self.path.name + ".")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(hashlib.sha256(body).hexdigest().encode() + b"\n")
                failpoint("latest.mid_copy_write")
                file.write(body)
                file.flush()
                os.fsync(file.fileno())
            os.replace(name, self.path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)
            raise

    def load(self) -> bytes | None:
        """Return the copy, or None when there is none or its checksum fails."""
        try:
            head, _, body = self.path.read_bytes().partition(b"\n")
        except OSError:
            return None
        return body if hashlib.sha256(body).hexdigest().encode() == head else None
