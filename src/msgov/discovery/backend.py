"""A backend tells who serves what, as whole snapshots; a URL's scheme names it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from importlib.metadata import entry_points
from types import TracebackType
from typing import Self

from msgov.discovery.instance import Snapshot
from msgov.errors import RuleError
from msgov.latest import Source

GROUP = "msgov.discovery"


class Discovery(ABC):
    """Where instances are found; one that also takes registrations is a `Registrar` too.

    A backend is a subclass with `from_url` and `watch`, named by an entry point of the group "msgov.discovery".
    """

    @classmethod
    @abstractmethod
    def from_url(cls, url: str) -> Self:
        """Make it from its whole URL; raises `RuleError` for one it cannot read. Connects to nothing yet."""

    @abstractmethod
    def watch(self, service: str) -> AsyncIterator[Snapshot]:
        """Yield all instances of the service now, and again each time they have changed, for ever.

        Taking the next snapshot says that the last one is in use: acknowledged drains rest on that. May raise when the
        registry fails; a new watch begins with a whole snapshot once more.
        """

    async def aclose(self) -> None:  # noqa: B027  most have nothing to close
        """Close what was opened; closing twice is fine."""

    def source(self, service: str) -> Source[Snapshot]:
        """Return the watch of one service as a source that `msgov.aio.follow` keeps a `Latest` by."""
        return _Watched(self, service)

    async def __aenter__(self) -> Self:
        """Return itself; what it needs is opened when first asked."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        await self.aclose()


class _Watched(Source[Snapshot]):
    """One service of a backend."""

    __slots__ = ("_discovery", "_service")

    def __init__(self, discovery: Discovery, service: str) -> None:
        self._discovery = discovery
        self._service = service

    def watch(self) -> AsyncIterator[Snapshot]:
        return self._discovery.watch(self._service)


def open(url: str) -> Discovery:  # noqa: A001  read as discovery.open
    """Make the backend that a URL names: `static:host:port,...`, `memory:`, `embedded:registry.db`.

    The scheme is looked up among the installed backends (entry points of the group "msgov.discovery"), ours and
    strangers' the same way. Raises `RuleError` for an unknown one, and what the backend's own `from_url` raises.
    """
    scheme, colon, _ = url.partition(":")
    known = {point.name: point for point in entry_points(group=GROUP)}
    if not colon or scheme not in known:
        raise RuleError.at("registry", url, "a URL whose scheme is one of " + ", ".join(sorted(known)))
    found = known[scheme].load().from_url(url)
    if not isinstance(found, Discovery):
        raise RuleError.at("registry", url, f"a Discovery; {known[scheme].value} makes a {type(found).__name__}")
    return found
