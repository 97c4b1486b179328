"""What a call is given is read before grpc gets it: some of it grpc.aio would never come back from."""

from __future__ import annotations

import math
from typing import Any

import pytest
from google.protobuf import descriptor_pool
from google.protobuf.descriptor_pb2 import FileDescriptorProto, MethodOptions

from msgov import scope
from msgov.call import Call
from msgov.policy import Plan
from msgov.transport.grpc.connections import Connection
from msgov.transport.grpc.method import Method, checked, idempotent, keyed, scoped, split, until
from tests.transport.grpc import echo_pb2  # noqa: F401  its methods are looked up by name
from tests.transport.grpc.gates import Again, Count


def test_paths_are_split_and_nonsense_is_empty() -> None:
    """A path comes from outside."""
    assert split("/a.B/C") == ("a.B", "C")
    for nonsense in ("", "abc", "/a", "a/b/c", "/../../x"):
        assert split(nonsense) == ("", "")


def test_the_proto_says_what_may_run_twice() -> None:
    """A method that nobody has described may not."""
    assert idempotent("/msgov.tests.Echo/Unary")
    assert not idempotent("/msgov.tests.Echo/Once")
    assert not idempotent("/msgov.tests.Echo/Nothing")
    assert not idempotent("nonsense")


def test_a_module_may_be_loaded_after_the_first_look() -> None:
    """What nobody has described yet is looked for again."""
    path = "/msgov.tests.late.Late/Safe"
    assert not idempotent(path)
    options = MethodOptions(idempotency_level=MethodOptions.NO_SIDE_EFFECTS)
    late = FileDescriptorProto(name="msgov_tests_late.proto", package="msgov.tests.late")
    late.message_type.add(name="M")
    service = late.service.add(name="Late")
    service.method.add(
        name="Safe", input_type=".msgov.tests.late.M", output_type=".msgov.tests.late.M", options=options
    )
    descriptor_pool.Default().Add(late)
    assert idempotent(path)


def test_a_method_is_asked_for_its_proto_at_its_first_call() -> None:
    """By then its module is loaded, whatever made the stub."""
    made = Method(
        "a", lambda path: (), lambda: 0.0, "unary_unary", "/msgov.tests.Echo/Unary", None, None, registered=False
    )
    assert not made.idempotent
    assert made.call(b"", None).idempotent


@pytest.mark.parametrize(
    ("metadata", "found"),
    [
        (None, False),
        ((), False),
        ((("idempotency-key", "k"),), True),
        ((("idempotency-key", ""),), False),
        ((("k", "v"),), False),
    ],
)  # fmt: skip
def test_a_key_makes_a_call_one_that_may_run_twice(metadata: Any, found: bool) -> None:
    """An empty one tells nothing from anything."""
    assert keyed(metadata) is found


@pytest.mark.parametrize(
    ("timeout", "around", "deadline"),
    [
        (None, None, None), (None, 7.0, 7.0), (2.0, None, 12.0), (2.0, 11.0, 11.0), (2.0, 15.0, 12.0),
        (math.inf, None, None), (1e18, 11.0, 11.0), (-1.0, None, 9.0),
    ],
)  # fmt: skip
def test_deadlines_only_shrink(timeout: float | None, around: float | None, deadline: float | None) -> None:
    """And what is longer than a life is none: grpc takes it for one that is over."""
    assert until(timeout, around, 10.0) == deadline


def test_a_timeout_must_be_a_number() -> None:
    """NaN compares with nothing, and would be no deadline at all."""
    with pytest.raises(ValueError, match="nan"):
        until(math.nan, None, 0.0)
    with pytest.raises(TypeError):
        until("soon", None, 0.0)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "pair",
    [
        ("A", "x"), ("a b", "x"), ("", "x"), ("a\n", "x"), ("ä", "x"), (b"a", "x"), ("a", "x\r\ny: z"), ("a", "\x00"),
        ("a", "é"), ("a", b"\xff"), ("a", 3), ("a", None), ("a", "\x7f"),
    ],
)  # fmt: skip
def test_metadata_that_cannot_be_sent_is_refused(pair: Any) -> None:
    """By key, and without its value: that may be a secret."""
    with pytest.raises(ValueError, match="metadata") as caught:
        checked([pair])
    assert "x\\r" not in str(caught.value)


def test_metadata_that_can_be_sent_is_taken() -> None:
    """In whatever shape it comes, and only once where it can be read once."""
    pairs = (("a-b_c.1", "x ~"), ("k-bin", b"\x00\xff"), ("k", b"x"), ("a", ""))
    assert checked(iter(pairs)) == checked(list(pairs)) == checked([list(pair) for pair in pairs]) == pairs  # type: ignore[misc]
    assert checked(None) == ()


def test_what_works_in_the_callees_place_inherits_the_call() -> None:
    """Its deadline, its trace, whom it is for; and leaves no trace in the thread it runs in."""
    call = Call("a", deadline=5.0, key="k", attempts_left=2)
    call.trace = scope.Trace("a" * 32, "b" * 16)
    around = scoped(call).run(scope.current.get)
    assert (around.deadline, around.trace, around.key, around.attempts_left) == (5.0, call.trace, "k", 2)
    assert scope.current.get() is scope.EMPTY


class Native:
    """A channel that makes things."""

    def __init__(self) -> None:
        self.made = 0

    def unary_unary(self, path: str, **how: Any) -> object:
        self.made += 1
        return object()


def method(policies: Any = lambda path: (), kind: str = "unary_unary") -> Method:
    """Make a method of no channel."""
    return Method("a", policies, lambda: 0.0, kind, "/a/b", None, None, registered=False)


def test_a_native_multicallable_is_made_once_and_goes_with_its_connection() -> None:
    """Instances come and go for months: what belongs to those gone must not pile up."""
    made, native = method(), Native()
    connections = [Connection(f"{number}", native, retired=False) for number in range(50)]
    for connection in connections:
        assert made.native(connection) is made.native(connection)
        connection.closed = True
    assert native.made == 50
    assert len(made._natives) <= 2


def test_a_pipeline_is_made_again_only_for_other_policies() -> None:
    """They are asked for at every call."""
    policies = (Count(),)
    made = method(lambda path: policies)
    first = made.governed()
    assert made.governed() is first
    policies = (Count(), Again())
    assert made.governed() is not first
    assert made.governed().segment.plan is not None


def test_a_request_stream_has_no_second_attempt() -> None:
    """It is sent once."""
    plan = Again()
    assert isinstance(plan, Plan)
    assert method(lambda path: (plan,), kind="stream_unary").governed().segment.plan is None
