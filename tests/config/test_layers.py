"""The merge is a function of the layers, and of nothing that was before."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msgov.config.layers import Change, Layers, Leaf, Said, Tree, Value, at, diff, leaves, path, shown, version
from msgov.errors import RuleError
from tests.config.trees import KEYS, TREES, setting, without

ORDER = ("defaults", "file", "centre", "env")


def test_higher_layer_wins_key_by_key() -> None:
    """Tables merge: a layer that sets one key leaves the others of the table as they are."""
    layers = Layers(("low", "high"), {"low": {"pay": {"timeout": 1, "tries": 3}}, "high": {"pay": {"timeout": 2}}})
    assert layers.merged == {"pay": {"timeout": 2, "tries": 3}}


def test_order_is_of_the_layers_not_of_the_changes() -> None:
    """The last source to change must not win (kratos 2065): precedence is by name."""
    layers = Layers(("low", "high")).having("high", {"a": 1}).having("low", {"a": 2})
    assert layers.merged == {"a": 1}


def test_deleted_key_uncovers_the_lower_layer() -> None:
    """Merging into the last merge would keep what is gone."""
    layers = Layers(("low", "high"), {"low": {"a": 1}, "high": {"a": 2, "b": 3}})
    assert layers.having("high", {}).merged == {"a": 1}


def test_layer_that_is_gone_takes_its_values_along() -> None:
    """As if it had never been."""
    layers = Layers(("low", "high"), {"low": {"a": 1}, "high": {"b": 2}})
    assert layers.without("high").merged == {"a": 1}


def test_list_is_replaced_whole() -> None:
    """Half of one list and half of another is what nobody wrote."""
    assert Layers(("low", "high"), {"low": {"a": [1, 2]}, "high": {"a": [3]}}).merged == {"a": [3]}


def test_leaf_over_table_hides_it_from_layers_above_too() -> None:
    """A table above a leaf begins anew: what the leaf replaced does not come back."""
    layers = Layers(("a", "b", "c"), {"a": {"k": {"x": 1}}, "b": {"k": 5}, "c": {"k": {"y": 2}}})
    assert layers.merged == {"k": {"y": 2}}


def test_merge_leaves_the_layers_as_they_were() -> None:
    """A merge that writes into a layer's own tables would be seen by the next one."""
    low: Tree = {"a": {"b": 1}}
    Layers(("low", "high"), {"low": low, "high": {"a": {"c": 2}}})
    assert low == {"a": {"b": 1}}


def test_unknown_layer_is_refused_by_name() -> None:
    """A layer that stands nowhere in the order would be dropped in silence."""
    with pytest.raises(RuleError, match="one of low, high"):
        Layers(("low", "high"), {"middle": {}})


def test_explain_names_the_winner_and_what_it_shadows() -> None:
    """Refresh received but value unchanged: that is answered by one look, nearest layer first."""
    layers = Layers(
        ORDER, {"defaults": {"pay": {"timeout": 1}}, "file": {"pay": {"timeout": 2}}, "env": {"pay": {"timeout": 3}}}
    )
    leaf = Leaf(("pay", "timeout"), 3, "env", (Said("file", 2), Said("defaults", 1)))
    assert layers.explain(("pay",)) == (leaf,)
    assert str(leaf) == "pay.timeout = 3  (env)  shadows 2 (file)  shadows 1 (defaults)"


def test_explain_shows_a_leaf_that_a_table_has_replaced() -> None:
    """It is why the key above it has no effect."""
    layers = Layers(ORDER, {"defaults": {"pay": {"timeout": 1}}, "file": {"pay": 5}, "env": {"pay": {"timeout": 3}}})
    (leaf,) = layers.explain(("pay", "timeout"))
    assert leaf.shadows == (Said("file", 5), Said("defaults", 1))


def test_explain_of_nothing_is_empty() -> None:
    """A key that no layer sets has no provenance."""
    assert Layers(ORDER, {"file": {"a": 1}}).explain(("b",)) == ()


