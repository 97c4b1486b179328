"""A key says whom a call is for, and nobody has two of them for the asking.

    Limiter(rule, key=partial(keys.client_ip, trusted=keys.Networks("10.0.0.0/8")))
    Limiter(rule, key=keys.header("x-api-key"))

One host has a whole /64 of IPv6 to itself, an address has many spellings, a name has several forms of Unicode, and the
client writes the left end of X-Forwarded-For: each of these would be a way to a fresh bucket.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

from msgov.call import Call
from msgov.errors import RuleError

__all__ = ["Networks", "client_ip", "header", "network", "normal", "whom"]

_HOPS: Final = 32  # entries of X-Forwarded-For that are looked at, from the right
_LONG: Final = 256  # characters up to which a name is brought to its normal form: beyond it is nobody's name
_NAT64 = IPv6Network("64:ff9b::/96")  # RFC 6052: the IPv4 hosts behind it have one each
_ENTRY = re.compile(r"\[([^\]]+)\](?::\d+)?|([^:]+)(?::\d+)?|(.+)")  # [IPv6], IPv4, each with a port or not, or IPv6


def _network(text: str) -> IPv4Network | IPv6Network:
    try:
        return ip_network(text)
    except ValueError as error:
        raise RuleError.at("trusted", text, f'networks such as "10.0.0.0/8" or addresses: {error}') from None


class Networks:
    """Addresses that are believed: proxies of our own. Called with an address it says whether it is one of them.

    Each is a network ("10.0.0.0/8", "fd00::/8") or an address. Raises `RuleError` for anything else.
    """

    def __init__(self, *networks: str) -> None:
        self._all: tuple[IPv4Network | IPv6Network, ...] = tuple(map(_network, networks))

    def __call__(self, address: str) -> bool:
        """Whether the address is in one of the networks; text that is no address is in none."""
        found = _address(address)
        return found is not None and any(found in each for each in self._all)


NOBODY: Final = Networks()


def client_ip(call: Call, *, trusted: Callable[[str], bool] = NOBODY) -> str:
    """Key a call by the address of its client: an IPv4 address, or the /64 of an IPv6 one.

    The peer of the socket, or whom trusted proxies in front of it saw (`whom`). Of a request that came through ASGI
    the peer and every line of X-Forwarded-For are read as the server gave them; of any other call `call.key` and what
    `call.metadata` holds, where proxies must append to the one line that there is.
    """
    scope = getattr(call.context, "scope", None)  # of ASGI; metadata holds only the first of several lines
    if not isinstance(scope, dict):
        return whom(call.key, [call.metadata.get("x-forwarded-for", "")], trusted=trusted)
    client = scope.get("client")
    lines = [value.decode("latin-1") for name, value in scope.get("headers", ()) if name == b"x-forwarded-for"]
    return whom(client[0] if client else "", lines, trusted=trusted)


def whom(peer: str, forwarded: Sequence[str] = (), *, trusted: Callable[[str], bool] = NOBODY) -> str:
    """Say whom a request is for, by its peer and the lines of X-Forwarded-For, in order.

    Each proxy appends whom it saw, so the entries are read from the right, for as long as who wrote them is trusted.
    What stands left of that, or of an entry that is no address, is what the client wrote: it is not looked at.
    """
    seen = peer
    if forwarded and trusted(peer):
        for entry in reversed(",".join(forwarded).rsplit(",", _HOPS)[-_HOPS:]):
            address = _entry(entry)
            if address is None:
                break
            seen = address
            if not trusted(seen):
                break
    return network(seen)


def network(address: str) -> str:
    """Write whom an address belongs to in the one way: "203.0.113.7", or "2001:db8:1:2::/64".

    IPv4 written as IPv6 (mapped, or of RFC 6052's own prefix) is IPv4. Text that is no address stays as it is, in its
    normal form.
    """
    found = _address(address)
    if found is None:
        return normal(address)
    return str(IPv6Network((int(found) >> 64 << 64, 64))) if isinstance(found, IPv6Address) else str(found)


def header(name: str) -> Callable[[Call], str]:
    """Make a key of a header or a piece of metadata, in its normal form; without it all share the bucket of "".

    A header is what the client writes: a key of one limits only those who are known by it (an API key that was
    checked), never those who would rather not be known.
    """
    lower = name.lower()
    return lambda call: normal(call.metadata.get(lower, ""))


def normal(name: str) -> str:
    """Bring a name to its one form: Unicode NFC, no blanks at the ends. Beyond 256 characters it stays as it is."""
    if len(name) > _LONG:
        return name
    return name.strip() if name.isascii() else unicodedata.normalize("NFC", name).strip()


def _address(text: str) -> IPv4Address | IPv6Address | None:
    return _read(text) if len(text) <= 64 else None  # an address with a zone has fewer, and what is cached is bounded


@lru_cache(maxsize=4096)  # a peer comes again
def _read(text: str) -> IPv4Address | IPv6Address | None:
    try:
        found = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(found, IPv4Address):
        return found
    if found.ipv4_mapped is not None:  # so a socket of both kinds names its IPv4 peers
        return found.ipv4_mapped
    return IPv4Address(int(found) & 0xFFFFFFFF) if found in _NAT64 else found


def _entry(text: str) -> str | None:
    """Return the address of an entry, without its port; None for what is no address."""
    found = _ENTRY.fullmatch(text.strip()[:128])
    address = (found[1] or found[2] or found[3]) if found else ""
    return address if _address(address) is not None else None
