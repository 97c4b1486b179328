"""Prints one table of ratios per subject: `python -m benchmarks [part ...] [--rounds N]`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable

from benchmarks.harness import Figure

PARTS = ("pipeline", "resilience", "memory", "grpc", "asgi", "imports")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="part", help=", ".join(PARTS) + "; all of them by default")
    parser.add_argument("--rounds", type=int, default=15, help="rounds per case (15)")
    parser.add_argument("--quick", action="store_true", help="few rounds: for a look, not for a claim")
    options = parser.parse_args()
    parts = options.parts or PARTS
    unknown = set(parts) - set(PARTS)
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(PARTS)}")
    rounds = 5 if options.quick else options.rounds
    print(f"# Benchmarks\n\nPython {sys.version.split()[0]}, {rounds} rounds; ratios within this run are the result.")
    if "pipeline" in parts:
        from benchmarks import pipeline

        for subject, figures in pipeline.run(rounds).items():
            print_figures(subject, figures)
    if "resilience" in parts:
        from benchmarks import resilience

        for subject, figures in resilience.run(rounds).items():
            print_figures(subject, figures)
    if "memory" in parts:
        from benchmarks import limiter_memory

        limiter_memory.run(100_000)
    if "grpc" in parts:
        from benchmarks import grpc_echo

        grpc_echo.run(rounds)
    if "asgi" in parts:
        from benchmarks import asgi_echo

        asgi_echo.run(rounds)
    if "imports" in parts:
        from benchmarks import imports

        imports.run(rounds)


def print_figures(subject: str, figures: Iterable[Figure]) -> None:
    """Print nanoseconds and ratios; the first row is bare."""
    print(f"\n## {subject}\n\n| what | ns | x bare | spread |\n| --- | ---: | ---: | ---: |")
    for figure in figures:
        print(f"| {figure.name} | {figure.ns:,.0f} | {figure.ratio:.1f} | {figure.spread:.0%} |")


main()
