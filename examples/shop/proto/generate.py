"""Make `pb/` of `proto/`, always with the same old compiler.

Generated code runs with the protobuf it was made for and every newer one, so the compiler is held back on purpose:
grpcio-tools 1.71.2 writes code for protobuf 5.29 and grpcio 1.71.2. It gets an environment of its own, because it
cannot share one with today's protobuf.

    python examples/shop/proto/generate.py            writes examples/shop/pb
    python examples/shop/proto/generate.py --check    exits 1 when pb is not what the protos say
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

TOOLS = "grpcio-tools==1.71.2"
PROTO = Path(__file__).resolve().parent
PB = PROTO.parent / "pb"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "msgov" / TOOLS.replace("==", "-")

HEADS = {
    "_pb2.py": "# ruff: noqa\n# mypy: ignore-errors\n",
    "_pb2_grpc.py": "# ruff: noqa\n# mypy: ignore-errors\n",
    "_pb2.pyi": "# ruff: noqa\n# mypy: disable-error-code=type-arg\n",
}
METHOD = re.compile(
    r"self\.(\w+) = channel\.unary_unary\(\s+'[^']+',\s+"
    r"request_serializer=\w+__pb2\.(\w+)\.SerializeToString,\s+response_deserializer=\w+__pb2\.(\w+)\.FromString"
)


def compiler(cache: Path) -> Path:
    """Return the Python that has the compiler; installs it on first use."""
    python = cache / "bin" / "python"
    ready = cache / "ready"
    if not ready.exists():
        shutil.rmtree(cache, ignore_errors=True)
        venv.create(cache, with_pip=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", TOOLS]
        subprocess.run(pip, check=True)  # noqa: S603  nothing here comes from outside
        ready.touch()
    return python


def types_of(stem: str, code: str) -> str:
    """Write the types of a `_pb2_grpc` module, which the old compiler leaves out."""
    service = re.search(r"^class (\w+)Stub\(", code, re.MULTILINE)
    if service is None:
        raise SystemExit(f"{stem}.proto: no service found")
    name, methods = service[1], METHOD.findall(code)
    if len(methods) != code.count("request_serializer="):
        raise SystemExit(f"{stem}.proto: only unary methods are known here")
    lines = [
        "# ruff: noqa",
        f'"""The types of {stem}_pb2_grpc, for grpc.aio."""',
        "from collections.abc import Awaitable, Sequence",
        "",
        "import grpc.aio",
        "",
        f"from . import {stem}_pb2 as pb",
        "",
        f"class {name}Stub:",
        "    def __init__(self, channel: grpc.aio.Channel) -> None: ...",
    ]
    for method, asks, gives in methods:
        lines += [
            f"    def {method}(",
            f"        self, request: pb.{asks}, *, timeout: float | None = ...,",
            "        metadata: Sequence[tuple[str, str | bytes]] | None = ...,",
            f"    ) -> Awaitable[pb.{gives}]: ...",
        ]
    lines += ["", f"class {name}Servicer:"]
    for method, asks, gives in methods:
        lines += [
            f"    async def {method}(",
            f"        self, request: pb.{asks}, context: grpc.aio.ServicerContext[pb.{asks}, pb.{gives}]",
            f"    ) -> pb.{gives}: ...",
        ]
    lines += ["", f"def add_{name}Servicer_to_server(", f"    servicer: {name}Servicer, server: grpc.aio.Server"]
    lines += [") -> None: ...", ""]
    return "\n".join(lines)


def own(text: str) -> str:
    """Let a generated module find its neighbours whatever the package round it is called."""
    text = re.sub(r"^from shop\.v1 import (\w+) as", r"from . import \1 as", text, flags=re.MULTILINE)
    return re.sub(r"(BuildTopDescriptorsAndMessages\(DESCRIPTOR, )'[^']+'", r"\1__name__", text)


def generate(python: Path) -> dict[str, str]:
    """Compile every proto; file name to text."""
    protos = sorted(str(path.relative_to(PROTO)) for path in PROTO.glob("shop/v1/*.proto"))
    files = {"__init__.py": '"""What the protos say, generated: see proto/generate.py."""\n'}
    with tempfile.TemporaryDirectory() as out:
        command = [str(python), "-m", "grpc_tools.protoc", "-I.", f"--python_out={out}", f"--pyi_out={out}"]
        command += [f"--grpc_python_out={out}", *protos]
        subprocess.run(command, check=True, cwd=PROTO)  # noqa: S603  nothing here comes from outside
        for path in sorted(Path(out).glob("shop/v1/*.py*")):
            text = path.read_text(encoding="utf-8")
            if path.name.endswith("_pb2_grpc.py"):
                if "channel.unary_unary(" not in text:
                    continue  # a file of messages only
                stem = path.name.removesuffix("_pb2_grpc.py")
                files[f"{path.name}i"] = types_of(stem, text)
            head = next(head for end, head in HEADS.items() if path.name.endswith(end))
            files[path.name] = head + own(text)
    return files


def main() -> int:
    """Write `pb/`, or compare it."""
    parser = argparse.ArgumentParser(description="generate examples/shop/pb from examples/shop/proto")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when pb is stale")
    parser.add_argument("--cache", type=Path, default=CACHE, help=f"where the compiler lives (default {CACHE})")
    asked = parser.parse_args()
    files = generate(compiler(asked.cache))
    there = {path.name: path.read_text(encoding="utf-8") for path in PB.glob("*.py*")}
    if asked.check:
        stale = sorted(name for name in files.keys() | there.keys() if files.get(name) != there.get(name))
        if stale:
            sys.stderr.write(f"stale: {', '.join(stale)}: run {Path(__file__).name}\n")
        return 1 if stale else 0
    PB.mkdir(exist_ok=True)
    for name in there.keys() - files.keys():
        (PB / name).unlink()
    for name, text in files.items():
        (PB / name).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
