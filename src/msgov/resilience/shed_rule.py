"""When a process has too much to do."""

from __future__ import annotations

from msgov.rule import field, rule


@rule
class ShedRule:
    """The readings from which on calls are shed, and how the time before is looked at."""

    cpu: float = field(
        default=0.8,
        gt=0,
        le=1,
        why="share of the CPU that the container may use; above it every queue grows (aegis; go-zero has 0.9)",
    )
    lag: float = field(
        default=0.1,
        gt=0,
        le=60,
        unit="s",
        why="a loop this late is out of breath, though one thread of Python never fills two cores",
    )
    delay: float = field(
        default=0.1, gt=0, le=60, unit="s", why="a thread pool whose queue takes this long is out of threads"
    )
    window: int = field(
        default=10,
        ge=1,
        le=3600,
        unit="s",
        why="the best of so many seconds says what the process can do (aegis bbr)",
    )
    shadow: bool = field(default=False, why="off; else what would be shed is counted and told, and let in")
