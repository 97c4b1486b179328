"""What a consumer asks of the database: one transaction for the effect, the inbox and the outbox."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import NamedTuple, Protocol

from msgov.call import IGNORED, NOTHING, YES
from msgov.errors import MsgovError
from msgov.messaging.message import Body

Params = Sequence[object] | Mapping[str, object]


class Once(NamedTuple):
    """What must not have happened yet: `ids` that `group` has not handled, message ids and business keys alike."""

    group: str
    ids: tuple[str, ...]


class Duplicate(MsgovError):
    """The group has handled this before, so nothing is done now; for the consumer that is a success."""

    reason = "duplicate"
    verdict = IGNORED
    sent = YES


class Tx(Protocol):
    """One transaction, open: all of it happens, or none. Used by one task at a time."""

    async def execute(self, sql: str, params: Params = (), /) -> Sequence[Sequence[object]]:
        """Run one statement and return its rows."""
        ...

    async def publish(
        self,
        topic: str,
        body: Body,
        /,
        *,
        key: str = "",
        headers: Mapping[str, str] = NOTHING,
        expires: float | None = None,
    ) -> None:
        """Write a message to the outbox: it is sent if, and only if, this transaction commits."""
        ...


class Transactions(Protocol):
    """A database with an inbox and an outbox in it."""

    def transaction(self, *, once: Once | None = None) -> AbstractAsyncContextManager[Tx]:
        """Begin; commit when the block ends, roll back when it raises or is cancelled.

        With `once`, an entry in the inbox commits with the rest. Raises `Duplicate` when it is there already: at the
        first statement, or at the end, whatever the block itself raised.
        """
        ...

    async def handled(self, once: Once) -> bool:
        """Whether the inbox has it: a quick look before the work; `transaction` decides."""
        ...

    async def forget(self, before: float) -> int:
        """Remove inbox entries made before `before` (seconds since 1970), some at a time; return how many."""
        ...
