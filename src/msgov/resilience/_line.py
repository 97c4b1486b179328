"""A line is first come, first served while it absorbs a burst, and newest first once it only delays.

            somebody waits                      not empty for `max_wait`
    EMPTY ------------------> FIRST COME FIRST ---------------------------> NEWEST FIRST
      ^                      at most `max_wait`                            at most `target`
      |                             |                                            |
      +-----------------------------+------------- nobody waits -----------------+

CoDel as Facebook runs it (Maurer, "Fail at Scale", ACM Queue 2015; after RFC 8289) with its adaptive LIFO: a line that
has not been empty for a while absorbs no burst, so whoever joins it is given only a moment, and the one who came last,
whose caller surely still waits, is served first.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

from msgov.call import Call
from msgov.policy import Waiting
from msgov.rule import field, rule

T = TypeVar("T")


@rule
class LineRule:
    """How many may wait, for how long, and when waiting absorbs no burst any more."""

    queue: int = field(
        default=0,
        ge=0,
        le=100_000,
        unit="calls",
        why="waiting is asked for, not found out: by default the next one is refused",
    )
    max_wait: float = field(
        default=0.1,
        gt=0,
        le=600,
        unit="s",
        why="a queue absorbs a burst; one that was not empty for so long absorbs none (N of Fail at Scale)",
    )
    target: float = field(
        default=0.005,
        gt=0,
        le=600,
        unit="s",
        why="the longest wait, if it is the shorter one, in a line that does not drain (M of Fail at Scale)",
    )


class Line(Generic[T]):
    """Who waits; its owner holds a lock round every method.

    A place whose time is up stays until its driver leaves it, or the next in turn is asked for: a machine has no timer.
    """

    __slots__ = ("_rule", "_since", "_target", "places")

    def __init__(self, rule: LineRule) -> None:
        self.places: OrderedDict[Waiting[T], None] = OrderedDict()  # to leave from the middle costs no search
        self._since = 0.0  # when somebody came to the empty line
        self.set(rule)

    def set(self, rule: LineRule) -> None:
        """Go by another rule; places given out keep their time."""
        self._rule = rule
        self._target = min(rule.target, rule.max_wait)

    def join(self, call: Call, now: float) -> Waiting[T] | None:
        """Give out a place, None where there is none, or no time before the call's deadline."""
        places, rule = self.places, self._rule
        if len(places) >= rule.queue:
            return None
        if not places:
            self._since = now
        until = now + (self._target if self.standing(now) else rule.max_wait)
        if call.deadline is not None and call.deadline < until:
            until = call.deadline
            if until <= now:
                return None
        place: Waiting[T] = Waiting(since=now, until=until)
        places[place] = None
        return place

    def standing(self, now: float) -> bool:
        """Whether somebody has been in line for so long that it absorbs no burst."""
        return bool(self.places) and now - self._since >= self._rule.max_wait

    def next(self, now: float | None) -> Waiting[T] | None:
        """Take out whose turn it is, passing over those whose time is up; without a `now`, whoever came first."""
        places = self.places
        newest = now is not None and self.standing(now)
        while places:
            place, _ = places.popitem(last=newest)
            if now is None or now <= place.until:
                return place
        return None

    def leave(self, place: Waiting[T]) -> None:
        """Take out one who gives up; one who was passed over already is fine."""
        self.places.pop(place, None)

    def __len__(self) -> int:
        """Count the places taken."""
        return len(self.places)
