"""Servers for tests are real, fresh, and gone afterwards, whatever ends the run."""

import contextlib
import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from tests.servers import Server, SharedServer, StartFailed, StartServer
from tests.servers.recipe import HOST, Command, Installed, Place
from tests.servers.recipes import recipe
from tests.servers.running import free_ports, running

pytest_plugins = ("tests.servers.plugin",)

ROOT = Path(__file__).parent.parent
PROGRAM = "msgov-test-program"  # on nobody's PATH
NEEDS_REDIS = 'def test_needs(redis_server):\n    """Needs it."""\n'


def talk(port: int, line: bytes) -> bytes:
    """Send one inline command to a Redis, and return the first line of its answer."""
    with socket.create_connection((HOST, port), timeout=5) as connection:
        connection.sendall(line + b"\r\n")
        return connection.makefile("rb").readline().strip()


def alive(pid: int) -> bool:
    """Whether a process of this id runs; one that only waits to be collected by its parent does not."""
    try:
        os.kill(pid, 0)
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except ProcessLookupError:
        return False
    except FileNotFoundError:
        return not Path("/proc").exists()


def until(claim: Callable[[], bool], seconds: float = 20.0) -> bool:
    """Whether the claim comes true in time."""
    deadline = time.monotonic() + seconds
    while not claim():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def environment(**extra: str) -> Mapping[str, str]:
    """What a child run needs to find this tree, and nothing that pytest left in ours."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "MSGOV_REQUIRE"))}
    return kept | {"PYTHONPATH": str(ROOT)} | extra


def cli(*arguments: str, **extra: str) -> "subprocess.Popen[str]":
    """`python -m tests.servers` as a child."""
    command = [sys.executable, "-m", "tests.servers", *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, env=environment(**extra), stdout=pipe, stderr=pipe, text=True)


def pytest_without_tools(folder: Path, *arguments: str, **extra: str) -> "subprocess.CompletedProcess[str]":
    """A run of one test that needs Redis, with nothing on PATH and nothing cached."""
    (folder / "test_it.py").write_text(NEEDS_REDIS)
    (folder / "bin").mkdir()
    settings = environment(PATH=str(folder / "bin"), MSGOV_SERVERS_CACHE=str(folder / "cache"), **extra)
    command = [sys.executable, "-m", "pytest", "-p", "tests.servers.plugin", "-p", "no:cacheprovider", "-q", *arguments]
    return subprocess.run(command, cwd=folder, env=settings, capture_output=True, text=True, timeout=120)


@pytest.fixture
def waiting_run(redis_server: Server, tmp_path: Path) -> Iterator[tuple["subprocess.Popen[str]", int, int]]:
    """A `run redis` whose command prints Redis's id and waits: the run, the id of Redis, the id of the command."""
    code = (
        "import os, re, socket, sys, time\n"
        "s = socket.create_connection((sys.argv[1], int(sys.argv[2]))); s.sendall(b'INFO server\\r\\n')\n"
        "print(re.search(rb'process_id:(\\d+)', s.recv(65536))[1].decode(), os.getpid(), flush=True)\n"
        "time.sleep(60)"
    )
    run = cli("run", "redis", "--", sys.executable, "-c", code, "{host}", "{port}", TMPDIR=str(tmp_path))
    with run:
        try:
            assert run.stdout is not None
            server, command = run.stdout.readline().split()
            yield run, int(server), int(command)
        finally:
            run.kill()


def test_redis_answers(redis_server: Server) -> None:
    """The readiness that the fixture waited for is worth something: a client can work at once."""
    assert talk(redis_server.port, b"PING") == b"+PONG"
    assert talk(redis_server.port, b"SET colour blue") == b"+OK"
    assert talk(redis_server.port, b"STRLEN colour") == b":4"


def test_each_server_is_its_own(server: StartServer) -> None:
    """Two tests, or two servers of one test, never see each other's data."""
    one, other = server("redis"), server("redis")
    talk(one.port, b"SET colour blue")
    assert talk(other.port, b"EXISTS colour") == b":0"
    assert one.data != other.data


def test_a_shared_server_is_started_once(shared_server: SharedServer) -> None:
    """Sharing is the cheap variant: the second test must not pay for another start."""
    assert shared_server("redis").pid == shared_server("redis").pid


def test_prometheus_is_ready_with_the_tests_own_settings(server: StartServer) -> None:
    """A test brings scrape jobs and rules as a file, so Prometheus must have read it."""
    prometheus = server("prometheus", files={"prometheus.yml": "global: {external_labels: {shop: corner}}\n"})
    connection = http.client.HTTPConnection(HOST, prometheus.port, timeout=5)
    with contextlib.closing(connection):
        connection.request("GET", "/-/ready")
        answer = connection.getresponse()
        assert answer.status == 200
        answer.read()
        connection.request("GET", "/api/v1/status/config")
        assert b"shop: corner" in connection.getresponse().read()


