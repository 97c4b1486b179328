"""Sources are made from URLs, found by entry point; fixed trees and arguments are sources too."""

from __future__ import annotations

import importlib
import sys
import tomllib
from pathlib import Path

import pytest

from msgov import config
from msgov.config.source import ConfigSource, Fixed, command_line
from msgov.errors import RuleError


def test_arguments_set_keys() -> None:
    """The last word is the operator's."""
    assert command_line(["pay.timeout=2", 'call."order.placed".x=a=b', "on = true"]).now() == {
        "pay": {"timeout": 2},
        "call": {"order.placed": {"x": "a=b"}},
        "on": True,
    }


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["pay"], "pay.*key=value"),
        (["=1"], "parts joined by dots"),
        (["a=1", "a=2"], "command line a=2: a = 2: set only once"),
        (["a=1", "a.b=2"], "command line a.b=2: a.b = 2: not beneath a value"),
        (["a=nan"], "a = nan: a finite number"),
    ],
)
def test_wrong_argument_is_named(arguments: list[str], says: str) -> None:
    """And the program does not start with half of them."""
    with pytest.raises(RuleError, match=says):
        command_line(arguments)


def test_fixed_tree_is_held_to_the_rules_of_files() -> None:
    """Defaults in code that a copy on disk could not hold would fail at the worst time."""
    with pytest.raises(RuleError, match=r"defaults: a\.b = nan"):
        Fixed({"a": {"b": float("nan")}}, name="defaults")


@pytest.fixture
def stranger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Install a package of somebody else's, as pip would lay it out, and return its scheme."""
    (tmp_path / "stranger_config.py").write_text(
        "from msgov.config import ConfigSource\n"
        "class Vault(ConfigSource):\n"
        "    @classmethod\n"
        "    def from_url(cls, url):\n"
        "        made = cls(); made.name = url; return made\n"
        "    async def watch(self):\n"
        "        yield {}\n"
        "class Wrong:\n"
        "    from_url = classmethod(lambda cls, url: cls())\n"
    )
    info = tmp_path / "stranger_config-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: stranger-config\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[msgov.config]\nvault = stranger_config:Vault\nwrong = stranger_config:Wrong\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "stranger_config", raising=False)
    return "vault"


def test_a_strangers_backend_is_found_by_its_scheme(stranger: str) -> None:
    """Theirs and ours are found the same way."""
    source = config.open(f"{stranger}://secret/pay")
    assert isinstance(source, ConfigSource)
    assert source.name == "vault://secret/pay"


def test_backend_that_makes_something_else_is_refused(stranger: str) -> None:
    """Before its first use, with its name."""
    with pytest.raises(RuleError, match="stranger_config:Wrong makes a Wrong"):
        config.open("wrong:x")


def test_unknown_scheme_is_refused_with_the_known_ones(stranger: str) -> None:
    """A typing error in a URL is told as one."""
    with pytest.raises(RuleError, match=f"consl:.*: a URL whose scheme is one of .*{stranger}"):
        config.open("consl://127.0.0.1")


def test_our_backends_are_where_the_package_says() -> None:
    """An entry point that leads nowhere is noticed only when somebody needs it."""
    declared = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    points = declared["project"]["entry-points"]["msgov.config"]
    assert set(points) >= {"file", "env", "embedded"}
    for point in points.values():
        module, _, name = point.partition(":")
        assert issubclass(getattr(importlib.import_module(module), name), ConfigSource)
