"""Every test ends with nothing left over, and real servers come from `tests.servers`."""

from __future__ import annotations

pytest_plugins = ("tests.servers.plugin",)