@given(st.dictionaries(st.sampled_from(ORDER), TREES))
def test_winner_of_each_leaf_says_just_that(trees: dict[str, Tree]) -> None:
    """Provenance is only worth having if it is never wrong."""
    layers = Layers(ORDER, trees)
    for leaf in layers.explain(()):
        assert at(trees[leaf.layer], leaf.path) == leaf.value == at(layers.merged, leaf.path)
        assert layers.winner(leaf.path) == leaf.layer


@given(TREES, TREES)
def test_diff_leads_from_one_tree_to_the_other(old: Tree, new: Tree) -> None:
    """A listener that follows the changes holds what is in force, deletions included."""
    held = {path: value for path, value in leaves(old) if path}
    for change in diff(old, new):
        assert held.get(change.path) == change.old
        if change.new is None:
            del held[change.path]
        else:
            held[change.path] = change.new
    assert repr(sorted(held.items(), key=repr)) == repr(
        sorted(((path, value) for path, value in leaves(new) if path), key=repr)
    )


@pytest.mark.parametrize("pair", [(1, True), (1, 1.0), ("1", 1), ([1], [True]), (0, False)])
def test_diff_tells_types_apart(pair: tuple[Value, Value]) -> None:
    """What Python calls equal is not the same to who asked for an integer."""
    assert diff({"a": pair[0]}, {"a": pair[1]}) == (Change(("a",), *pair),)


@given(TREES)
def test_equal_trees_have_no_diff_and_one_version(tree: Tree) -> None:
    """The version is a name for the content: order of keys and process do not matter."""
    again = dict(reversed(list(tree.items())))
    assert diff(tree, again) == ()
    assert version(tree) == version(again)


@given(st.lists(KEYS | st.text(st.characters(codec="utf-8"), min_size=1), min_size=1))
def test_path_reads_what_shown_writes(parts: list[str]) -> None:
    """Keys hold dots, slashes, quotes and stars, and still go through one line of text."""
    assert path(shown(tuple(parts))) == tuple(parts)


def test_parts_with_a_slash_or_a_star_need_no_quotes() -> None:
    """Names of rules are typed often."""
    assert path('call.payment/Charge."order.placed".retry') == ("call", "payment/Charge", "order.placed", "retry")


@pytest.mark.parametrize("text", ["", ".", "a.", ".a", "a..b", "a b", 'a"b"', '"a', "a = 1", '"\\q"', "a\nb"])
def test_what_is_no_path_is_refused(text: str) -> None:
    """A typing error must not name another key."""
    with pytest.raises(RuleError):
        path(text)


@given(st.data())
def test_any_sequence_of_changes_equals_a_merge_from_nothing(data: st.DataObject) -> None:
    """The law of the layers: whatever came before, what counts is what each layer says now."""
    layers, trees = Layers(ORDER), dict[str, Tree]()
    for _ in range(data.draw(st.integers(1, 12))):
        name = data.draw(st.sampled_from(ORDER))
        kind = data.draw(st.sampled_from(["whole", "set", "delete", "drop"]))
        where = tuple(data.draw(st.lists(KEYS, min_size=1, max_size=3)))
        if kind == "drop":
            layers = layers.without(name)
            trees.pop(name, None)
            continue
        tree = trees.get(name, {})
        if kind == "whole":
            tree = data.draw(TREES)
        elif kind == "set":
            tree = setting(tree, where, data.draw(st.integers(0, 3)))
        else:
            tree = without(tree, where)
        trees[name] = tree
        layers = layers.having(name, tree)
    assert layers.merged == _from_nothing([trees[name] for name in ORDER if name in trees])


def _from_nothing(trees: list[Tree]) -> Tree:
    """Merge the plain way: ask from the top down, key by key."""
    merged: dict[str, Value] = {}
    for key in {key: None for tree in trees for key in tree}:
        said = [tree[key] for tree in trees if key in tree]
        top = said[-1]
        if not isinstance(top, dict):
            merged[key] = top
            continue
        tables: list[Tree] = []
        for value in reversed(said):
            if not isinstance(value, dict):
                break
            tables.insert(0, value)
        merged[key] = _from_nothing(tables)
    return merged
