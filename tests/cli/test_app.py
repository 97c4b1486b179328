"""The command says what is in force and what is wrong, and ends with a code that scripts can use."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import msgov
from msgov.cli import shop
from msgov.cli.app import app
from msgov.errors import MissingExtra, MsgovError, version
from msgov.resilience.retry import RetryRule

SHOP = Path(__file__).parents[2] / "examples" / "shop" / "shop.toml"


def call(*arguments: str) -> tuple[int, str, str]:
    """Call the command; return exit code, standard output, standard error."""
    result = CliRunner().invoke(app, list(arguments), prog_name="msgov", env={"TERM": "dumb", "COLUMNS": "200"})
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    """Write a small rules file."""
    path = tmp_path / "my rules.toml"
    path.write_text('[call."*"]\ndeadline = 3\n[call.payment]\nretry = {attempts = 2}\n[pay]\ncurrency = "EUR"\n')
    return path


def test_version_is_told() -> None:
    """The one that is installed."""
    assert call("--version") == (0, f"msgov {msgov.__version__}\n", "")


def test_explain_names_the_layer_of_each_value(rules: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what it shadows: that is how one finds out why a rule is not in force."""
    monkeypatch.setenv("MSGOV_PAY__CURRENCY", "CHF")
    code, told, _ = call("explain", "--config", str(rules))
    assert code == 0
    lines = told.splitlines()
    assert any(line.startswith("call.*.deadline = 3") and "(file)" in line for line in lines)
    assert "call.*.breaker = true  (defaults)" in lines
    assert 'pay.currency = "CHF"  (env)  shadows "EUR" (file)' in lines


def test_explain_one_key(rules: Path) -> None:
    """What stands at it or beneath it, then the rule with all that it takes from above and from its defaults."""
    code, told, _ = call("explain", "--config", str(rules), "call.payment")
    assert code == 0
    first, *others = told.splitlines()
    assert first == "call.payment.retry.attempts = 2  (file)"
    assert any(line.startswith("# in force: call.payment/*.deadline: seconds 3.0, ") for line in others)
    assert all("(from call.*)" in line for line in others if "payment/*.deadline" in line)
    assert any(line.startswith("# in force: call.payment/*.retry: attempts 2, base 0.05, ") for line in others)
    assert not any(line.startswith("# in force: call.*") for line in others)
    assert others[-1] == "# order: call.payment/*: deadline, retry, pick, breaker"


def test_explain_names_each_rule_by_the_version_that_a_rejection_names(rules: Path) -> None:
    """So that a line of a log is found again in the rules."""
    told = call("explain", "--config", str(rules), "call.payment")[1]
    made = version(RetryRule(attempts=2))
    assert any(
        line.startswith("# in force: call.payment/*.retry: ") and f"[{made}]" in line for line in told.splitlines()
    )


def test_explain_prints_the_order_of_every_entry(rules: Path) -> None:
    """As a call meets them, outermost first."""
    told = call("explain", "--config", str(rules))[1].splitlines()
    orders = {line.split(": ")[1]: line.split(": ")[2] for line in told if line.startswith("# order: ")}
    assert orders == {
        "call.*": "deadline, retry, pick, breaker", "call.payment/*": "deadline, retry, pick, breaker",
        "server.*": "deadline", "function.*": "deadline, breaker", "consumer.*": "deadline",
    }  # fmt: skip


def test_explain_a_name_says_which_entry_governs_it(rules: Path) -> None:
    """No entry is written for most names: the pattern that fits is what one looks for."""
    code, told, _ = call("explain", "--config", str(rules), "call.payment/shop/Refund")
    assert code == 0
    first, *others = told.splitlines()
    assert first == "# call.payment/shop/Refund is governed by call.payment"
    assert any("call.payment/*.retry: attempts 2" in line for line in others)
    assert others[-1] == "# order: deadline, retry, pick, breaker"
    code, told, _ = call("explain", "--config", str(rules), 'server."/shop.v1.Order/Place"')
    assert told.splitlines()[0] == '# server."/shop.v1.Order/Place" is governed by server.*'


