"""A change is taken whole or not at all, and what was refused is blamed on the layer that wrote it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msgov.config import adopt as module
from msgov.config.adopt import Adopted
from msgov.config.handle import Handle
from msgov.config.layers import Layers, Tree, Value, at, leaves, path, version
from msgov.config.typed import Typed
from msgov.errors import RuleError, SourceError
from tests.config.trees import TREES


def adopted(**trees: Tree) -> Adopted:
    """Make one with two layers, of which those given have spoken."""
    made = Adopted(("low", "high"), origin=lambda layer, where: f"{layer} {'.'.join(where)}")
    for name, tree in trees.items():
        made.hear(name, tree)
    made.adopt()
    return made


def handle(of: Adopted, key: str, typed: Typed[object]) -> Handle[object]:
    """Bind a handle of one key."""
    where = path(key)
    made: Handle[object] = Handle(key, (where,), lambda tree: typed.read(at(tree, where), key))
    of.bind(made)
    return made


def test_handle_follows_its_key() -> None:
    """The whole point: no copy to go stale."""
    config = adopted(low={"a": 1}, high={})
    live = handle(config, "a", Typed(int))
    config.hear("high", {"a": 2})
    config.adopt()
    assert live.value == 2


def test_nothing_is_in_force_before_the_decision() -> None:
    """Hearing is cheap and changes nothing."""
    config = adopted(low={"a": 1}, high={})
    live = handle(config, "a", Typed(int))
    config.hear("high", {"a": 2})
    assert (live.value, config.snapshot.tree) == (1, {"a": 1})


def test_one_wrong_value_refuses_the_whole_change() -> None:
    """Half a change is a configuration that nobody wrote."""
    config = adopted(low={"a": 1, "b": 1}, high={})
    a, b = handle(config, "a", Typed(int)), handle(config, "b", Typed(int))
    config.hear("low", {"a": 2, "b": "x"})
    adoption = config.adopt()
    assert (a.value, b.value, adoption.changes) == (1, 1, ())
    assert config.snapshot.tree == {"a": 1, "b": 1}


def test_refusal_names_key_value_range_and_source() -> None:
    """It is read by whoever pushed it, minutes later, somewhere else."""
    config = adopted(low={"a": 1}, high={})
    handle(config, "a", Typed(int, gt=0))
    config.hear("high", {"a": -1})
    error = config.adopt().refused["high"]
    assert (error.path, error.value, error.where) == ("a", -1, "high a")
    assert "> 0" in str(error)


def test_problems_of_two_sources_are_told_apart() -> None:
    """One message, two places to mend."""
    config = adopted(low={"a": 1, "b": 1}, high={})
    handle(config, "a", Typed(int))
    handle(config, "b", Typed(int))
    config.hear("low", {"a": "x", "b": 1})
    config.hear("high", {"b": "y"})
    refused = config.adopt().refused
    assert str(refused["low"]).count("\n") == 2
    assert "low a: a = 'x'" in str(refused["low"])
    assert "high b: b = 'y'" in str(refused["high"])


def test_only_the_layer_to_blame_is_refused() -> None:
    """A good change beside a bad one is taken."""
    config = adopted(low={"a": 1}, high={})
    a, b = handle(config, "a", Typed(int)), handle(config, "b", Typed(int, default=0))
    config.hear("low", {"a": "x"})
    config.hear("high", {"b": 5})
    adoption = config.adopt()
    assert (a.value, b.value, set(adoption.refused)) == (1, 5, {"low"})


def test_taking_away_what_is_required_is_refused() -> None:
    """The layer that took it is to blame, though it says nothing of it any more."""
    config = adopted(low={}, high={"a": 1})
    live = handle(config, "a", Typed(int))
    config.hear("low", {"z": 1})
    config.hear("high", {})
    adoption = config.adopt()
    assert (live.value, set(adoption.refused), config.snapshot.tree) == (1, {"high"}, {"a": 1, "z": 1})


def test_refused_layer_is_tried_again_beside_another() -> None:
    """It may have been wrong only together with what stood above it."""
    config = adopted(low={"a": 1}, high={})
    config.bind(Handle("sum", (("a",), ("b",)), _even))
    config.hear("low", {"a": 2})
    assert set(config.adopt().refused) == {"low"}
    config.hear("high", {"b": 1})
    assert set(config.adopt().refused) == {"high"}
    config.hear("high", {"b": 2})
    assert config.adopt().refused == {}
    assert (config.snapshot.tree, config.refused) == ({"a": 2, "b": 2}, {})


def _even(tree: Tree) -> object:
    total = sum(value for key in ("a", "b") if isinstance(value := at(tree, (key,)), int))
    if total in (2, 3):
        raise RuleError.at("a", total, "no such sum")
    return total


def test_the_same_refusal_is_told_once() -> None:
    """A bad push is one event, not one every time something else changes."""
    config = adopted(low={"a": 1}, high={})
    handle(config, "a", Typed(int))
    config.hear("low", {"a": "x"})
    assert set(config.adopt().refused) == {"low"}
    config.hear("high", {"z": 1})
    assert config.adopt().refused == {}
    assert set(config.refused) == {"low"}


def test_another_refusal_is_told_again() -> None:
    """Who pushes a second bad version hears of that one too."""
    config = adopted(low={"a": 1}, high={})
    handle(config, "a", Typed(int))
    for bad in ("x", "y"):
        config.hear("low", {"a": bad})
        assert f"a = '{bad}'" in str(config.adopt().refused["low"])


def test_mended_layer_is_refused_no_more() -> None:
    """Also when it is mended by going back to what is in force."""
    config = adopted(low={"a": 1}, high={})
    handle(config, "a", Typed(int))
    for mended in ({"a": 1}, {"a": 3}):
        config.hear("low", {"a": "x"})
        config.adopt()
        config.hear("low", mended)
        config.adopt()
        assert config.refused == {}


def test_unreadable_layer_keeps_its_last_good() -> None:
    """And is refused until it says something again."""
    config = adopted(low={"a": 1}, high={})
    config.refuse("low", RuleError.at("line 1", "", "TOML"))
    config.adopt()
    assert (config.snapshot.tree, set(config.refused)) == ({"a": 1}, {"low"})
    config.hear("low", {"a": 1})
    config.adopt()
    assert config.refused == {}


def test_handle_that_cannot_be_is_refused_where_it_is_made() -> None:
    """A service with a wrong value does not start."""
    config = adopted(low={"a": "x"}, high={})
    with pytest.raises(RuleError, match="low a: a = 'x'"):
        handle(config, "a", Typed(int))
    with pytest.raises(RuleError, match=r"b = .*required"):
        handle(config, "b", Typed(int))


def test_handle_waits_for_layers_that_have_not_spoken() -> None:
    """Modules make their handles before the loop runs."""
    config = adopted(low={})
    live = handle(config, "a", Typed(int))
    assert not live.known
    with pytest.raises(SourceError, match="a: nothing is known yet"):
        _ = live.value
    assert "required" in str(config.lacking())
    config.hear("high", {"a": 1})
    config.adopt()
    assert (live.value, config.lacking()) == (1, None)


def test_wrong_value_of_the_first_word_is_refused() -> None:
    """A handle that waits is asked about the first tree as about any other, once all have spoken."""
    config = adopted(low={})
    handle(config, "a", Typed(int))
    config.hear("high", {"a": "x"})
    assert set(config.adopt().refused) == {"high"}


def test_recalled_tree_stands_in_for_a_silent_layer() -> None:
    """The config centre is down, and was known yesterday."""
    config = adopted()
    live = handle(config, "a", Typed(int, default=0))
    config.recall({"high": {"a": 7}})
    config.hear("low", {"a": 1})
    changes = config.adopt(complete=True).changes
    assert (live.value, config.silent) == (7, ())
    assert [change.new for change in changes] == [7]


def test_recalled_tree_is_dropped_where_it_no_longer_fits() -> None:
    """The code has moved on since; the copy must not take the file down with it."""
    config = adopted()
    live = handle(config, "a", Typed(int, default=0))
    config.recall({"high": {"a": "x"}})
    config.hear("low", {"b": 1})
    config.adopt(complete=True)
    assert (live.value, config.snapshot.tree, config.silent) == (0, {"b": 1}, ("high",))


def test_recalled_tree_stands_in_for_a_poisoned_one() -> None:
    """The last good stays also over a restart, while the poison persists."""
    config = adopted()
    live = handle(config, "a", Typed(int))
    config.recall({"high": {"a": 7}})
    config.hear("low", {})
    config.hear("high", {"a": "x"})
    config.adopt(complete=True)
    assert (live.value, set(config.refused)) == (7, {"high"})


def test_what_a_layer_says_goes_before_its_copy() -> None:
    """Yesterday's word is for silence only."""
    config = adopted()
    config.recall({"high": {"a": 7}})
    config.hear("high", {"a": 8})
    config.hear("low", {})
    config.adopt(complete=True)
    assert config.snapshot.tree == {"a": 8}


