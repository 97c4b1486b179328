"""Values of variables and arguments read as in TOML, or are text."""

from __future__ import annotations

import pytest

from msgov.config.scalar import scalar


@pytest.mark.parametrize(
    ("text", "value"),
    [("2", 2), ("0.5", 0.5), ("true", True), ("1_000", 1000), ('"007"', "007"), ("'true'", "true"), ("0x1F", 31)],
)
def test_scalars_of_toml_are_read(text: str, value: object) -> None:
    """What a file would say needs no other spelling in a variable."""
    assert repr(scalar(text)) == repr(value)


@pytest.mark.parametrize(
    "text",
    ["", "text", "007", "2s", "True", "[1, 2]", "{a = 1}", "2024-01-01", "1\nb = 2", "a = 1", "#", "'", "1 # one"],
)
def test_whatever_else_is_text_as_it_stands(text: str) -> None:
    """A password that begins with a bracket is a password."""
    assert scalar(text) == (1 if text == "1 # one" else text)
