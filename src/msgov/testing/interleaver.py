"""Threads take turns line by line in an order drawn from a seed, so that a race happens, and happens again.

Under the GIL a lost update of two lines is not met in millions of tries: no switch falls between them. Here exactly one
thread runs at a time, and before every line of the watched code the seed decides whose turn is next.
"""

from __future__ import annotations

import functools
import inspect
import random
import threading
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from pathlib import Path
from types import CodeType, ModuleType

from msgov.errors import RuleError
from msgov.testing._number import positive
from msgov.testing._stage import Stage
from msgov.testing.loop import Deadlock

Act = Callable[[], object]
Watch = ModuleType | Callable[..., object]


def outcomes(
    make: Callable[[], tuple[Sequence[Act], Callable[[], Hashable]]],
    *,
    seeds: Iterable[int] = range(50),
    watch: Sequence[Watch] = (),
    patience: float = 5.0,
) -> Counter[Hashable]:
    """Run a race once per seed, and count what came of it.

    `make` sets a fresh scene and returns the functions that race, and one that tells the outcome when all are done: an
    outcome that no order of whole calls could give is a race. Fifty seeds, the default, find most races that need one
    or two unlucky switches. All else is as `interleave` has it; an error of the outcome function gets the seed as a
    note too, so that it may well be an `assert`.
    """
    found: Counter[Hashable] = Counter()
    for seed in seeds:
        acts, outcome = make()
        interleave(*acts, seed=seed, watch=watch, patience=patience)
        try:
            found[outcome()] += 1
        except BaseException as error:
            error.add_note(f"interleaver: seed {seed}")
            raise
    return found


def interleave(*acts: Act, seed: int, watch: Sequence[Watch] = (), patience: float = 5.0) -> list[object]:
    """Run the functions at once, each in its own thread, in the one order that `seed` stands for; return their results.

    Switches fall only before lines of what is watched: modules, packages with all that is in them, or single functions.
    By default that is the files in which the functions themselves were written, so name the module under test when
    they are lambdas of the test. A line is one step, so `n += 1` never loses an update here: write it in two to ask
    whether it could. A thread that waits for a lock, or for anything else, is found asleep and passed over until it
    wakes, so locked code runs as it does in life; waits by the clock are real, and make a run slower and less sure to
    be the same each time.

    Raises what the first function that failed raised, with the seed as a note, and `Deadlock` when all threads that are
    left wait for each other, or one has not reached its next line, for `patience` real seconds. Threads that are
    deadlocked cannot be ended: they stay until the process ends.
    """
    if not acts:
        raise RuleError.at("interleave: acts", acts, "at least one function")
    patience = positive("interleave: patience", patience)
    order = random.Random(seed)  # noqa: S311  an order, no secret
    stage = Stage(acts, _watcher(watch or [inspect.getmodule(_code(act)) or act for act in acts]))
    try:
        for player in stage.players:
            player.thread.start()
        while ready := stage.settle(patience):
            order.choice(ready).go()
    except TimeoutError as error:
        patience = 0.0
        raise Deadlock(f"seed {seed}: no thread reached its next line: {error}") from None
    finally:
        stage.close(patience)
    for index, player in enumerate(stage.players):
        if player.error is not None:
            player.error.add_note(f"interleaver: seed {seed}, function {index}")
            raise player.error
    return [player.result for player in stage.players]


def _watcher(watch: Sequence[Watch]) -> Callable[[CodeType], bool]:
    """Return a test for code that is watched."""
    files: set[str] = set()
    folders: list[str] = []
    # Of several threads woken by one notify_all, too, the seed decides which goes first.
    codes = {threading.Condition.wait.__code__}
    for what in watch:
        if not isinstance(what, ModuleType):
            codes |= _nested(_code(what))
        elif hasattr(what, "__path__"):
            folders += [f"{Path(folder)}/" for folder in what.__path__]
        else:
            files.add(str(what.__file__))

    @functools.cache
    def watched(code: CodeType) -> bool:
        return code in codes or code.co_filename in files or code.co_filename.startswith(tuple(folders))

    return watched


def _nested(code: CodeType) -> set[CodeType]:
    inner = (_nested(each) for each in code.co_consts if isinstance(each, CodeType))
    return {code}.union(*inner)


def _code(function: Callable[..., object]) -> CodeType:
    """Find what will run: of a partial, a bound method, a decorated function or an object that can be called."""
    inner = function
    while isinstance(inner, functools.partial):
        inner = inner.func
    inner = inspect.unwrap(getattr(inner, "__func__", inner))
    code = getattr(inner, "__code__", None) or getattr(type(inner).__call__, "__code__", None)
    if not isinstance(code, CodeType):
        raise RuleError.at(
            "interleave: function", function, "written in Python, for only lines of Python can be watched"
        )
    return code