def test_listeners_hear_of_their_key_and_what_lies_beneath() -> None:
    """Old and new, also when it comes or goes; nothing of other keys."""
    config = adopted(low={"pay": {"timeout": 1}}, high={})
    heard: list[tuple[str, object, object]] = []
    for key in ("pay.timeout", "pay", "other"):
        config.listen(path(key), lambda old, new, key=key: heard.append((key, old, new)))  # type: ignore[misc]
    config.hear("high", {"pay": {"timeout": 2}})
    config.adopt()
    config.hear("low", {})
    config.hear("high", {})
    config.adopt()
    assert heard == [
        ("pay.timeout", 1, 2),
        ("pay", {"timeout": 1}, {"timeout": 2}),
        ("pay.timeout", 2, None),
        ("pay", {"timeout": 2}, None),
    ]


def test_listener_that_ended_hears_nothing() -> None:
    """Whoever closed a pool must not be asked to open it again."""
    config = adopted(low={"a": 1}, high={})
    heard: list[object] = []
    config.listen(("a",), lambda old, new: heard.append(new))()
    live = handle(config, "a", Typed(int))
    live.listen(lambda old, new: heard.append(new))()
    config.hear("low", {"a": 2})
    config.adopt()
    assert heard == []


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_listener_that_raises_stops_nobody() -> None:
    """The change is in force; the others are told."""
    config = adopted(low={"a": 1}, high={})
    live = handle(config, "a", Typed(int))
    heard: list[tuple[object, object]] = []
    live.listen(lambda old, new: 1 / 0)
    live.listen(lambda old, new: heard.append((old, new)))
    config.hear("low", {"a": 2})
    config.adopt()
    assert heard == [(1, 2)]


