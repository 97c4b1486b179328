"""An instance is one place where a service answers; what a registry says of it is hostile until checked.

Whoever can write to a registry must not thereby steer calls to a metadata service, break a log line or fill our memory:
each entry is checked by itself, bad ones are dropped and counted, the rest serve.
"""

from __future__ import annotations

import ipaddress
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from msgov.call import NOTHING
from msgov.errors import Problem, RuleError

MOST = 10_000  # instances of one service that are believed; beyond that a registry is broken or hostile
METADATA = 4096  # bytes of one instance's metadata, keys and values together
LIGHTEST, HEAVIEST = 0.001, 10_000.0  # Nacos goes up to 10 000; below a thousandth say draining

_SERVICE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,127}")
_LABEL = r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_NAME = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(\.{_LABEL})*\.?")
# A name that ends in a number is read as an IPv4 address by inet_aton: "2852039166" is 169.254.169.254.
_NUMBER = re.compile(r"(.*\.)?(0[xX][0-9A-Fa-f]*|[0-9]+)\.?")
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,31}")
_TEXT = re.compile(r"[\x20-\x7e\u00a0-\U0010ffff]*")


@dataclass(frozen=True, slots=True)
class Instance:
    """One place where a service answers.

    Args:
        service: What it is an instance of: letters, digits and `._/-`, at most 128.
        host: An IP address or a DNS name; not a URL, not link-local, unspecified or multicast, and no number in
            disguise, since such entries are how a registry is abused.
        port: 1 to 65535.
        id: Its name among the instances of its service; by default `host:port`, so that the same address is the same
            instance after a restart, whoever registers it.
        protocol: What it speaks, "grpc" by default, the commonest here.
        version, zone: What it runs and where; "" for unknown, at most 128 characters.
        weight: Its share of calls against its neighbours', 0.001 to 10 000; 1.0 by default.
        metadata: Whatever else, text to text, at most 4096 bytes together.
        healthy: False when the registry says that it is not well.
        draining: True when it is about to leave: it finishes what it has, and gets nothing new.

    Raises `RuleError` that names the field.
    """

    service: str
    host: str
    port: int
    id: str = ""
    protocol: str = "grpc"
    version: str = ""
    zone: str = ""
    weight: float = 1.0
    metadata: Mapping[str, str] = field(default_factory=lambda: NOTHING, hash=False)
    healthy: bool = True
    draining: bool = False

    def __post_init__(self) -> None:
        """Check each field, and name all that are wrong at once."""
        if self.id == "" and isinstance(self.host, str):
            object.__setattr__(self, "id", self.address)
        problems = list(_problems(self))
        if problems:
            raise RuleError(problems, where=f"instance of {self.service!r:.80}")
        object.__setattr__(self, "metadata", MappingProxyType(dict(self.metadata)))

    @property
    def address(self) -> str:
        """`host:port`, with brackets round an IPv6 address."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def eligible(self) -> bool:
        """Whether it should get new calls."""
        return self.healthy and not self.draining

    def __reduce__(self) -> tuple[object, ...]:
        """Travel as a plain record: a read-only view of a dict cannot be pickled."""
        return read, (record(self),)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All instances of a service at one moment, ordered by id.

    Two are equal when they hold the same instances. `revision` is the registry's own count of changes, for comparing
    with another of the same registry; `dropped` counts the entries that were refused, and `why` tells the first reason.
    """

    service: str
    instances: tuple[Instance, ...] = ()
    revision: int = field(default=0, compare=False)
    dropped: int = 0
    why: str = ""


def snapshot(service: str, entries: Iterable[Instance | Mapping[str, object]], *, revision: int = 0) -> Snapshot:
    """Check what a registry says, entry by entry: bad ones, doubles and those beyond 10 000 are dropped and counted."""
    found: dict[str, Instance] = {}
    dropped, why = 0, ""
    for entry in entries:
        try:
            if len(found) >= MOST:
                raise RuleError.at("instances", f"more than {MOST}", f"at most {MOST} of one service")
            instance = entry if isinstance(entry, Instance) else read(entry)
            if instance.service != service:
                raise RuleError.at("service", instance.service, f"{service!r}, which was asked for")
            if instance.id in found:
                raise RuleError.at("id", instance.id, "only once in a service")
            found[instance.id] = instance
        except RuleError as error:
            dropped += 1
            why = why or str(error)
    return Snapshot(service, tuple(found[id_] for id_ in sorted(found)), revision, dropped, why)


