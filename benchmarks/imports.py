"""How long importing takes, over bare Python: a command line and a test pay it each time."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

MODULES = (
    "msgov",
    "msgov.resilience",
    "msgov.service",
    "msgov.service.grpc",
    "grpc",
    "pydantic",
    "structlog",
    "tenacity",
    "pybreaker",
)


def run(rounds: int) -> None:
    print("\n## Import time over bare Python\n\n| what | ms |\n| --- | ---: |")
    for module in MODULES:
        times = [_once(f"import {module}") - _once("pass") for _ in range(rounds)]
        print(f"| `import {module}` | {statistics.median(times) * 1000:.0f} |")


def _once(code: str) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.perf_counter() - began
