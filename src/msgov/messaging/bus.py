"""A bus keeps messages until every group that reads their topic has settled them; it promises no less on any broker.

Delivery is at least once. `msgov.messaging.inbox` makes the effect exactly once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from importlib.metadata import entry_points
from types import TracebackType
from typing import Self

from msgov.errors import RuleError
from msgov.messaging.message import Message

GROUP = "msgov.messaging"
LONGEST_DELAY = 600.0  # seconds that a message may be put back for; who wants more wants a scheduler
CAUSE_LIMIT = 4096  # characters of a dead letter's cause


@dataclass(frozen=True, slots=True)
class Delivery:
    """One message in one consumer's hands, until it is settled or the claim is lost.

    `attempt` counts the deliveries of this message to this group, from 1, by the bus's own count: a header cannot forge
    it. `age` is the seconds since the bus took the message. `number` and `holder` are the claim itself.
    """

    message: Message
    attempt: int
    age: float
    number: int
    holder: str


@dataclass(frozen=True, slots=True)
class Letter:
    """A message that one group gave up: why, after how many deliveries, and when (`at`, seconds since 1970).

    `reason` is a short name ("expired", "exhausted", "poison", ...), `cause` the error with its traceback, cut to 4096
    characters. `number` grows with each dead letter of a bus.
    """

    number: int
    group: str
    message: Message
    reason: str
    cause: str
    attempts: int
    at: float


class Subscription(ABC):
    """One consumer of one group, for the length of an `async with` block.

    A key with an unsettled message is not handed out again, to anybody in the group, so messages of one key are handled
    in order however many consumers there are; other keys move on. What is not settled when the block ends goes back
    to the group and does not count as an attempt. When the process dies, the bus notices and hands it out again.
    All methods but `halt` raise `MsgovError` when the bus is out of reach: leave the block and subscribe again.
    """

    @property
    @abstractmethod
    def live(self) -> bool:
        """Whether the bus has lately known this consumer."""

    @abstractmethod
    async def fetch(self, most: int, *, wait: float) -> list[Delivery]:
        """Claim up to `most` messages, oldest first; waits up to `wait` seconds for the first, then returns none."""

    @abstractmethod
    async def ack(self, delivery: Delivery) -> bool:
        """Settle a message: it was handled. False when the claim was lost, so that another has it or had it."""

    @abstractmethod
    async def retry_later(self, delivery: Delivery, delay: float, *, counted: bool = True) -> bool:
        """Hand it back, to be delivered again in `delay` seconds (0 to 600); its key waits with it.

        `counted=False` says that this delivery was no attempt: it was not begun. False when the claim was lost.
        """

    @abstractmethod
    async def dead(self, delivery: Delivery, reason: str, *, cause: str = "") -> bool:
        """Settle it as a dead letter, so that its key moves on. False when the claim was lost."""

    @abstractmethod
    async def lag(self) -> int:
        """Count what the group has not settled, up to 100 000."""

    @abstractmethod
    def halt(self) -> None:
        """Hand out nothing more: a `fetch` that waits returns at once, and so does every later one."""

    @abstractmethod
    async def __aenter__(self) -> Self:
        """Join the group; a group that is new begins with the oldest message kept."""

    @abstractmethod
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give back what is not settled and leave the group."""


class Bus(ABC):
    """Where messages are published and subscribed to; an async context manager that closes what it opened.

    `retention` is how long a message is kept after all groups have settled it, in seconds: an inbox must remember for
    longer, or a replay has effects again. `skew` is how far the bus's clock may be off ours, in seconds.
    """

    retention: float
    skew: float = 0.0

    @classmethod
    @abstractmethod
    def from_url(cls, url: str) -> Bus:
        """Make the bus that a URL names; raises `RuleError` for one that it cannot read."""

    @abstractmethod
    async def publish(self, *messages: Message) -> None:
        """Store messages, in this order, and return once the bus has them safe.

        When it fails, of each key a first part may be stored, never a later message without the earlier ones.
        Raises `DeliveryError`: `sent` is NO when nothing was stored, MAYBE when that is not known.
        """

    @abstractmethod
    def subscribe(self, topic: str, *, group: str) -> Subscription:
        """Make a consumer of a group; each group gets every message of the topic. Raises `Poison` for a bad name."""

    @abstractmethod
    async def letters(self, *, topic: str = "", group: str = "", after: int = 0, most: int = 100) -> list[Letter]:
        """List dead letters with a number above `after`, oldest first, at most 1000 at once; "" stands for any."""

    @abstractmethod
    async def redrive(self, *numbers: int) -> int:
        """Deliver dead letters again, to the group that gave them up alone, with a fresh count; return how many.

        Each comes after what that group has not read yet, with the id it had.
        """

    @abstractmethod
    async def aclose(self) -> None:
        """Close what was opened; closing twice is fine."""

    async def letter(self, number: int) -> Letter | None:
        """Show one dead letter; None when there is no such number (any more)."""
        found = await self.letters(after=number - 1, most=1)
        return found[0] if found and found[0].number == number else None

    async def __aenter__(self) -> Self:
        """Return itself; what it needs is opened when first asked."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        await self.aclose()


def open(url: str) -> Bus:  # noqa: A001  read as bus.open
    """Make the bus that a URL names: `memory:`, `embedded:bus.db`.

    The scheme is looked up among the installed backends (entry points of the group "msgov.messaging"), ours and
    strangers' the same way. Raises `RuleError` for an unknown one, and what the backend's own `from_url` raises.
    """
    scheme, colon, _ = url.partition(":")
    known = {point.name: point for point in entry_points(group=GROUP)}
    if not colon or scheme not in known:
        raise RuleError.at("bus", url, "a URL whose scheme is one of " + ", ".join(sorted(known)))
    bus = known[scheme].load().from_url(url)
    if not isinstance(bus, Bus):
        raise RuleError.at("bus", url, f"a Bus; {known[scheme].value} makes a {type(bus).__name__}")
    return bus