def test_handle_of_an_unrelated_key_is_not_asked() -> None:
    """One changed key among ten thousand is one question."""
    config = adopted(low={"a": 1, "b": 1}, high={})
    asked: list[Tree] = []

    def read(tree: Tree) -> int:
        asked.append(tree)
        return 0

    config.bind(Handle("b", (("b",),), read))
    config.hear("low", {"a": 2, "b": 1})
    config.adopt()
    assert len(asked) == 1


def test_handles_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who makes one per client is told before memory is."""
    monkeypatch.setattr(module, "HANDLES", 2)
    config = adopted(low={}, high={})
    for name in "ab":
        handle(config, name, Typed(int, default=0))
    with pytest.raises(RuleError, match="keys come from code"):
        handle(config, "c", Typed(int, default=0))


KEYS = ("a", "b", "c")


@given(st.lists(st.tuples(st.sampled_from(["low", "high"]), TREES), max_size=8))
def test_whatever_comes_in_what_is_in_force_is_a_merge_from_nothing(heard: list[tuple[str, Tree]]) -> None:
    """Handles, listeners, version and tree agree, and each layer in force is one that the layer said."""
    config = adopted(low={}, high={})
    lives = {key: handle(config, key, Typed(int, default=-9)) for key in KEYS}
    held: dict[tuple[str, ...], Value] = {}
    followed: dict[str, Value | None] = dict.fromkeys(KEYS)
    for key in KEYS:
        config.listen((key,), lambda old, new, key=key: followed.update({key: new}))  # type: ignore[misc]
    said: dict[str, list[Tree]] = {"low": [{}], "high": [{}]}
    for layer, tree in heard:
        said[layer].append(tree)
        config.hear(layer, tree)
        for change in config.adopt().changes:
            held.pop(change.path, None)
            if change.new is not None:
                held[change.path] = change.new
    tree = config.snapshot.tree
    assert tree == Layers(("low", "high"), config.layers.trees).merged
    assert all(config.layers.trees[layer] in said[layer] for layer in said)
    assert config.snapshot.version == version(tree)
    assert repr(sorted(held.items(), key=repr)) == repr(
        sorted(((path, leaf) for path, leaf in leaves(tree) if path), key=repr)
    )
    for key, live in lives.items():
        value = at(tree, (key,))
        assert live.value == (-9 if value is None else value)
        assert followed[key] == value
