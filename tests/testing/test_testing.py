"""The package shows itself by an example that runs."""

from __future__ import annotations

import re

import msgov.testing


def test_example_in_the_package_docstring_is_true() -> None:
    """It is the first thing that a reader copies."""
    (example,) = re.findall(r"```python\n(.*?)```", msgov.testing.__doc__ or "", re.DOTALL)
    exec(compile(example, "example", "exec"), {})  # noqa: S102  our own text
