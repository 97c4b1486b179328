"""What a registry says is checked entry by entry: bad ones are dropped and counted, the rest serve."""

from __future__ import annotations

import json
import math
import pickle
from itertools import repeat

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from msgov.discovery.instance import METADATA, MOST, Instance, read, record, snapshot
from msgov.errors import RuleError

GOOD = Instance("order", "10.0.0.1", 50051)


@pytest.mark.parametrize(
    "host",
    ["10.0.0.1", "127.0.0.1", "::1", "2001:db8::7", "localhost", "order-1.shop.internal", "a_b.c", "x.example.com."],
)
def test_usable_host_is_taken(host: str) -> None:
    """Addresses of both families, and names as DNS and container networks have them."""
    assert Instance("order", host, 1).host == host


@pytest.mark.parametrize(
    "host",
    [
        "",
        "http://10.0.0.1",
        "file:///etc/passwd",
        "10.0.0.1:80",
        "user@host",
        "host/path",
        "a b",
        "a\nb",
        "-a",
        "a..b",
        "x" * 64,
        ".".join(repeat("abcdefg", 33)),
        "169.254.169.254",
        "::ffff:169.254.169.254",
        "fe80::1",
        "2852039166",
        "0xa9fea9fe",
        "169.254.43518",
        "0251.0376.0251.0376",
        "0.0.0.0",  # noqa: S104  refused
        "::",
        "224.0.0.1",
        "255.255.255.255",
        "[::1]",
    ],
)
def test_host_that_could_be_abused_is_refused(host: str) -> None:
    """Who can write to a registry must not thereby reach a metadata service, a file, or everybody at once."""
    with pytest.raises(RuleError, match="host = "):
        Instance("order", host, 1)


@pytest.mark.parametrize("port", [0, -1, 65536, 70000, 1.0, "80", True, None])
def test_port_must_be_a_port(port: object) -> None:
    """A socket call would fail with it, far from here."""
    with pytest.raises(RuleError, match=r"port = .*1 to 65535"):
        read({"service": "order", "host": "a", "port": port})


@pytest.mark.parametrize("weight", [0, -1, math.nan, math.inf, 1e-9, 1e9, "1", True])
def test_weight_must_be_a_share(weight: object) -> None:
    """NaN compares with nothing and zero divides: either would break every pick."""
    with pytest.raises(RuleError, match="weight = "):
        read({"service": "order", "host": "a", "port": 1, "weight": weight})


@pytest.mark.parametrize(
    "metadata",
    [{"k": "x" * METADATA}, {"é" * 2000: "ü" * 200}, {"": "v"}, {"k": 1}, {1: "v"}, [], "text", {"k": None}],
)
def test_metadata_is_small_text(metadata: object) -> None:
    """A thousand instances with a megabyte each would be a gigabyte in every client."""
    with pytest.raises(RuleError, match="metadata = "):
        read({"service": "order", "host": "a", "port": 1, "metadata": metadata})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("service", "a b"),
        ("service", "../etc"),
        ("service", "x" * 129),
        ("service", 1),
        ("id", "a\nb"),
        ("id", "x" * 257),
        ("protocol", "g rpc"),
        ("version", "\x1b[31m"),
        ("zone", "x" * 129),
        ("healthy", 1),
        ("draining", "no"),
    ],
)
def test_text_fields_cannot_forge(name: str, value: object) -> None:
    """They end up in log lines, file names and terminals."""
    with pytest.raises(RuleError, match=f"{name} = "):
        read({"service": "order", "host": "a", "port": 1} | {name: value})


def test_all_problems_are_named_at_once() -> None:
    """One round of mending is enough."""
    with pytest.raises(RuleError) as caught:
        Instance("order", "a b", 0, weight=-1)
    assert [problem.path for problem in caught.value.problems] == ["host", "port", "weight"]


def test_entry_without_the_needed_fields_says_which() -> None:
    """Whoever wrote it must know what to add."""
    with pytest.raises(RuleError, match="port = '\\(missing\\)'"):
        read({"service": "order", "host": "a"})
    with pytest.raises(RuleError, match="a mapping"):
        read("order")


def test_record_reads_as_the_same_instance() -> None:
    """Through JSON and through a pickle; what a newer version adds is passed over."""
    full = Instance(
        "order", "::1", 1, id="x", protocol="http", version="1", zone="a", weight=2, metadata={"k": "v"}, draining=True
    )
    assert read(json.loads(json.dumps(record(full))) | {"color": "red"}) == full
    assert pickle.loads(pickle.dumps(full)) == full  # noqa: S301  our own
    assert hash(full) == hash(read(record(full)))


def test_instance_cannot_change_later() -> None:
    """It is shared by every thread, and what was checked must stay so."""
    given = {"k": "v"}
    made = Instance("order", "a", 1, metadata=given)
    given["k"] = "x" * 10_000
    assert made.metadata == {"k": "v"}
    with pytest.raises(TypeError):
        made.metadata["k"] = "w"  # type: ignore[index]
    with pytest.raises(AttributeError):
        made.port = 2  # type: ignore[misc]


def test_address_is_the_name_by_default() -> None:
    """The same address is the same instance after a restart; IPv6 needs its brackets."""
    assert GOOD.id == "10.0.0.1:50051"
    assert Instance("order", "::1", 5).id == "[::1]:5"


def test_bad_entries_are_dropped_one_by_one() -> None:
    """One hostile entry must not hide the others."""
    found = snapshot(
        "order",
        [
            record(GOOD),
            record(GOOD) | {"port": 0, "id": "b"},
            record(GOOD) | {"service": "payment", "id": "c"},
            record(GOOD),
            {"junk": True},
            Instance("order", "10.0.0.0", 1),
        ],
        revision=7,
    )
    assert [instance.id for instance in found.instances] == ["10.0.0.0:1", GOOD.id]
    assert found.dropped == 4
    assert "port = 0" in found.why
    assert found.revision == 7


def test_a_million_instances_are_cut_off() -> None:
    """A broken registry must not fill the memory of every client."""
    found = snapshot("order", (GOOD if n == 0 else Instance("order", "a", 1, id=f"i{n}") for n in range(MOST + 500)))
    assert len(found.instances) == MOST
    assert found.dropped == 500


def test_snapshots_with_the_same_instances_are_equal() -> None:
    """A change elsewhere in the registry is no change here, whatever its revision says."""
    assert snapshot("order", [GOOD], revision=1) == snapshot("order", [GOOD], revision=2)
    assert snapshot("order", [GOOD]) != snapshot("order", [])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@settings(suppress_health_check=[HealthCheck.too_slow])  # the first text of all needs Unicode's tables, built once
@given(st.fixed_dictionaries({}, optional=dict.fromkeys(Instance.__slots__, JSON)))
def test_anything_is_an_instance_or_a_rule_error(entry: dict[str, object]) -> None:
    """Whatever stands in a registry, reading it never fails in another way."""
    try:
        made = read(entry)
    except RuleError:
        return
    assert read(record(made)) == made
