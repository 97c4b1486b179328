"""Live, typed configuration that keeps the last good: layers in, handles and policies out."""

from msgov.config.centre import Config
from msgov.config.handle import Handle, Snapshot
from msgov.config.layers import Change, Leaf
from msgov.config.policies import Policies
from msgov.config.rules import DEFAULTS, RuleBook, default_rules
from msgov.config.source import ConfigSource, Fixed, Reading, command_line, open  # noqa: A004  read as config.open

__all__ = [
    "DEFAULTS",
    "Change",
    "Config",
    "ConfigSource",
    "Fixed",
    "Handle",
    "Leaf",
    "Policies",
    "Reading",
    "RuleBook",
    "Snapshot",
    "command_line",
    "default_rules",
    "open",
]