def test_promtool_judges_rules(prometheus_server: Server, tmp_path: Path) -> None:
    """The alert rules we ship are checked by the tool that operators use."""
    rules = tmp_path / "rules.yml"
    rules.write_text("groups: [{name: g, rules: [{alert: A, expr: 'up =='}]}]\n")
    promtool = [str(prometheus_server.installed.programs["promtool"]), "check", "rules", str(rules)]
    assert subprocess.run(promtool, capture_output=True).returncode == 1


def test_a_closed_server_leaves_nothing(server: StartServer) -> None:
    """A test run of hundreds of servers must end with none, and with no folder of theirs."""
    redis = server("redis")
    pid, data = redis.pid, redis.data
    redis.close()
    assert not alive(pid)
    assert not data.exists()


def test_a_stopped_server_was_asked_and_kept_its_data(server: StartServer) -> None:
    """A kill in place of a stop would lose what servers write at their end, and hide that they hang there."""
    redis = server("redis")
    redis.stop()
    assert "Received SIGTERM" in redis.log
    redis.close()
    assert not redis.data.exists()


def test_a_fork_of_the_owner_does_not_hold_a_server(server: StartServer) -> None:
    """A forked worker inherits the pipe that guards the server, and may live on when the owner closes its end."""
    redis = server("redis")
    assert redis._guard is not None
    assert redis._guard.stdin is not None
    pid, held = redis.pid, os.dup(redis._guard.stdin.fileno())
    try:
        redis.close()
        assert not alive(pid)
    finally:
        os.close(held)


@pytest.mark.parametrize("end", [Server.stop, Server.kill])
def test_a_server_comes_back_where_it_was(server: StartServer, end: Callable[[Server], None]) -> None:
    """Tests of outages need the same address, and the data that was safe on disk."""
    redis = server("redis", arguments=["--appendonly", "yes", "--appendfsync", "always"])
    talk(redis.port, b"SET colour blue")
    end(redis)
    with pytest.raises(ConnectionRefusedError):
        talk(redis.port, b"PING")
    redis.start()
    assert talk(redis.port, b"STRLEN colour") == b":4"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets a process adopt orphans")
def test_a_daemon_left_by_a_server_is_ended_too() -> None:
    """RabbitMQ leaves its port mapper behind in a session of its own, where no process group reaches it."""
    daemon = "setsid sh -c 'echo $$ > left.part; mv left.part left; exec sleep 60' & wait"
    forking = replace(
        recipe("redis"), launch=lambda *_: Command(["sh", "-c", daemon]), ready=lambda at: (at.data / "left").exists()
    )
    with running(forking, Installed({})) as server:
        pid = int((server.data / "left").read_text())
        assert alive(pid)
    assert not alive(pid)


def test_a_lost_port_is_tried_again_with_another(redis_server: Server) -> None:
    """Between choosing a port and binding it anyone may take it, and a busy machine makes that happen."""
    asked: list[int] = []

    def launch(installed: Installed, place: Place) -> Command:
        asked.append(place.port)
        lost = replace(place, ports={"client": redis_server.port})
        return recipe("redis").launch(installed, lost if len(asked) == 1 else place)

    with running(replace(recipe("redis"), launch=launch), redis_server.installed) as redis:
        assert len(set(asked)) == 2
        assert redis.port == asked[1]


def test_a_strangers_answer_is_not_readiness(redis_server: Server) -> None:
    """Whoever took the port may well be another Redis, and the test would then share its data."""
    here = Place(redis_server.data, redis_server.ports)
    assert recipe("redis").ready(here)
    assert not recipe("redis").ready(replace(here, data=redis_server.data / "other"))


def test_ports_given_together_differ() -> None:
    """A server with several listeners must not be sent to one port twice."""
    assert len(set(free_ports([str(number) for number in range(50)]).values())) == 50


def test_a_failed_start_tells_the_servers_last_words(server: StartServer) -> None:
    """Otherwise the reader has only a time-out, and the log is gone with its folder."""
    with pytest.raises(StartFailed, match="no-such-setting"):
        server("redis", arguments=["--no-such-setting", "1"])


def test_run_passes_words_and_exit_code(redis_server: Server, tmp_path: Path) -> None:
    """`run` stands in front of any command, so nothing but the three names may change on the way."""
    words = ["{url}", "{host}:{port}", '{"json": {}}']
    with cli(
        "run", "redis", "--", "sh", "-c", 'printf "%s\\n" "$@"; exit 7', "sh", *words, TMPDIR=str(tmp_path)
    ) as run:
        said, _ = run.communicate(timeout=60)
    url, address, json = said.splitlines()
    assert run.returncode == 7
    assert url == f"redis://{address}/0"
    assert json == '{"json": {}}'
    assert list(tmp_path.iterdir()) == []


