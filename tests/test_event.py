"""What must not break a call is reported, whatever hook is installed."""

from __future__ import annotations

import sys

import pytest

from msgov.event import Observers, unraisable


def test_the_interpreters_own_hook_is_enough(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    """It refuses arguments made by anyone else, and outside of a test it is the one in place."""
    monkeypatch.setattr(sys, "unraisablehook", sys.__unraisablehook__)
    unraisable(ValueError("the fault"), "the place")
    told = capsys.readouterr().err
    assert "the place" in told
    assert "ValueError: the fault" in told


def test_a_listener_that_raises_costs_the_others_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """An observer's fault is reported, and the next one is told."""
    reports: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", reports.append)
    heard: list[str] = []

    def faulty(event: object) -> None:
        raise ValueError

    Observers(faulty, lambda event: heard.append(event.kind)).tell("kind", "name", "target", 0.0)
    assert heard == ["kind"]
    assert len(reports) == 1
