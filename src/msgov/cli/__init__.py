"""The command `msgov`: nothing is imported before it is known that all that it needs is there."""

from __future__ import annotations

import sys

from msgov.errors import MissingExtra, MsgovError

__all__ = ["main"]

FAILED = 1
USAGE = 2  # exit code: it was called wrongly, or something is not installed
INTERRUPTED = 130


def main() -> int:
    """Run the command line; returns the exit code where typer does not exit by itself."""
    try:
        from msgov.cli.app import app

        app(prog_name="msgov")
    except MsgovError as error:
        print(f"msgov: {error}", file=sys.stderr)
        return USAGE if isinstance(error, MissingExtra) else FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0
