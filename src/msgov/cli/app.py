"""The commands and their options; what they do stands elsewhere."""

from __future__ import annotations

import math
import signal
import sys
from json import dumps as dump
from pathlib import Path
from typing import Annotated, NoReturn

import msgov
from msgov.cli import rules, shop
from msgov.config.findings import Traffic
from msgov.errors import MissingExtra, MsgovError

try:
    import typer
except ModuleNotFoundError as missing:
    raise MissingExtra(missing.name or "typer", extra="cli") from missing

app = typer.Typer(
    name="msgov",
    help="Microservice governance: see it at work, and look at the rules in force.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _version(asked: bool) -> None:
    if asked:
        print(f"msgov {msgov.__version__}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say which version this is.")
    ] = False,
) -> None:
    """Hold what all commands have in common."""


@app.command()
def demo(
    together: Annotated[bool, typer.Option("--together", help="All services in one process, calls in memory.")] = False,
    seconds: Annotated[float, typer.Option(min=1, max=86_400, help="How long shoppers come.")] = 20.0,
    rate: Annotated[float, typer.Option(min=0.1, max=1000, help="Orders a second.")] = 20.0,
    scenario: Annotated[str, typer.Option(help="What happens meanwhile: calm, payment-slow.")] = "calm",
    keep: Annotated[bool, typer.Option("--keep", help="Leave the shop open afterwards, until Ctrl-C.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Run a shop of seven governed services, send it shoppers, and check its books.

    Ends with 0 if every law of the books holds, with 1 if not.
    """
    for name, value in (("--seconds", seconds), ("--rate", rate)):
        if not math.isfinite(value):
            raise typer.BadParameter(f"{value} is no number of this world", param_hint=name)
    stage = shop.stage()
    if scenario not in stage.SCENARIOS:
        known = ", ".join(stage.SCENARIOS)
        raise typer.BadParameter(f"{scenario!r} is not known; known: {known}", param_hint="--scenario")
    if together and scenario not in stage.ANYWHERE:
        told = f"{scenario!r} is about calls between processes: leave out --together"
        raise typer.BadParameter(told, param_hint="--scenario")
    options = stage.Options(
        together=together, seconds=seconds, rate=rate, scenario=scenario, keep=keep, json=json
    )  # fmt: skip
    code = stage.run(options)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # all is put away: a late Ctrl-C has nothing left to end
    raise typer.Exit(code)


@app.command()
def explain(
    key: Annotated[str, typer.Argument(help='What to explain: call."payment/Charge"; all when left out.')] = "",
    config: Annotated[Path | None, typer.Option("--config", help="A rules-and-settings file.")] = None,
) -> None:
    """Print rules and settings in force, each with the layer that set it, and the order in which a call meets them."""
    try:
        lines = rules.explained(config, key)
    except MsgovError as error:
        _fail(error)
    if not lines:
        _fail(f"nothing is set at {key}")
    print("\n".join(lines))


@app.command()
def check(file: Annotated[Path, typer.Argument(help="A rules-and-settings file: TOML, YAML or JSON.")]) -> None:
    """Check a rules file; end with 1, and say what is wrong where, when it cannot be used."""
    try:
        print(rules.checked(file))
    except MsgovError as error:
        _fail(error)


@app.command()
def lint(
    file: Annotated[Path, typer.Argument(help="A rules-and-settings file: TOML, YAML or JSON.")],
    calls_per_second: Annotated[
        float | None, typer.Option(min=0, help="What one process sends to one method, and there to one instance.")
    ] = None,
    p50: Annotated[float | None, typer.Option(min=0, help="The median time of a call, in seconds.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="How many processes govern themselves by these rules.")] = 1,
    capacity: Annotated[
        float | None, typer.Option(min=0, help="Calls a second that a callee takes from all of them together.")
    ] = None,
    chain: Annotated[
        list[str] | None, typer.Option(help="Calls made one inside the other: order/Place,payment/Charge.")
    ] = None,
    not_idempotent: Annotated[
        list[str] | None, typer.Option(help="A call that does harm when done twice: payment/Charge.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Find rules that are right one by one and wrong together; end with 1 when there is an error among them."""
    for name, value in (("--calls-per-second", calls_per_second), ("--p50", p50), ("--capacity", capacity)):
        if value is not None and not math.isfinite(value):
            raise typer.BadParameter(f"{value} is no number of this world", param_hint=name)
    traffic = Traffic(
        calls_per_second=calls_per_second,
        p50=p50,
        workers=workers,
        capacity=capacity,
        chains=[tuple(name.strip() for name in each.split(",") if name.strip()) for each in chain or ()],
        not_idempotent=not_idempotent or (),
    )
    try:
        findings = rules.linted(file, traffic)
    except MsgovError as error:
        _fail(error)
    errors = sum(each.severity == "error" for each in findings)
    if json:
        told = {"file": str(file), "errors": errors, "findings": [each.as_dict() for each in findings]}
        print(dump(told, indent=2))
    else:
        for each in findings:
            print(each)
        print(f"{file}: {errors} errors, {len(findings) - errors} warnings")
    raise typer.Exit(1 if errors else 0)


def _fail(why: object) -> NoReturn:
    print(f"msgov: {why}", file=sys.stderr)
    raise typer.Exit(1)
