"""Both wires tell the same of the same."""

from __future__ import annotations

from http import HTTPStatus

import grpc
import pytest

from msgov import errors, friendly
from msgov.transport.grpc import status
from msgov.transport.problem import refusal


@pytest.mark.parametrize("reason", sorted(friendly.TOLD))
def test_what_is_told_is_a_code_a_status_and_a_sentence(reason: str) -> None:
    """Each must be one that the wire knows, and a person can read."""
    told = friendly.told(reason)
    assert told.grpc in grpc.StatusCode.__members__
    assert HTTPStatus(told.http) >= 400
    assert told.text.endswith(".")
    assert reason not in told.text or reason == "error"


def test_every_error_of_ours_is_told() -> None:
    """A new error needs a line in the table."""
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.MsgovError)]
    assert {kind.reason for kind in kinds} <= set(friendly.TOLD)


def test_a_reason_that_is_not_ours_is_told_as_a_refusal() -> None:
    """Policies of the user's own making have reasons of their own."""
    assert friendly.told("not_on_sundays") == friendly.TOLD["rejected"]


@pytest.mark.parametrize(
    "error", [errors.BulkheadFull("full"), errors.DeadlineSpent("none left"), ValueError("secret")]
)
def test_both_wires_say_the_same_sentence(error: Exception) -> None:
    """One table, two wires."""
    over_grpc = status.refusal(error, began=False, trace_id="")
    over_http = refusal(error, began=False, trace=None)
    assert over_grpc.details.encode() in over_http.body
    assert over_grpc.code.name == friendly.told(friendly.reason(error)).grpc
