"""What becomes of a message that was not handled: decided here, carried out by the consumer."""

from __future__ import annotations

import traceback
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from msgov.call import PERMANENT, Outcome
from msgov.clock import Dice
from msgov.errors import DeadlineSpent, MsgovError, Problem, Rejected, SourceError
from msgov.messaging.bus import CAUSE_LIMIT, LONGEST_DELAY
from msgov.rule import field, rule

PUT_BACK = 1.0  # seconds: how long a message stays away when a policy has refused it and did not say


@rule
class ConsumerRule:
    """How a consumer works through its topic."""

    concurrency: int = field(
        default=16, unit="messages", ge=1, le=1000, why="handlers mostly wait; a database takes about that many at once"
    )
    timeout: float = field(
        default=30.0, unit="s", gt=0, le=600, why="a handler that hangs must not keep its key and its place for ever"
    )
    delays: tuple[float, ...] = field(
        default=(0.0, 0.1, 1.0, 10.0),
        why="one more delivery after each: five in all; the first covers a lost race, the last a restart",
    )
    grace: float = field(
        default=10.0,
        unit="s",
        ge=0,
        le=600,
        why="what is under way when the consumer stops may finish; the rest goes back",
    )
    remember: float = field(
        default=7 * 86_400.0, unit="s", gt=0, why="longer than a bus keeps a message, or a replay has effects again"
    )

    @property
    def deliveries(self) -> int:
        """How often a message is delivered before it is given up."""
        return len(self.delays) + 1

    def lint(self) -> Iterable[Problem]:
        """Check the delays one by one."""
        if len(self.delays) > 20:
            yield Problem("delays", len(self.delays), "at most 20")
        for at, delay in enumerate(self.delays):
            if not 0 <= delay <= LONGEST_DELAY:
                yield Problem(f"delays[{at}]", delay, f">= 0 and <= {LONGEST_DELAY:g} s")


class Fate(Enum):
    """What a consumer does with a message."""

    AGAIN = "again"
    PUT_BACK = "put_back"
    DEAD = "dead"


@dataclass(frozen=True, slots=True)
class Decision:
    """A message's fate: AGAIN or PUT_BACK (uncounted) in `delay` seconds, or DEAD for `reason`."""

    fate: Fate
    delay: float = 0.0
    reason: str = ""


def decide(
    how: ConsumerRule, attempt: int, error: BaseException, outcome: Outcome, chance: Dice, *, expired: bool = False
) -> Decision:
    """Decide on a message whose delivery `attempt` (from 1) failed; `expired` if its own deadline has passed since.

    A policy that refused it (limiter, breaker, bulkhead) and a store out of reach say nothing about the message: it is
    put back, uncounted, however long that lasts. What no attempt can help is given up at once, all else after the last
    of the delays.
    """
    if expired:
        return Decision(Fate.DEAD, reason="expired")
    if isinstance(error, Rejected | SourceError) and not isinstance(error, DeadlineSpent):
        wait = PUT_BACK if error.retry_after is None or error.retry_after < 0 else error.retry_after
        return Decision(Fate.PUT_BACK, delay=min(wait, LONGEST_DELAY))
    if outcome.verdict is PERMANENT:
        return Decision(Fate.DEAD, reason=error.reason if isinstance(error, MsgovError) else "permanent")
    if attempt >= how.deliveries:
        return Decision(Fate.DEAD, reason="exhausted")
    return Decision(Fate.AGAIN, delay=how.delays[attempt - 1] * (0.5 + 0.5 * chance.random()))


def cause(error: BaseException) -> str:
    """Write an error for a dead letter: its traceback, the end of it where it is long."""
    return "".join(traceback.format_exception(error))[-CAUSE_LIMIT:]
