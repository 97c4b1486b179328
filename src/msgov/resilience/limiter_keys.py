"""Keys are remembered within a bound, and forgetting one frees nobody."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from hashlib import blake2b
from typing import Any

PLAIN = 32  # characters up to which a key is kept as it is; of a longer one its digest is kept
SHARED = "*" * (PLAIN + 1)  # the key of all for whom there is no room: no key, and no digest

_SWEEP = 4  # keys looked at for each new one: memory follows the active keys, and no call pays for all of them


def digest(key: str) -> str:
    """Shorten a key to 33 characters, which no key kept as it is has; two that differ stay two (BLAKE2b, 16 bytes).

    Text, for a dict of text alone is smaller than one that also holds bytes.
    """
    return "#" + blake2b(key.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


class Keys:
    """The state of each key that has used something, at most `most` of them, and one that the others share.

    `free` says of a state when forgetting it loses nothing, and only then a key is forgotten: it and one that never
    came are the same. Not safe to share between threads: guard it.
    """

    __slots__ = ("_before", "_carry", "_free", "_hand", "most", "states")

    def __init__(self, free: Callable[[Any], float], most: int) -> None:
        self.most = most
        self.states: dict[str, Any] = {}
        self._free = free
        self._hand: deque[str] = deque()  # the remembered keys, in the order in which they are looked at
        self._before: dict[str, Any] = {}  # those whose state is of the kind before
        self._carry: Callable[[Any], Any] = _as_it_is

    def __len__(self) -> int:
        """How many keys are remembered."""
        return len(self._hand)

    def turn(self, free: Callable[[Any], float], carry: Callable[[Any], Any]) -> None:
        """Go on with another kind of state; `carry` makes one of what was, for each key when it is met again."""
        for name in list(self._before):  # what a turn before this one left over
            self._carried(name)
        self._before, self.states = self.states, {}
        self._free, self._carry = free, carry

    def find(self, name: str) -> Any:
        """Return the state of a key, None where it has none."""
        state = self.states.get(name)
        return self._carried(name) if state is None and self._before else state

    def room(self, now: float) -> bool:
        """Forget a few keys that have nothing in use; say whether there is room for one more."""
        hand, states, free = self._hand, self.states, self._free
        for _ in range(min(_SWEEP, len(hand))):
            name = hand.popleft()
            if free(self.find(name)) <= now:
                del states[name]
            else:
                hand.append(name)
        return len(hand) < self.most

    def add(self, name: str) -> None:
        """Remember a key whose state is about to be stored."""
        self._hand.append(name)

    def _carried(self, name: str) -> Any:
        state = self._before.pop(name, None)
        if state is None:
            return None
        if not self._before:
            self._before = {}  # a dict that was emptied keeps its room
        self.states[name] = state = self._carry(state)
        return state


def _as_it_is(state: Any) -> Any:
    return state
