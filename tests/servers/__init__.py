"""Real servers for tests are fetched once, started fresh for each test, and leave nothing behind.

`python -m tests.servers fetch` fills a cache outside the tree; `tests.servers.plugin` hands servers to tests;
`python -m tests.servers run NAME -- COMMAND '{url}'` runs any command against a fresh one.
"""

from tests.servers.recipe import Unavailable
from tests.servers.running import Server, SharedServer, StartFailed, StartServer

__all__ = ["Server", "SharedServer", "StartFailed", "StartServer", "Unavailable"]
