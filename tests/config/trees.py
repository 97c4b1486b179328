"""Trees to merge, drawn by hypothesis: few keys, so that layers meet."""

from __future__ import annotations

from collections.abc import Mapping

from hypothesis import strategies as st

from msgov.config.layers import Tree, Value

KEYS = st.sampled_from(["a", "b", "c", "d.e", "x y"])
LEAVES: st.SearchStrategy[Value] = st.one_of(
    st.integers(-3, 3), st.booleans(), st.sampled_from([0.0, 1.0, 1.5]), st.sampled_from(["", "1", "text"]),
    st.lists(st.one_of(st.integers(0, 2), st.booleans()), max_size=2),
)  # fmt: skip
TREES: st.SearchStrategy[Tree] = st.recursive(
    st.dictionaries(KEYS, LEAVES, max_size=3),
    lambda inner: st.dictionaries(KEYS, st.one_of(LEAVES, inner), max_size=3),
    max_leaves=8,
)


def without(tree: Mapping[str, Value], path: tuple[str, ...]) -> dict[str, Value]:
    """Copy a tree without what stands at a path."""
    copy = dict(tree)
    inner = copy.pop(path[0], None)
    if len(path) > 1 and isinstance(inner, Mapping):
        copy[path[0]] = without(inner, path[1:])
    return copy


def setting(tree: Mapping[str, Value], path: tuple[str, ...], value: Value) -> dict[str, Value]:
    """Copy a tree with a leaf set, making tables above it."""
    copy = dict(tree)
    inner = copy.get(path[0])
    if len(path) == 1:
        copy[path[0]] = value
    else:
        copy[path[0]] = setting(inner if isinstance(inner, Mapping) else {}, path[1:], value)
    return copy
