"""Microservice governance for Python: find, call, limit, configure, exchange events, and see what happened.

`import msgov` is cheap: a name is imported when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from msgov.call import Call, Outcome, Verdict
    from msgov.errors import (
        BreakerOpen,
        BudgetSpent,
        BulkheadFull,
        CallFailed,
        DeadlineExceeded,
        DeadlineSpent,
        DeliveryError,
        MissingExtra,
        MsgovError,
        NoInstance,
        OutcomeUnknown,
        RateLimited,
        Rejected,
        RuleError,
        Shed,
        SourceError,
    )
    from msgov.latest import Latest, Source
    from msgov.observability.logs import get_logger
    from msgov.observability.setup import observability
    from msgov.pipeline import Pipeline
    from msgov.policy import Gate, Plan, Substitute
    from msgov.scope import remaining, within
    from msgov.service import Service

__all__ = [
    "BreakerOpen",
    "BudgetSpent",
    "BulkheadFull",
    "Call",
    "CallFailed",
    "DeadlineExceeded",
    "DeadlineSpent",
    "DeliveryError",
    "Gate",
    "Latest",
    "MissingExtra",
    "MsgovError",
    "NoInstance",
    "Outcome",
    "OutcomeUnknown",
    "Pipeline",
    "Plan",
    "RateLimited",
    "Rejected",
    "RuleError",
    "Service",
    "Shed",
    "Source",
    "SourceError",
    "Substitute",
    "Verdict",
    "get_logger",
    "observability",
    "remaining",
    "within",
]

_HOMES = {
    "msgov.call": ("Call", "Outcome", "Verdict"),
    "msgov.latest": ("Latest", "Source"),
    "msgov.observability.logs": ("get_logger",),
    "msgov.observability.setup": ("observability",),
    "msgov.pipeline": ("Pipeline",),
    "msgov.policy": ("Gate", "Plan", "Substitute"),
    "msgov.scope": ("remaining", "within"),
    "msgov.service": ("Service",),
}
_WHERE = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> object:
    """Import a public name when it is first asked for (PEP 562)."""
    if name == "__version__":
        return _version()
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found: object = getattr(importlib.import_module(_WHERE.get(name, "msgov.errors")), name)
    globals()[name] = found
    return found


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("msgov")
    except PackageNotFoundError:  # run from a tree that is not installed
        return "0"


def __dir__() -> list[str]:
    """List what can be had."""
    return sorted([*globals(), *__all__])