@pytest.mark.parametrize(("key", "said"), [("nowhere", "nothing is set at nowhere"), ("a..b", "parts joined by dots")])
def test_explain_a_key_that_is_not_there(key: str, said: str) -> None:
    """Silence would look like an empty rule."""
    code, told, errors = call("explain", key)
    assert (code, told) == (1, "")
    assert said in errors


def test_check_a_good_file(rules: Path) -> None:
    """Short, and zero."""
    code, told, _ = call("check", str(rules))
    assert code == 0
    assert "good, 2 values of rules, 1 of settings" in told


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("unknown.toml", "[call.x]\nretri = 2\n", ["unknown.toml", "call.x.retri = 2", "unknown key; known: "]),
        ("negative.toml", "[call.x]\ndeadline = -1\n", ["call.x.deadline = -1", "> 0 and <= 3600 s"]),
        ("unit.toml", '[call.x]\ndeadline = "2 s"\n', ["call.x.deadline = '2 s'"]),
        ("absurd.toml", "[call.x]\nretry = 1000000\n", ["call.x.retry = 1000000", "<= 5"]),
        ("nan.toml", "[call.x]\ndeadline = nan\n", ["call.x.deadline = nan"]),
        ("text.toml", "a = 1\nb = \n", ["text.toml", "line 2, column 5", "valid TOML"]),
        ("twice.json", '{"call": {"x": {}, "x": {}}}', ["twice.json", "call.x", "a key only once"]),
        ("bomb.yaml", "a: &a [1]\nb: [*a, *a]\n", ["bomb.yaml", "line 1"]),
        ("rules.ini", "", ["rules.ini", ".toml"]),
    ],
)
def test_check_a_file_that_cannot_be_used(tmp_path: Path, name: str, text: str, said: list[str]) -> None:
    """Which file, where in it, what stands there, what may."""
    path = tmp_path / name
    path.write_text(text)
    code, told, errors = call("check", str(path))
    assert (code, told) == (1, "")
    assert errors.startswith("msgov: ")
    for part in said:
        assert part in errors


def test_check_names_every_problem(tmp_path: Path) -> None:
    """One run, one list: nobody mends a file error by error."""
    path = tmp_path / "rules.toml"
    path.write_text("[call.x]\ndeadline = -1\nretri = 2\n")
    errors = call("check", str(path))[2]
    assert "call.x.deadline = -1" in errors
    assert "call.x.retri = 2" in errors


def test_lint_of_good_rules(rules: Path) -> None:
    """Short, and zero."""
    assert call("lint", str(rules)) == (0, f"{rules}: 0 errors, 0 warnings\n", "")
    assert call("lint", str(SHOP))[0] == 0


def test_lint_of_rules_that_are_wrong_together(rules: Path) -> None:
    """What, where, what to do; and one for scripts."""
    rules.write_text("[call.a]\ndeadline = 1\nattempt_deadline = 2\n[call.b]\nhedge = 0.5\n")
    code, told, errors = call("lint", str(rules))
    assert (code, errors) == (1, "")
    assert told.startswith("error: call.a.attempt_deadline.seconds = 2.0: an attempt may take longer")
    assert "warning: call.b.hedge.percentile = 0.5" in told
    assert told.endswith(f"{rules}: 1 errors, 1 warnings\n")
    rules.write_text("[call.b]\nhedge = 0.5\n")
    assert call("lint", str(rules))[0] == 0  # a warning may be meant


def test_lint_for_programs(rules: Path) -> None:
    """One object, nothing else."""
    rules.write_text("[call.a]\ndeadline = 1\nattempt_deadline = 2\n")
    code, told, _ = call("lint", str(rules), "--json")
    assert code == 1
    page = json.loads(told)
    assert (page["file"], page["errors"]) == (str(rules), 1)
    (finding,) = page["findings"]
    assert set(finding) == {"check", "severity", "path", "value", "why", "do"}
    assert (finding["check"], finding["value"]) == ("inner-timeout", 2.0)


