"""`python -m shop SERVICE --data FOLDER` runs one instance; SERVICE "together" runs all of them in one process."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from msgov.errors import MsgovError

from . import apart, parent, together


def main() -> int:
    """Run it; what keeps it from running is one line on standard error, and the exit code 1."""
    parser = argparse.ArgumentParser(prog="python -m shop", description=__doc__)
    parser.add_argument("service", choices=(*apart.SERVICES, "together"))
    parser.add_argument("--data", type=Path, required=True, help="the folder of databases, registry, bus and settings")
    parser.add_argument("--instance", type=int, default=1, help="which of several instances this is; default 1")
    asked = parser.parse_args()
    folder = asked.data.absolute()
    if asked.service == "together":
        main = together.serve(folder=folder, instance=asked.instance)
    else:
        main = apart.serve(asked.service, folder=folder, instance=asked.instance)
    try:
        parent.run(main)
    except (MsgovError, OSError) as error:
        print(f"{asked.service}-{asked.instance}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
