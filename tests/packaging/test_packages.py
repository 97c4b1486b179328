"""Wheel and sdist carry the shop, and run it outside of any checkout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def build(source: Path, kind: str, out: Path) -> Path:
    """Build one package without asking the network."""
    command = [sys.executable, "-m", "build", f"--{kind}", "--no-isolation", "--outdir", str(out), str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (made,) = out.iterdir()
    return made


def demo(site: Path, where: Path) -> dict[str, object]:
    """Run the shop from an unpacked wheel, from a folder with a space in its name."""
    where.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(site), "TMPDIR": str(where)}
    code = (
        "import msgov, sys; assert msgov.__file__.startswith(sys.argv.pop(1)), msgov.__file__;"
        " from msgov.cli import main; main()"
    )
    command = [sys.executable, "-c", code, str(site), "demo", "--together", "--seconds", "2", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=where, timeout=90)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert isinstance(found, dict)
    return found


@pytest.mark.process
@pytest.mark.slow
def test_the_wheel_runs_the_shop(tmp_path: Path) -> None:
    """`pip install msgov[demo]` and `msgov demo` need no checkout; the wheel of the sdist is the same."""
    sdist = build(ROOT, "sdist", tmp_path / "sdist")
    with tarfile.open(sdist) as packed:
        packed.extractall(tmp_path / "unpacked", filter="data")
    (source,) = (tmp_path / "unpacked").iterdir()
    wheel = build(source, "wheel", tmp_path / "wheel")
    site = tmp_path / "site with space"
    with zipfile.ZipFile(wheel) as packed_wheel:
        names = packed_wheel.namelist()
        packed_wheel.extractall(site)
    assert "msgov/py.typed" in names
    assert any(name.startswith("msgov/_examples/shop/") for name in names)
    assert not any("__pycache__" in name or name.startswith("tests/") for name in names)
    found = demo(site, tmp_path / "some where")
    assert found["laws"] == dict.fromkeys(("L1", "L2", "L3", "L4", "L5"), True)
