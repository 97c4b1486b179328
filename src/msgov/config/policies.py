"""Rules become gates that live as long as their name is governed: a new rule is stored in them, never a new gate."""

from __future__ import annotations

import operator
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol, Self, TypeAlias, cast

from msgov.clock import Dice
from msgov.config.barred import Barred
from msgov.config.centre import Config
from msgov.config.kinds import BUDGET, KINDS, ORDERS, PICK, POLICIES, SEAM
from msgov.config.patterns import called
from msgov.config.rules import Found, RuleBook
from msgov.event import Observers
from msgov.pipeline import Policy
from msgov.policy import Gate
from msgov.resilience.budget import Budget

NAMES: Final = 2_000  # names with a state of their own; what clients make up beyond shares the state of its entry

Pick: TypeAlias = "Gate[object] | None"
Chain: TypeAlias = tuple[Policy, ...]
_Line: TypeAlias = "tuple[str, str, str, Pick]"  # kind, target, method, pick
_Key: TypeAlias = tuple[str, str, str]  # kind, name or pattern, policy


class Ruled(Protocol):
    """What keeps state under a rule, which may be replaced at any time: a gate, a plan, a budget."""

    rule: object
    policy: str


class Spender(Protocol):
    """A plan: who adds attempts pays for them."""

    budget: Budget | None


