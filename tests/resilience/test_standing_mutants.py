"""What only a changed line of a standing showed."""

from __future__ import annotations

import pytest

from msgov.call import IGNORED, Call, Outcome
from msgov.errors import RateLimited
from msgov.policy import Waiting
from msgov.resilience import Limiter, LimiterRule
from msgov.resilience.standing import Announced, Standing

FACTS = {"quota": 10, "window": 60, "remaining": 3}


@pytest.mark.parametrize("missing", FACTS)
def test_error_that_lacks_one_number_has_no_standing(missing: str) -> None:
    """A header with a hole in it is worse than none."""
    assert Standing.of(RateLimited("no", **{name: n for name, n in FACTS.items() if name != missing})) is None


def test_error_that_does_not_say_when_says_at_once() -> None:
    """What is unknown is not made up."""
    found = Standing.of(RateLimited("no", **FACTS))
    assert found is not None
    assert found.reset == 0.0


class Heard(Limiter):
    """A limiter that tells what it was told, and claims that it makes nobody wait."""

    waits = False
    settled = 0

    def settle(self, ticket: object, outcome: Outcome, now: float) -> None:
        """Count."""
        self.settled += 1


def test_announced_limiter_is_the_limiter() -> None:
    """It waits as that one does, hands out its tickets, passes on how calls end and why a wait was in vain."""
    limiter = Heard(LimiterRule(rate=1, burst=2, algorithm="leaky"))
    gate = Announced(limiter, lambda call, standings: None)
    assert gate.waits is limiter.waits
    ticket = gate.admit(Call("shop"), 0.0)
    assert ticket is not None
    assert not isinstance(ticket, Waiting)
    gate.settle(ticket, Outcome(IGNORED), 0.0)
    assert limiter.settled == 1
    waiting = gate.admit(Call("shop"), 0.0)
    assert isinstance(waiting, Waiting)
    assert str(gate.late(waiting, 1.0)) == str(limiter.late(waiting, 1.0))
