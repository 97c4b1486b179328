"""The matrix of the documentation claims nothing that no test shows."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "reference" / "matrix.md"
ROW = re.compile(r"\| (\d+) \|.*\| \*\*([YPN])\*\* \|(.*)\|$", re.MULTILINE)
LINK = re.compile(r"\[(test_\w+)\]\(\.\./\.\./(tests/[\w/]+\.py)\)")
ROWS = [(int(number), mark, tests) for number, mark, tests in ROW.findall(PAGE.read_text())]


@cache
def functions(path: str) -> frozenset[str]:
    """Name the tests of a file, without importing it."""
    tree = ast.parse((ROOT / path).read_text())
    return frozenset(each.name for each in ast.walk(tree) if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef))


def test_every_row_of_the_field_is_there_once() -> None:
    """A row that we cannot fill is not left out."""
    assert [number for number, _, _ in ROWS] == list(range(1, 70))


@pytest.mark.parametrize(("number", "mark", "tests"), ROWS, ids=[f"row {number}" for number, _, _ in ROWS])
def test_what_is_claimed_is_tested(number: int, mark: str, tests: str) -> None:
    """Each Y and P names tests that exist; what has none is an N."""
    links = LINK.findall(tests)
    assert bool(links) == (mark != "N")
    assert len(links) == tests.count("](")
    for name, path in links:
        assert name in functions(path), f"row {number}: {path} has no {name}"


def test_what_is_not_a_yes_is_explained() -> None:
    """P and N say what stands and what does not."""
    _, _, text = PAGE.read_text().partition("## Where ours is not Y")
    explained: set[int] = set()
    for first, last in re.findall(r"^\| (\d+)(?:-(\d+))? \|", text, re.MULTILINE):
        explained |= set(range(int(first), int(last or first) + 1))
    assert explained == {number for number, mark, _ in ROWS if mark != "Y"}
