"""Prints a table, a row a machine: `python -m benchmarks.mutate [machine ...]`; fails on a survivor without a reason.

Survivors that may survive stand in docs/reference/mutation.md, each with its reason. At least 90 % of a machine's
mutants must be noticed by its own tests. Two machines at a time; all of them take about ten minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/reference/mutation.md"
MACHINES: Mapping[str, Sequence[str]] = {  # the files that each is made of, without .py
    "breaker": ["resilience/breaker*"],
    "rolling": ["_rolling"],
    "budget": ["resilience/budget", "resilience/tokens"],
    "limiter": ["resilience/limiter*", "resilience/standing"],
    "bulkhead": ["resilience/bulkhead", "resilience/_line"],
    "retry": ["resilience/retry", "resilience/again"],
    "deadline": ["resilience/deadline"],
    "hedge": ["resilience/hedge", "resilience/quantile"],
    "throttle": ["resilience/throttle"],
    "adaptive": ["resilience/adaptive*"],
    "shed": ["resilience/shed*"],
    "fallback": ["resilience/fallback"],
    "cache": ["resilience/cache", "resilience/freshness", "resilience/sameness"],
}
NEEDED = 0.9  # of a machine's mutants, noticed


@dataclass(frozen=True)
class Row:
    """What became of one mutant."""

    file: str
    function: str
    was: str
    becomes: str
    line: int
    fate: str

    @property
    def key(self) -> tuple[str, ...]:
        """Name it by what it says: lines move."""
        return self.file, self.function, self.was, self.becomes


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mutate", description=__doc__)
    parser.add_argument("machines", nargs="*", metavar="machine", help=", ".join(MACHINES) + "; all by default")
    parser.add_argument("--only", default="", help="only mutants of functions and statements with this text in them")
    parser.add_argument("--quick", action="store_true", help="without the tests that start threads: for a first look")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        return _serve(options.one, options.only, options.out, quick=options.quick)
    unknown = set(options.machines) - set(MACHINES)
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(MACHINES)}")
    machines = options.machines or list(MACHINES)
    with ThreadPoolExecutor(2) as pool:
        found = dict(
            zip(
                machines, pool.map(lambda name: _mutate(name, options.only, quick=options.quick), machines), strict=True
            )
        )
    return _report(found, reasons(PAGE.read_text()) if PAGE.exists() else {})


def sources(machine: str) -> list[Path]:
    """Return the files that a machine is made of."""
    return sorted(path for each in MACHINES[machine] for path in (ROOT / "src/msgov").glob(f"{each}.py"))


def tests(machine: str) -> list[Path]:
    """Return the files that test it: they mirror the source; one asks of every policy the same."""
    stems = {machine, "every_policy", *(path.stem.lstrip("_") for path in sources(machine))}
    folder = ROOT / "tests/resilience"
    return sorted({path for stem in stems for name in (stem, f"{stem}_*") for path in folder.glob(f"test_{name}.py")})


def reasons(page: str) -> Mapping[tuple[str, ...], str]:
    """Read the survivors that may survive: rows of file, function, was, becomes, why."""
    found = {}
    for line in page.splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip())[1:-1]]
        if len(cells) == 5 and cells[0].endswith(".py"):
            *key, why = (cell.replace("\\|", "|").strip("`") for cell in cells)
            found[tuple(key)] = why
    return found


def _serve(machine: str, only: str, out: int, *, quick: bool) -> int:
    import pytest

    from benchmarks.mutate.operators import Mutant
    from benchmarks.mutate.server import Found, Server

    def tell(found: Found) -> None:
        mutant = found.mutant
        row = Row(found.file, mutant.function, mutant.was, mutant.becomes, mutant.line, found.fate)
        os.write(out, (json.dumps(asdict(row)) + "\n").encode())

    why = reasons(PAGE.read_text()) if PAGE.exists() else {}

    def known(file: str, mutant: Mutant) -> bool:
        return (file, mutant.function, mutant.was, mutant.becomes) in why

    modules = {".".join(path.relative_to(ROOT / "src").with_suffix("").parts): path for path in sources(machine)}
    options = ["-q", "-p", "no:randomly", "-o", "timeout=0", "-p", "no:cacheprovider", "--rootdir", str(ROOT)]
    return pytest.main([*options, *map(str, tests(machine))], plugins=[Server(modules, tell, known, only, quick)])


def _mutate(machine: str, only: str, *, quick: bool) -> Sequence[Row]:
    with tempfile.TemporaryFile() as found:  # not a pipe: nobody reads before the end
        out = found.fileno()
        one = [sys.executable, "-m", "benchmarks.mutate", "--one", machine, "--only", only, "--out", str(out)]
        one += ["--quick"] * quick
        ended = subprocess.run(one, cwd=ROOT, capture_output=True, text=True, pass_fds=[out], check=False)
        found.seek(0)
        rows = [Row(**json.loads(line)) for line in found]
    if ended.returncode:
        sys.exit(f"{machine}: pytest ended with {ended.returncode}\n{ended.stdout[-3000:]}{ended.stderr[-3000:]}")
    print(f"{machine}: {len(rows)} mutants", file=sys.stderr, flush=True)
    return rows


def _report(found: Mapping[str, Sequence[Row]], known: Mapping[tuple[str, ...], str]) -> int:
    print("| machine | mutants | noticed | by hanging | survivors | share |\n| --- | --: | --: | --: | --: | --: |")
    failed = False
    unknown: list[Row] = []
    for machine, rows in found.items():
        left = [row for row in rows if row.fate in ("survived", "unreached")]
        hung = sum(row.fate == "hung" for row in rows)
        share = 1 - len(left) / len(rows) if rows else 1.0
        print(f"| {machine} | {len(rows)} | {len(rows) - len(left)} | {hung} | {len(left)} | {share:.1%} |")
        failed |= share < NEEDED
        unknown += [row for row in left if not known.get(row.key)]
    if unknown:
        print(f"\n{len(unknown)} survivors without a reason in {PAGE.relative_to(ROOT)}:\n")
        for row in unknown:
            cells = (row.file, row.function, f"`{row.was}`", f"`{row.becomes}`")
            print("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + f" | | (line {row.line}, {row.fate})")
    rows = [row for each in found.values() for row in each]
    for key in known:
        if any(row.key == key and row.fate in ("killed", "hung") for row in rows):
            print(f"\nnoticed by now, its reason may go: {' | '.join(key)}")
    return 1 if failed or unknown else 0


if __name__ == "__main__":
    sys.exit(main())
