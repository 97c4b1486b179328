"""Who goes first when not all can stay: by criticality, then who has had least lately, then by lot."""

from __future__ import annotations

from collections import deque
from hashlib import blake2b

from msgov.clock import Dice
from msgov.scope import Criticality

_ROWS = 1024  # counters of usage: two tenants share one now and then, and hostile keys cost no memory
_SEEN = 1000  # levels of the latest calls (failsafe-go)
_ENOUGH = 50  # of them say something
_FADES = 0.8  # of what was used stays after a second: about five seconds are remembered
_FORGOTTEN = 0.1  # calls: less is none
_FAIR = 0.9  # of the width of a class goes by usage, the rest by lot: at 0.75 luck is worth four times as much
_DRAWN = 0.25  # of the lot is the call's own, the rest its tenant's: a few are served whole, not all of them in part
_TERM = 3600.0  # seconds after which the tenants' lots move on (DAGOR, SoCC 2018)
_GOLDEN = 0.6180339887498949  # moves them on evenly


class Levels:
    """Gives each call a level, and knows below which level a given part of them is.

    The whole part of a level is the criticality. Inside a class it falls with what the tenant was let in with lately,
    relative to the others. Memory is the same for one tenant and for a million: usage is counted in rows by a salted
    hash of the key, so that nobody can aim at another's row. Its owner holds a lock round every method.
    """

    __slots__ = ("_dice", "_levels", "_salt", "_total", "_usage", "_users")

    def __init__(self, dice: Dice) -> None:
        self._dice = dice
        self._salt = int(dice.random() * 2**64).to_bytes(16, "big")
        self._usage = [0.0] * _ROWS
        self._total = 0.0
        self._users = 0
        self._levels: deque[float] = deque(maxlen=_SEEN)

    def level(self, criticality: Criticality, tenant: str, now: float) -> tuple[float, int]:
        """Return the level of a call that came, and the row in which its tenant's usage is counted."""
        digest = blake2b(tenant.encode("utf-8", "surrogatepass"), digest_size=8, salt=self._salt).digest()
        row = int.from_bytes(digest[:2], "big") % _ROWS
        lot = (int.from_bytes(digest[2:], "big") / 2.0**48 + now // _TERM * _GOLDEN) % 1.0
        lot += (self._dice.random() - lot) * _DRAWN
        fair = 0.5  # as if all had the same
        if self._users:
            mean = self._total / self._users
            fair = mean / (mean + self._usage[row])
        level = criticality + _FAIR * fair + (1.0 - _FAIR) * lot
        self._levels.append(level)
        return level, row

    def let_in(self, row: int) -> None:
        """Count that a call of this row's tenant was let in."""
        if not self._usage[row]:
            self._users += 1
        self._usage[row] += 1.0
        self._total += 1.0

    def below(self, part: float) -> float:
        """Return the level below which this part of the latest calls is, 0 to 1; 0 while too few came to tell."""
        found = sorted(self._levels)
        return found[min(int(part * len(found)), len(found) - 1)] if part > 0 and len(found) >= _ENOUGH else 0.0

    def fade(self) -> None:
        """Forget a part of what was used: once a second."""
        if self._users:
            self._usage = [used * _FADES if used * _FADES >= _FORGOTTEN else 0.0 for used in self._usage]
            self._total = sum(self._usage)
            self._users = sum(used > 0.0 for used in self._usage)
