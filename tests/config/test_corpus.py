"""What hostile or careless hands put into a configuration (S20-S23) is refused with its place, or read as it looks."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import TypedDict

import pytest

from msgov.config.layers import Tree
from msgov.config.pump import recalled
from msgov.config.rules import RuleBook
from msgov.config.text import read
from msgov.config.typed import Typed
from msgov.errors import RuleError
from msgov.latest import DiskCopy

KINDS: dict[str, type[object]] = {"bool": bool, "int": int, "float": float, "str": str}


class Case(TypedDict, total=False):
    """One line of the corpus: text (repeated, between a prefix and a suffix), and what is to become of it."""

    ref: str
    name: str
    form: str
    text: str
    times: int
    prefix: str
    suffix: str
    refused: str
    tree: Tree
    kind: str
    bounds: dict[str, float]
    body: str
    cut: int
    swap: list[str]


CORPUS: list[Case] = json.loads(Path(__file__).with_name("corpus.json").read_text())


def cases(*forms: str) -> pytest.MarkDecorator:
    """Pick the cases of some forms."""
    chosen = [case for case in CORPUS if case["form"] in forms]
    return pytest.mark.parametrize("case", chosen, ids=[f"{c['ref']} {c['form']} {c['name']}" for c in chosen])


def parsed(case: Case, form: str) -> Tree:
    """Read the text of a case."""
    text = case.get("prefix", "") + case["text"] * case.get("times", 1) + case.get("suffix", "")
    return read(text.encode(), form, where="file")


@cases("toml", "yaml", "json")
def test_text_is_refused_with_its_place_or_read_as_it_looks(case: Case) -> None:
    """Soon, too: a megabyte or ten thousand brackets must not cost seconds."""
    began = time.process_time()
    if "refused" in case:
        with pytest.raises(RuleError) as refusal:
            parsed(case, case["form"])
        assert re.search(case["refused"], str(refusal.value)), str(refusal.value)
        assert refusal.value.where == "file"
    else:
        tree = parsed(case, case["form"])
        assert json.dumps(tree) == json.dumps(case["tree"])
    assert time.process_time() - began < 1.0


@cases("rules")
def test_rules_are_refused_with_path_value_and_range(case: Case) -> None:
    """Whoever wrote the file is told all that it takes to mend it."""
    with pytest.raises(RuleError) as refusal:
        RuleBook.of(parsed(case, "toml"), where="file")
    assert re.search(case["refused"], str(refusal.value)), str(refusal.value)
    assert refusal.value.where == "file"


@cases("value")
def test_values_are_refused_with_key_value_and_range(case: Case) -> None:
    """Nothing is converted from what merely looks like it."""
    typed = Typed(KINDS[case["kind"]], **case["bounds"])
    with pytest.raises(RuleError) as refusal:
        typed.read(parsed(case, "toml").get("key"), "key")
    assert re.search(case["refused"], str(refusal.value)), str(refusal.value)


@cases("copy")
def test_copies_are_whole_or_ignored(case: Case, tmp_path: Path) -> None:
    """A start from half a configuration would be worse than one without."""
    copy = DiskCopy(tmp_path / "copy")
    copy.save((case["body"] * case.get("times", 1)).encode())
    raw = copy.path.read_bytes()
    raw = raw[: max(0, len(raw) - case.get("cut", 0))]
    if "swap" in case:
        raw = raw.replace(case["swap"][0].encode(), case["swap"][1].encode())
    copy.path.write_bytes(raw)
    assert recalled(copy) == case.get("tree")
