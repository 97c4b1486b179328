"""What is public changes on purpose only."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgov
from tests.surface import surface


def test_the_public_surface_is_the_one_written_down() -> None:
    """A name that comes, goes or changes its parameters is a decision: `python -m tests.surface` writes it down."""
    written = (Path(__file__).parent / "surface.txt").read_text().splitlines()
    found = surface()
    assert [name for name in found if name not in written] == []
    assert [name for name in written if name not in found] == []


def test_every_public_name_can_be_had() -> None:
    """The lazy package keeps its promises."""
    for name in msgov.__all__:
        assert getattr(msgov, name) is not None
    assert set(msgov.__all__) <= set(dir(msgov))
    assert msgov.__version__


def test_importing_msgov_imports_nothing_heavy() -> None:
    """A command line that only says its version must not load a broker client."""
    code = "import msgov, sys; print([m for m in ('grpc', 'structlog', 'pydantic', 'asyncio') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
