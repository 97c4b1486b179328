"""A call that is going to be refused need not be prepared: the breakers in front of it are asked first."""

from __future__ import annotations

from collections.abc import Callable

from msgov import BreakerOpen, Call, Service
from msgov.call import IGNORED, Outcome
from msgov.config.instances import InstanceBreakers


def resting(svc: Service, target: str, method: str) -> Callable[[], float | None]:
    """Make a question: for how many seconds the breakers refuse `method` at every instance of `target`.

    None when one of them would let a call through. Asking takes nothing: what is let in is given back as IGNORED.
    """
    pick = svc.targets.pick(target)

    def ask() -> float | None:
        now, waits = svc.clock(), []
        for breakers in svc.policies.for_call(target, method, pick=pick):
            if not isinstance(breakers, InstanceBreakers):
                continue
            for instance in pick.latest.value.instances if pick.latest.known else ():
                if not instance.eligible:
                    continue
                call = Call(target, method)
                call.instance = instance
                try:
                    ticket = breakers.admit(call, now)
                except BreakerOpen as refusal:
                    waits.append(refusal.retry_after or 0.0)
                else:
                    breakers.settle(ticket, Outcome(IGNORED), now)
                    return None
        return min(waits, default=None)

    return ask
