"""A URL's scheme names the backend, ours or a stranger's."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from msgov import discovery
from msgov.discovery.embedded import Embedded
from msgov.discovery.memory import Memory
from msgov.discovery.static import Static
from msgov.errors import RuleError


@pytest.fixture
def _installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install a package beside ours that brings backends of its own, as pip would."""
    info = tmp_path / "strange-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: strange\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[msgov.discovery]\nstatic = msgov.discovery.static:Static\nmemory = msgov.discovery.memory:Memory\n"
        "embedded = msgov.discovery.embedded:Embedded\nstrange = strange_backend:Strange\n"
        "wrong = strange_backend:Wrong\n"
    )
    (tmp_path / "strange_backend.py").write_text(
        "from msgov.discovery.static import Static\n"
        "class Strange(Static):\n"
        "    @classmethod\n"
        "    def from_url(cls, url): return cls([url.removeprefix('strange://')])\n"
        "class Wrong:\n"
        "    @classmethod\n"
        "    def from_url(cls, url): return cls()\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "strange_backend", raising=False)


@pytest.mark.usefixtures("_installed")
def test_scheme_names_the_backend(tmp_path: Path) -> None:
    """Moving to another registry is changing one URL."""
    assert isinstance(discovery.open("static:a:1"), Static)
    assert isinstance(discovery.open("memory:"), Memory)
    assert isinstance(discovery.open(f"embedded:{tmp_path}/r.db"), Embedded)
    assert not (tmp_path / "r.db").exists()  # nothing is opened yet


@pytest.mark.usefixtures("_installed")
def test_strangers_backend_is_found_the_same_way() -> None:
    """Thirty lines and an entry point."""
    assert type(discovery.open("strange://a:1")).__name__ == "Strange"


@pytest.mark.usefixtures("_installed")
@pytest.mark.parametrize("url", ["zookeeper://a", "", "static", "order.db"])
def test_unknown_scheme_lists_the_known_ones(url: str) -> None:
    """A typo must be plain at the first start."""
    with pytest.raises(RuleError, match="embedded, memory, static, strange, wrong"):
        discovery.open(url)


@pytest.mark.usefixtures("_installed")
def test_what_is_no_backend_is_refused() -> None:
    """The mistake is in the package that named it, so it is named."""
    with pytest.raises(RuleError, match="strange_backend:Wrong makes a Wrong"):
        discovery.open("wrong:x")


def test_embedded_needs_a_path() -> None:
    """A registry without a name would be shared with nobody."""
    with pytest.raises(RuleError, match="embedded:path"):
        Embedded.from_url("embedded:")
    with pytest.raises(RuleError, match="ttl"):
        Embedded("x.db", ttl=0.1)