class Policies:
    """The gates of a process by a rule book, handed to the edges in the one order.

    The order is that of `kinds.ORDERS`. An edge is given the same tuple until the *shape* changes: a policy switched on
    or off, a name under another entry. All other changes reach the gates it holds already. State is kept apart so:

    - what is shared (limiter, bulkhead, budget, service_breaker and others of `kinds.POLICIES`): together for all that
      its entry names: for all methods of `payment` under [call.payment], for the whole server under [server."*"]. An
      entry that covers several services, functions or topics gives each its own;
    - all else: for each method; the breaker of an outgoing call for each instance of it ("Method Overloading the
      Circuit", SoCC 2022).

    `faults` says whether a rule may inject any, which no rule can say of itself: None is MSGOV_FAULTS=1 in the
    environment. `service` is whose quotas these are, where several services share one store.
    """

    def __init__(
        self,
        book: RuleBook,
        *,
        dice: Dice | None = None,
        observers: Observers | None = None,
        faults: bool | None = None,
        service: str = "",
    ) -> None:
        self.book = book
        self.observers = observers or Observers()
        self._faults = faults
        self._service = service
        self._barred = Barred()
        self._listeners: tuple[Callable[[], None], ...] = ()
        self._dice = dice
        self._lines: dict[_Line, Chain] = {}
        self._state: dict[_Key, object] = {}
        self._lock = threading.Lock()

    @classmethod
    def following(
        cls,
        config: Config,
        *,
        dice: Dice | None = None,
        observers: Observers | None = None,
        faults: bool | None = None,
        service: str = "",
    ) -> Self:
        """Make them by what a configuration says, and keep them so: from now on it refuses rules that cannot be.

        Raises `RuleError` when what it says now is such a one.
        """
        made = cls(RuleBook.of({}), dice=dice, observers=observers, faults=faults, service=service)
        rules = config.derive("rules", lambda tree: made._barred.check(RuleBook.of(tree)), keys=KINDS)
        if rules.known:
            made.book = rules.value
        rules.listen(lambda _, new: made.update(new))
        return made

    def for_call(self, target: str, method: str = "", *, pick: Pick = None) -> Chain:
        """Return the policies of an outgoing call, with `pick`, which chooses the instance, in its place."""
        return self._chain(("call", target, method, pick))

    def for_server(self, method: str) -> Chain:
        """Return the policies of an incoming call."""
        return self._chain(("server", "", method, None))

    def for_function(self, name: str) -> Chain:
        """Return the policies of a function guarded under a name."""
        return self._chain(("function", name, "", None))

    def for_consumer(self, topic: str) -> Chain:
        """Return the policies of the messages of a topic."""
        return self._chain(("consumer", topic, "", None))

    @property
    def state(self) -> Sequence[object]:
        """All that keeps state now (gates, retries, budgets), for metrics and the console."""
        with self._lock:
            return tuple(self._state.values())

    def listen(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call `listener` after each change of what `state` holds, in any thread; return a function that ends it."""
        with self._lock:
            self._listeners = (*self._listeners, listener)

        def end() -> None:
            with self._lock:
                self._listeners = tuple(each for each in self._listeners if each is not listener)

        return end

    def bar(self, kind: str, name: str, whys: Mapping[str, str]) -> None:
        """Refuse, from now on, rules that switch on for a name what stands behind it cannot bear: by policy, and why.

        Of calls the name is a service's, and its HTTP requests are meant. Raises `RuleError` when it is on already.
        """
        with self._lock:
            self._barred.add(self.book, kind, name, whys)

    def update(self, book: RuleBook) -> None:
        """Govern by another book: what is governed still keeps its windows and permits, what is not is let go.

        Raises `RuleError`, and everything stays as it was, for a book that has on what `bar` has barred.
        """
        with self._lock:
            self._barred.check(book)
            self.book = book
            before, self._state = self._state, {}
            lines: dict[_Line, Chain] = {}
            for line, held in self._lines.items():
                chain = self._build(line, before)
                same = len(held) == len(chain) and all(map(operator.is_, held, chain))
                lines[line] = held if same else chain
            self._lines = lines
        self._changed()

    def _chain(self, line: _Line) -> Chain:
        chain = self._lines.get(line)
        if chain is not None:
            return chain
        with self._lock:
            if line not in self._lines and len(self._lines) >= NAMES:
                line = self._shared(line)
            chain, held = self._lines.get(line), len(self._state)
            if chain is None:
                chain = self._lines[line] = self._build(line, self._state)
            more = len(self._state) > held
        if more:
            self._changed()
        return chain

    def _changed(self) -> None:
        for listener in self._listeners:
            listener()

    def _shared(self, line: _Line) -> _Line:
        """Give a name for which there is no room the state of its entry, as if it were called like the pattern."""
        kind, target, _, pick = line
        found = self.book.find(kind, _name(line))
        pattern = "" if found is None else found.pattern
        return (kind, target, pattern, pick) if kind in ("call", "server") else (kind, pattern, "", pick)

    def _build(self, line: _Line, before: Mapping[_Key, object]) -> Chain:
        """Line up the policies of a name, each the one it had before where it had one."""
        kind, target, method, pick = line
        name = _name(line)
        found = self.book.find(kind, name)
        if found is None:
            return () if pick is None else (pick,)
        target = target or method

        def kept(policy: str) -> object | None:
            return self._kept(before, (kind, name, policy), target, found)

        chain: list[object] = []
        for policy in ORDERS[kind]:
            step = pick if policy == PICK else kept(policy)
            if step is None:
                continue
            if policy in SEAM:
                cast("Spender", step).budget = cast("Budget | None", kept(BUDGET))
            chain.append(step)
        return tuple(cast("list[Policy]", chain))

    def _kept(self, before: Mapping[_Key, object], key: _Key, target: str, found: Found) -> object | None:
        """Return the gate of a policy, made by its rule or taught it; None where the policy is off."""
        kind, name, policy = key
        rule = getattr(found.rules, policy)
        if rule is None:
            return None
        table = POLICIES[policy]
        if table.shared:
            name = _scope(kind, found.owners[policy], name, target)
            key = kind, name, policy
        state = self._state.get(key) or before.get(key)
        if state is None:
            state = table.make(
                rule,
                kind=kind,
                name=name,
                target=target,
                dice=self._dice,
                observers=self.observers,
                faults=self._faults,
                service=self._service,
            )
            cast("Ruled", state).policy = policy  # what its rejections are explained with
        else:
            ruled = cast("Ruled", state)
            if ruled.rule != rule:
                ruled.rule = rule
        self._state[key] = state
        return state


def _name(line: _Line) -> str:
    kind, target, method, _ = line
    return called(target, method) if kind == "call" else target or method


def _scope(kind: str, owner: str, name: str, target: str) -> str:
    """Say for what a shared policy counts: for all that its entry names, but never for two services, or two topics."""
    if kind == "server" or not owner.endswith("*"):
        return owner
    if kind == "call":
        return owner if "/" in owner else f"{target}/*"
    return name
