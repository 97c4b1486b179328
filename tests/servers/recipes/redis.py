"""Redis, in memory only: what a test writes is gone with the server."""

import socket

from tests.servers.debian import Debian
from tests.servers.recipe import HOST, Command, Installed, Place, Recipe


def launch(installed: Installed, place: Place) -> Command:
    """Persistence is off; a test that wants it passes `--appendonly yes` as further arguments."""
    return Command(
        [
            str(installed.programs["redis-server"]),
            *("--bind", HOST, "--port", str(place.port), "--dir", str(place.data)),
            *("--save", "", "--appendonly", "no", "--daemonize", "no"),
        ]
    )


def ready(place: Place) -> bool:
    """Ask for the folder that only this server has; PING alone is answered by any Redis on that port."""
    with socket.create_connection((HOST, place.port), timeout=1.0) as connection:
        connection.sendall(b"CONFIG GET dir\r\n")
        reply = connection.makefile("rb")
        lines = [reply.readline().strip() for _ in range(5)]  # *2 / $3 / dir / $n / the folder
    return lines[4] == str(place.data).encode()


RECIPE = Recipe(
    name="redis",
    programs=("redis-server",),
    source=Debian("redis-server", "redis-tools"),
    url="redis://{host}:{port}/0",
    launch=launch,
    ready=ready,
)
