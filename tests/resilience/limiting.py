"""What every test of a limiter asks."""

from __future__ import annotations

import pytest

from msgov.call import OK, Call, Outcome
from msgov.errors import RateLimited
from msgov.resilience import Limiter


def admits(gate: Limiter, now: float, key: str = "") -> bool:
    """Say whether one more call of the key gets in, at once or later."""
    try:
        gate.admit(Call("shop", key=key), now)
    except RateLimited:
        return False
    gate.settle(0.0, Outcome(OK), now)
    return True


def refusal(gate: Limiter, now: float, key: str = "") -> RateLimited:
    """Return why one more call of the key does not get in."""
    with pytest.raises(RateLimited) as refused:
        gate.admit(Call("shop", key=key), now)
    return refused.value
