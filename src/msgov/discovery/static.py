"""A list written down is a registry that never fails, and never learns."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Self

from msgov.discovery.backend import Discovery
from msgov.discovery.instance import Instance, Snapshot
from msgov.errors import RuleError


class Static(Discovery):
    """Instances from a fixed list of `host:port`: the same for every service, or one list a service.

    As a URL: `static:10.0.0.1:50051,10.0.0.2:50051` answers for any service;
    `static:order=10.0.0.1:50051,10.0.0.2:50051;payment=[::1]:50052` for those two, and with no instance for others.
    Raises `RuleError` that names the entry that cannot be read.
    """

    def __init__(self, addresses: Sequence[str] | Mapping[str, Sequence[str]]) -> None:
        self._each = {name: tuple(given) for name, given in addresses.items()} if isinstance(addresses, Mapping) else {}
        self._all = () if isinstance(addresses, Mapping) else tuple(addresses)
        for name, given in self._each.items():
            _instances(name, given)
        _instances("any", self._all)

    @classmethod
    def from_url(cls, url: str) -> Self:
        """Read the list after `static:`; raises `RuleError` that names the entry."""
        text = url.removeprefix("static:")
        if "=" not in text:
            return cls(_split(text, url))
        each: dict[str, list[str]] = {}
        for part in text.split(";"):
            name, equals, addresses = part.partition("=")
            if not equals or name.strip() in each:
                raise RuleError.at("registry", part, "service=host:port,host:port, each service once", where=url)
            each[name.strip()] = _split(addresses, url)
        return cls(each)

    async def watch(self, service: str) -> AsyncIterator[Snapshot]:
        """Yield the list, and then nothing for ever."""
        yield Snapshot(service, _instances(service, self._each.get(service, self._all)), revision=1)
        await asyncio.Event().wait()


def _split(text: str, url: str) -> list[str]:
    found = [address.strip() for address in text.split(",")]
    if not all(found):
        raise RuleError.at("registry", text, "host:port,host:port, at least one", where=url)
    return found


def _instances(service: str, addresses: Sequence[str]) -> tuple[Instance, ...]:
    found: dict[str, Instance] = {}
    for address in addresses:
        host, colon, port = address.rpartition(":")
        bare = host.removeprefix("[").removesuffix("]")
        if not colon or not port.isascii() or not port.isdigit() or (":" in bare and bare == host):
            raise RuleError.at("address", address, "host:port, or [address]:port for IPv6")
        made = Instance(service, bare, int(port))
        found[made.id] = made
    return tuple(found[id_] for id_ in sorted(found))