def record(instance: Instance) -> dict[str, object]:
    """Return an instance as plain data, ready for JSON; `read` of it gives the same instance."""
    return {
        "service": instance.service,
        "host": instance.host,
        "port": instance.port,
        "id": instance.id,
        "protocol": instance.protocol,
        "version": instance.version,
        "zone": instance.zone,
        "weight": instance.weight,
        "metadata": dict(instance.metadata),
        "healthy": instance.healthy,
        "draining": instance.draining,
    }


def read(entry: object) -> Instance:
    """Make an instance of plain data; fields that we do not know (a newer writer's) are passed over.

    Raises `RuleError` that names the field.
    """
    if not isinstance(entry, Mapping):
        raise RuleError.at("instance", entry, "a mapping with service, host and port")
    missing = [name for name in ("service", "host", "port") if name not in entry]
    if missing:
        raise RuleError([Problem(name, "(missing)", "required") for name in missing], where="instance")
    return Instance(**{name: entry[name] for name in Instance.__slots__ if name in entry})


def _problems(instance: Instance) -> Iterable[Problem]:
    for name in ("service", "host", "id", "protocol", "version", "zone"):
        value = getattr(instance, name)
        if not isinstance(value, str):
            yield Problem(name, value, "text")
            return
    if _SERVICE.fullmatch(instance.service) is None:
        yield Problem("service", instance.service, "letters, digits and ._/-, beginning with one of the first two")
    refused = _refused(instance.host)
    if refused:
        yield Problem("host", instance.host, refused)
    if type(instance.port) is not int or not 1 <= instance.port <= 65535:
        yield Problem("port", instance.port, "1 to 65535")
    if not 1 <= len(instance.id) <= 256 or _TEXT.fullmatch(instance.id) is None:
        yield Problem("id", instance.id, "1 to 256 printable characters")
    if _WORD.fullmatch(instance.protocol) is None:
        yield Problem("protocol", instance.protocol, "a word such as grpc or http")
    for name in ("version", "zone"):
        value = getattr(instance, name)
        if len(value) > 128 or _TEXT.fullmatch(value) is None:
            yield Problem(name, value, "at most 128 printable characters")
    weight = instance.weight
    if type(weight) not in (int, float) or not (math.isfinite(weight) and LIGHTEST <= weight <= HEAVIEST):
        yield Problem("weight", weight, f"a number from {LIGHTEST:g} to {HEAVIEST:g}; draining for none at all")
    for name in ("healthy", "draining"):
        if not isinstance(getattr(instance, name), bool):
            yield Problem(name, getattr(instance, name), "true or false")
    yield from _metadata(instance.metadata)


def _metadata(metadata: Mapping[str, str]) -> Iterable[Problem]:
    if not isinstance(metadata, Mapping):
        yield Problem("metadata", metadata, "a mapping of text to text")
        return
    size = 0
    for key, value in metadata.items():
        if not (isinstance(key, str) and isinstance(value, str) and key):
            yield Problem("metadata", {key: value}, "a mapping of text to text")
            return
        size += (
            len(key) + len(value) if key.isascii() and value.isascii() else len((key + value).encode(errors="replace"))
        )
        if size > METADATA:
            yield Problem("metadata", f"{len(metadata)} entries", f"at most {METADATA} bytes together")
            return


def _refused(host: str) -> str:
    """Return what a host should be instead, "" when it is fit to be called."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        if _NAME.fullmatch(host) is None:
            return "an IP address or a DNS name, without scheme, port, path or user"
        if _NUMBER.fullmatch(host) is not None:
            return "an IP address in its usual form, or a DNS name that does not end in a number"
        return ""
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    address = mapped or address
    if address.is_unspecified or address.is_multicast or address.is_link_local or str(address) == "255.255.255.255":
        return "an address that one host has for others: not unspecified, multicast, broadcast or link-local"
    return ""
