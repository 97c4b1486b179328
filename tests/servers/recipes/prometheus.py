"""Prometheus with promtool; a test brings its own `prometheus.yml` as a file."""

import http.client
import json

from tests.servers.debian import Debian
from tests.servers.recipe import HOST, Command, Installed, Place, Recipe

CONFIG = "prometheus.yml"


def launch(installed: Installed, place: Place) -> Command:
    """Settings are read from the data folder; without any, nothing is scraped.

    The first scrape comes about 5 s after the start whatever the interval; `POST /-/reload` is on.
    """
    config = place.data / CONFIG
    if not config.exists():
        config.write_text("global: {scrape_interval: 1s, evaluation_interval: 1s}\n")
    return Command(
        [
            str(installed.programs["prometheus"]),
            f"--config.file={config}",
            f"--storage.tsdb.path={place.data / 'tsdb'}",
            f"--web.listen-address={HOST}:{place.port}",
            "--web.enable-lifecycle",
            "--enable-feature=exemplar-storage",
            "--rules.alert.resend-delay=1s",
        ]
    )


def ready(place: Place) -> bool:
    """Ready to serve, and by its flags the one with our data folder; http.client follows no proxy variable."""
    connection = http.client.HTTPConnection(HOST, place.port, timeout=1.0)
    try:
        connection.request("GET", "/-/ready")
        answer = connection.getresponse()
        answer.read()
        if answer.status != http.HTTPStatus.OK:
            return False
        connection.request("GET", "/api/v1/status/flags")
        flags = json.load(connection.getresponse())["data"]
    finally:
        connection.close()
    return bool(flags["storage.tsdb.path"] == str(place.data / "tsdb"))


RECIPE = Recipe(
    name="prometheus",
    programs=("prometheus", "promtool"),
    source=Debian("prometheus"),
    url="http://{host}:{port}",
    launch=launch,
    ready=ready,
)
