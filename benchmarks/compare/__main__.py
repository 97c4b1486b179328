"""Prints one table, a row a library: `python -m benchmarks.compare [library ...]`.

Each library runs in a process of its own, two at a time, by the wall clock and with 0.2 s to recover; one that wedges
its process is ended. With `--install` each is installed first, alone, so that one that does not install costs only its
own row; what to install stands in pyproject.toml, in the group "compare".
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path

from benchmarks.compare.breakers import LIBRARIES
from msgov.testing.breakers import TRIALS, battery

RECOVERY = 0.2  # seconds
LIMIT = 120  # seconds a library may take
PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare", description=__doc__)
    parser.add_argument("libraries", nargs="*", metavar="library", help=", ".join(LIBRARIES) + "; all by default")
    parser.add_argument("--install", action="store_true", help="install what is missing, into this environment")
    parser.add_argument("--one", metavar="library", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(dict(asyncio.run(battery(LIBRARIES[options.one], recovery=RECOVERY)))))
        return 0
    names = options.libraries or list(LIBRARIES)
    unknown = set(names) - set(LIBRARIES)
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(LIBRARIES)}")
    missing = install(names) if options.install else {}
    with ThreadPoolExecutor(2) as pool:
        found = dict(zip(names, pool.map(lambda name: missing.get(name) or put(name), names), strict=True))
    print(table(found))
    ours = found.get("msgov", {})
    return 0 if all(cell == "ok" for cell in ours.values()) else 1


def install(names: Sequence[str]) -> Mapping[str, Mapping[str, str]]:
    """Install each library alone; return the row of each that does not install."""
    wanted = tomllib.loads(PYPROJECT.read_text())["dependency-groups"]["compare"]
    requirements = {re.split(r"[^\w-]", each)[0]: each for each in wanted}
    rows = {}
    for name in names:
        if name not in requirements:
            continue
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        ended = subprocess.run([*pip, requirements[name]], capture_output=True, text=True, check=False)
        if ended.returncode:
            print(f"{name}: {ended.stderr.strip().splitlines()[-1]}", file=sys.stderr)
            rows[name] = dict.fromkeys(TRIALS, "does not install")
    return rows


def put(name: str) -> Mapping[str, str]:
    """Run the battery over a library in its own process."""
    one = [sys.executable, "-m", "benchmarks.compare", "--one", name]
    try:
        ended = subprocess.run(one, capture_output=True, text=True, timeout=LIMIT, check=False)
    except subprocess.TimeoutExpired:
        return dict.fromkeys(TRIALS, "wedges its process")
    if ended.returncode:
        why = (ended.stderr.strip().splitlines() or ["no word"])[-1]
        print(f"{name}: {why}", file=sys.stderr)
        return dict.fromkeys(TRIALS, "does not run")
    row: dict[str, str] = json.loads(ended.stdout.splitlines()[-1])
    if all(cell == "raises ModuleNotFoundError" for cell in row.values()):
        return dict.fromkeys(TRIALS, "not installed")
    return row


def table(found: Mapping[str, Mapping[str, str]]) -> str:
    """Draw it in Markdown, and say beneath which versions it is about."""
    lines = ["| breaker | " + " | ".join(TRIALS) + " |", "| --- |" + " --- |" * len(TRIALS)]
    lines += [f"| {name} | " + " | ".join(row[trial] for trial in TRIALS) + " |" for name, row in found.items()]
    versions = ", ".join(f"{name} {_version(name)}" for name in found if _version(name))
    return "\n".join([*lines, "", f"Python {sys.version.split()[0]}; {versions}."])


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


sys.exit(main())
