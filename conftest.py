"""What the documentation shows is run: every Python block of a page, in order, in one namespace."""

from __future__ import annotations

import pytest
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser

pytest_collect_file = Sybil(
    parsers=[PythonCodeBlockParser(), SkipParser()],
    patterns=["README.md", "CONTRIBUTING.md", "docs/*.md", "docs/**/*.md"],
).pytest()


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark what comes from a page."""
    if item.path.suffix == ".md":
        item.add_marker(pytest.mark.docs)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the blocks of a page in their order, however the rest is shuffled: each builds on those above it."""
    pages = [item for item in items if item.path.suffix == ".md"]
    others = [item for item in items if item.path.suffix != ".md"]
    items[:] = others + sorted(pages, key=lambda item: (str(item.path), item.reportinfo()[1] or 0))