@pytest.mark.parametrize(
    ("text", "options", "check"),
    [
        ("[call.a]\nbreaker = {minimum_calls = 500}\n", ["--calls-per-second", "2"], "minimum-calls"),
        ("[call.a]\nhedge = {initial = 0.02}\n", ["--p50", "0.05"], "hedge"),
        ("[call.a]\nbudget = {minimum = 10}\n", ["--workers", "50", "--capacity", "400"], "budget-floor"),
        ("[call.a]\nretry = 4\n[call.b]\nretry = 4\n", ["--chain", "a/X, b/Y"], "attempts"),
        ("[call.a]\nretry = 4\n", ["--not-idempotent", "a/Pay"], "not-idempotent"),
    ],
)
def test_lint_is_told_what_rules_do_not_say(rules: Path, text: str, options: list[str], check: str) -> None:
    """Without it nothing is said."""
    rules.write_text(text)
    assert json.loads(call("lint", str(rules), "--json")[1])["findings"] == []
    told = json.loads(call("lint", str(rules), "--json", *options)[1])["findings"]
    assert check in [finding["check"] for finding in told]


@pytest.mark.parametrize(
    ("options", "said"), [(["--p50", "nan"], "--p50"), (["--workers", "0"], "--workers"), (["--p50", "-1"], "--p50")]
)
def test_lint_of_a_traffic_that_cannot_be(rules: Path, options: list[str], said: str) -> None:
    """2, as any call that makes no sense."""
    code, told, errors = call("lint", str(rules), *options)
    assert (code, told) == (2, "")
    assert said in errors


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    """No default takes its place in silence."""
    path = tmp_path / "none.toml"
    for command in (["check", str(path)], ["lint", str(path)], ["explain", "--config", str(path)]):
        code, _, errors = call(*command)
        assert code == 1
        assert str(path) in errors


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["demo", "--scenario", "nonsense"], "known: calm, payment-slow"),
        (["demo", "--together", "--scenario", "payment-slow"], "leave out --together"),
        (["demo", "--seconds", "0"], "--seconds"),
        (["demo", "--seconds", "nan"], "--seconds"),
        (["demo", "--rate", "inf"], "--rate"),
        (["demo", "--speed", "3"], "--speed"),
    ],
)
def test_a_demo_that_makes_no_sense_is_not_begun(arguments: list[str], said: str) -> None:
    """2, before any process is started."""
    code, told, errors = call(*arguments)
    assert (code, told) == (2, "")
    assert said in errors


def test_the_shop_is_found_beside_the_sources() -> None:
    """In a checkout; the wheel brings it inside."""
    assert (shop.folder() / "shop" / "demo" / "run.py").is_file()


def test_an_installation_without_the_shop_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both places where it could be."""
    monkeypatch.setattr(msgov, "__file__", str(tmp_path / "site" / "msgov" / "__init__.py"))
    with pytest.raises(MsgovError, match="install msgov from a wheel or a checkout"):
        shop.folder()


def test_a_shop_that_lacks_a_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not a traceback through somebody else's code."""
    monkeypatch.setitem(sys.modules, "shop.demo.run", None)
    with pytest.raises(MissingExtra, match=r"pip install 'msgov\[demo\]'"):
        shop.stage()


def test_a_command_line_without_typer_names_the_extra() -> None:
    """The base install has the command, and the command says what it lacks."""
    program = "import sys; sys.modules['typer'] = None; from msgov.cli import main; sys.exit(main())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "typer is not installed: pip install 'msgov[cli]'" in done.stderr


def test_the_package_is_the_command_too() -> None:
    """`python -m msgov`."""
    done = subprocess.run(
        [sys.executable, "-m", "msgov", "--version"], capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, f"msgov {msgov.__version__}\n", "")
