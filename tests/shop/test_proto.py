"""The generated code is what the protos say, and runs under whatever name the package has."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import shop
from shop.pb import audit_pb2, inventory_pb2, money_pb2, order_pb2, payment_pb2, product_pb2, user_pb2

MODULES = (audit_pb2, inventory_pb2, money_pb2, order_pb2, payment_pb2, product_pb2, user_pb2)
SHOP = Path(shop.__file__).parent
READS, SAFE = 1, 2  # google.protobuf.MethodOptions.IdempotencyLevel


def test_every_file_and_symbol_is_the_shops_own() -> None:
    """Two libraries with one file name or symbol cannot live in one process."""
    for module in MODULES:
        assert module.DESCRIPTOR.name == f"shop/v1/{module.__name__.rpartition('.')[2].removesuffix('_pb2')}.proto"
        assert module.DESCRIPTOR.package == "shop.v1"


def test_every_method_says_whether_it_may_be_repeated() -> None:
    """A retry reads it there; only Register and LogIn make something new each time."""
    levels = {
        f"{service.name}.{method.name}": method.GetOptions().idempotency_level
        for module in MODULES
        for service in module.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }
    reads = {name for name, level in levels.items() if level == READS}
    assert reads == {
        "Audit.Entries",
        "Inventory.Levels",
        "Order.Find",
        "Payment.Find",
        "Product.Categories",
        "Product.List",
        "Product.Quote",
        "User.Verify",
    }
    assert {name for name, level in levels.items() if level not in (READS, SAFE)} == {"User.LogIn", "User.Register"}


@pytest.mark.process
def test_the_package_runs_under_another_name(tmp_path: Path) -> None:
    """It is copied as a template, and shipped under a name that clashes with nobody's `shop`."""
    shutil.copytree(SHOP, tmp_path / "my_shop", ignore=shutil.ignore_patterns("__pycache__"))
    names = sorted(
        ".".join(("my_shop", *path.relative_to(SHOP).with_suffix("").parts))
        for path in SHOP.rglob("*.py")
        if path.parent.name != "proto" and path.name != "__init__.py"
    )
    code = (
        f"import importlib, sys\nfor name in {names!r}: importlib.import_module(name)\nassert 'shop' not in sys.modules"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=tmp_path, check=True, timeout=60)


def test_generated_code_asks_for_no_newer_runtime_than_promised() -> None:
    """The floors of the package metadata are protobuf 5.29 and grpcio 1.71."""
    for path in (SHOP / "pb").glob("*_pb2.py"):
        assert "# Protobuf Python Version: 5.29.0" in path.read_text(encoding="utf-8")
    for path in (SHOP / "pb").glob("*_pb2_grpc.py"):
        assert "GRPC_GENERATED_VERSION = '1.71.2'" in path.read_text(encoding="utf-8")