def test_run_tells_a_missing_command_from_a_failing_one(redis_server: Server, tmp_path: Path) -> None:
    """Shells and CI know 127, and the server that was started for nothing must still go."""
    with cli("run", "redis", "--", PROGRAM, TMPDIR=str(tmp_path)) as run:
        _, said = run.communicate(timeout=60)
    assert run.returncode == 127
    assert PROGRAM in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_run_that_is_ended_leaves_nothing(
    waiting_run: tuple["subprocess.Popen[str]", int, int], tmp_path: Path, number: signal.Signals
) -> None:
    """CI ends jobs with both, and a server that survives holds memory and a port for days."""
    run, server, command = waiting_run
    run.send_signal(number)
    assert run.wait(30) == (143 if number == signal.SIGTERM else -number)
    assert until(lambda: not alive(server) and not alive(command) and list(tmp_path.iterdir()) == [])


def test_ctrl_c_ends_command_and_server(redis_server: Server, tmp_path: Path) -> None:
    """A terminal sends SIGINT to the whole foreground group; the server is outside it and stopped by its owner."""
    command = [sys.executable, "-m", "tests.servers", "run", "redis", "--", "sh", "-c", "echo {port}; exec sleep 60"]
    settings = environment(TMPDIR=str(tmp_path))
    with subprocess.Popen(command, cwd=ROOT, env=settings, stdout=subprocess.PIPE, start_new_session=True) as run:
        assert run.stdout is not None
        port = int(run.stdout.readline())
        os.killpg(run.pid, signal.SIGINT)
        assert run.wait(30) == 130
    with pytest.raises(ConnectionRefusedError):
        talk(port, b"PING")
    assert list(tmp_path.iterdir()) == []


def test_fetch_says_what_was_tried(tmp_path: Path) -> None:
    """The one who reads a red CI run must see which step to repair."""
    with cli("fetch", "redis", PATH=str(tmp_path), MSGOV_SERVERS_CACHE=str(tmp_path / "cache")) as fetch:
        said, _ = fetch.communicate(timeout=60)
    assert fetch.returncode == 1
    assert re.fullmatch(r"redis +unavailable +\d+\.\d s  .*redis-server on PATH; apt-get is not on PATH.*\n", said)


def test_list_names_what_is_not_here(tmp_path: Path) -> None:
    """Listing answers at once, so it fetches nothing."""
    with cli("list", PATH=str(tmp_path), MSGOV_SERVERS_CACHE=str(tmp_path / "cache")) as listed:
        said, _ = listed.communicate(timeout=60)
    assert re.search(r"^redis +not fetched$", said, re.MULTILINE)
    assert not (tmp_path / "cache").exists()


def test_an_unknown_server_is_answered_with_the_known_ones() -> None:
    """A typing mistake should cost one look at the message."""
    with pytest.raises(LookupError, match=r"no server is called 'rediss'; known: .*redis"):
        recipe("rediss")


@pytest.mark.parametrize(("required", "code", "word"), [("0", 0, "skipped"), ("1", 1, "failed")])
def test_a_missing_server_skips_or_fails_and_the_run_ends_with_why(
    tmp_path: Path, required: str, code: int, word: str
) -> None:
    """Silence would turn a missing server into a green run that proved nothing."""
    done = pytest_without_tools(tmp_path, MSGOV_REQUIRE_SERVERS=required)
    *_, why, counts = done.stdout.strip().splitlines()
    assert done.returncode == code, done.stdout + done.stderr
    assert re.match(rf"1 test {word}: server redis cannot be had: .*apt-get is not on PATH", why)
    assert re.match(r"1 (skipped|error) in ", counts)


def test_tests_that_need_a_server_can_be_left_out(tmp_path: Path) -> None:
    """The quick suites run often and must not wait for servers, nor look for them."""
    done = pytest_without_tools(tmp_path, "-m", "not server", MSGOV_REQUIRE_SERVERS="1")
    assert done.stdout.strip().startswith("1 deselected"), done.stdout + done.stderr


def test_the_real_cache_answers_a_second_fetch_at_once(redis_server: Server) -> None:
    """A fetch without the tools to fetch shows that what the first one made is enough."""
    if redis_server.installed.tree is None:
        pytest.skip("redis is on PATH here, so nothing is cached")
    empty = redis_server.data / "bin"
    empty.mkdir()
    with cli("fetch", "redis", PATH=str(empty)) as fetch:
        said, _ = fetch.communicate(timeout=60)
    assert fetch.returncode == 0, said
