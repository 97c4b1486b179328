"""What only a changed line of the retry showed."""

from __future__ import annotations

import pytest

from msgov.errors import RuleError
from msgov.resilience import RetryRule


def test_decorrelated_jitter_grows_by_half_at_least() -> None:
    """With just that it is fine."""
    RetryRule(jitter="decorrelated", factor=1.5)
    with pytest.raises(RuleError, match="factor"):
        RetryRule(jitter="decorrelated", factor=1.4)
