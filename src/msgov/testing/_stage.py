"""One player moves at a time, and the stage knows for each whether it stands."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from enum import Enum, auto
from pathlib import Path
from types import CodeType, FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import TraceFunction

# A player that was given the turn and does not come back is blocked if, this many looks in a row, its thread is asleep
# at the same instruction and was not woken in between. Nobody else runs between looks, so one that is merely slow, or
# waits for the GIL, is woken.
_LOOKS = 3
_LOOK = 0.0002 if Path("/proc/self/task").exists() else 0.02


class State(Enum):
    """Where a player is in its turn."""

    MOVING = auto()
    PARKED = auto()
    DONE = auto()


class Player:
    """A function in a thread of its own, parked before every watched line until it is given the turn."""

    def __init__(self, stage: Stage, act: Callable[[], object], index: int) -> None:
        self.name = f"interleaver-{index}"
        self.state = State.MOVING
        self.result: object = None
        self.error: BaseException | None = None
        self.looks = 0
        self.thread = threading.Thread(target=self._play, name=self.name, daemon=True)
        self._act = act
        self._stage = stage
        self._turn = threading.Lock()
        self._turn.acquire()
        self._seen: tuple[object, ...] = ()

    def go(self) -> None:
        """Give it the turn."""
        self.state = State.MOVING
        self._turn.release()

    def look(self) -> None:
        """Count the looks in a row that found it asleep at one place."""
        frame = self._frame()
        seen = (frame and (frame.f_code, frame.f_lasti), *self._sleep())
        self.looks = self.looks + 1 if seen == self._seen and b"R" not in seen else 0
        self._seen = seen

    def where(self) -> str:
        """Name it, and the line it is at."""
        frame = self._frame()
        return f"{self.name} at {Path(frame.f_code.co_filename).name}:{frame.f_lineno}" if frame else self.name

    def _frame(self) -> FrameType | None:
        return sys._current_frames().get(self.thread.ident or 0)  # noqa: SLF001  documented, its name apart

    def _sleep(self) -> list[bytes]:
        """Tell the kernel's state of the thread, and how often it was put to sleep or woken so far."""
        try:
            status = Path(f"/proc/self/task/{self.thread.native_id}/status").read_bytes()
        except OSError:
            return []  # no /proc: the instruction alone must tell, over longer looks
        return [line.split()[1] for line in status.splitlines() if line.startswith((b"State:", b"volun", b"nonvol"))]

    def _play(self) -> None:
        self._pause()
        sys.settrace(self._enter)
        try:
            self.result = self._act()
        except BaseException as error:  # noqa: BLE001  raised again where the race was started
            self.error = error
        finally:
            sys.settrace(None)
            self._stage.arrived(self, State.DONE)

    def _enter(self, frame: FrameType, event: str, arg: object) -> TraceFunction | None:
        return self._line if self._stage.watched(frame.f_code) else None

    def _line(self, frame: FrameType, event: str, arg: object) -> TraceFunction:
        if event == "line":
            self._pause()
        return self._line

    def _pause(self) -> None:
        if self._stage.arrived(self, State.PARKED):
            self._turn.acquire()


class Stage:
    """All players of one race."""

    def __init__(self, acts: tuple[Callable[[], object], ...], watched: Callable[[CodeType], bool]) -> None:
        self.watched = watched
        self._over = False
        self._changed = threading.Condition()
        self.players = [Player(self, act, index) for index, act in enumerate(acts)]

    def arrived(self, player: Player, state: State) -> bool:
        """Say that a player stands, from its own thread; return whether it shall wait for its turn."""
        with self._changed:
            player.state = state
            self._changed.notify()
            return not self._over

    def settle(self, patience: float) -> list[Player]:
        """Wait until every player stands, and return those that may be given the turn, in their fixed order.

        Returns nothing when all are done. When all that are not done are blocked, or one stays busy, raises
        `TimeoutError` after `patience` seconds.
        """
        give_up = time.monotonic() + patience
        with self._changed:
            for player in self.players:
                player.looks = 0  # one that was blocked may have been let go by the line just run
            while True:
                moving = [player for player in self.players if player.state is State.MOVING]
                if all(player.looks >= _LOOKS for player in moving):
                    parked = [player for player in self.players if player.state is State.PARKED]
                    if parked or not moving:
                        return parked
                if time.monotonic() > give_up:
                    raise TimeoutError("; ".join(player.where() for player in moving))
                self._changed.wait(_LOOK)
                for player in moving:
                    if player.state is State.MOVING:
                        player.look()

    def close(self, patience: float) -> None:
        """Let every player run on freely to its end; one that is truly stuck is left to its fate."""
        with self._changed:
            self._over = True
            for player in self.players:
                if player.state is State.PARKED:
                    player.go()
        give_up = time.monotonic() + patience
        for player in self.players:
            if player.thread.ident is not None:
                player.thread.join(max(0.0, give_up - time.monotonic()))
