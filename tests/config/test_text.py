"""Files become trees, and every mistake in one is told at once."""

from __future__ import annotations

import json

import pytest
from hypothesis import given

from msgov.config.layers import Tree
from msgov.config.text import LIMIT, read, vet
from msgov.errors import RuleError
from tests.config.trees import TREES


def test_every_problem_is_told_at_once() -> None:
    """Mending a file one error a restart is a morning lost."""
    with pytest.raises(RuleError) as refusal:
        read(b'{"a": null, "b": {"c": 1e999, "..": 1}, "d": [1, null]}', "json", where="f.json")
    assert [problem.path for problem in refusal.value.problems] == ["a", "b.c", 'b.".."', "d.1"]


def test_file_of_just_the_limit_is_read() -> None:
    """The limit is where it is said to be."""
    body = b'{"a": "' + b"x" * (LIMIT - 9) + b'"}'
    assert len(body) == LIMIT
    assert len(str(read(body, "json", where="f")["a"])) == LIMIT - 9
    with pytest.raises(RuleError, match="at most 65536 bytes"):
        read(body + b" ", "json", where="f")


def test_bytes_that_are_no_text_are_refused_by_line() -> None:
    """Latin-1 by mistake is found by its line."""
    with pytest.raises(RuleError, match=r"line 2 = .*UTF-8"):
        read(b"a = 1\nb = '\xe9'\n", "toml", where="f.toml")


def test_refusal_never_shows_the_line() -> None:
    """The line that cannot be parsed may be the one with the password."""
    for form, text in (("toml", 'password = "hunter2\n'), ("yaml", 'password: "hunter2\n'), ("json", '{"p": "hunter2')):
        with pytest.raises(RuleError) as refusal:
            read(text.encode(), form, where="f")
        assert "hunter2" not in str(refusal.value)


def test_long_text_full_of_dots_is_no_deep_key() -> None:
    """The guard against deep keys looks at keys."""
    text = "a = '" + "1." * 60 + "'\nb = [" + "1.0, " * 50 + "]\n"
    assert len(str(read(text.encode(), "toml", where="f")["a"])) == 120


def test_depth_of_just_the_limit_is_read() -> None:
    """Thirty-two tables within tables are allowed in every form."""
    deep = '{"a":' * 32 + "1" + "}" * 32
    assert read(deep.encode(), "json", where="f") == read(deep.encode(), "yaml", where="f")
    assert read((".".join("a" * 32) + " = 1").encode(), "toml", where="f") == json.loads(deep)


@given(TREES)
def test_a_tree_read_back_from_json_and_yaml_is_the_same(tree: Tree) -> None:
    """JSON is YAML too, by these rules: one file under two names means one thing."""
    body = json.dumps(tree).encode()
    assert json.dumps(read(body, "json", where="f")) == json.dumps(tree)
    assert json.dumps(read(body, "yaml", where="f")) == json.dumps(tree)


def test_what_is_no_plain_value_is_refused_in_python_too() -> None:
    """Defaults come from code, where a set or an object may slip in."""
    with pytest.raises(RuleError, match="text, a number"):
        vet({"a": {1, 2}}, where="defaults")
