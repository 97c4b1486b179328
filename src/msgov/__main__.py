"""`python -m msgov` is `msgov`."""

import sys

from msgov.cli import main

if __name__ == "__main__":
    sys.exit(main())
