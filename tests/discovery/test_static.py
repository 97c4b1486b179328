"""A list written down answers at once, and wrong entries are named."""

from __future__ import annotations

import pytest

from msgov.discovery.static import Static
from msgov.errors import RuleError
from tests.contract.discovery import run, watching


def addresses(static: Static, service: str) -> list[str]:
    """Read what it says of a service."""

    async def main() -> list[str]:
        async with static, watching(static, service) as watched:
            await watched.until(lambda found: True)
            return [instance.address for instance in watched.latest.value.instances]

    return run(main())


def test_one_list_answers_for_every_service() -> None:
    """The simplest thing that works: one address behind a load balancer."""
    static = Static.from_url("static:10.0.0.2:50051, 10.0.0.1:50051")
    assert addresses(static, "order") == addresses(static, "payment") == ["10.0.0.1:50051", "10.0.0.2:50051"]


def test_each_service_has_its_list() -> None:
    """And one that is not listed has no instance, rather than somebody else's."""
    static = Static.from_url("static:order=10.0.0.1:1,order.local:2;payment=[::1]:3")
    assert addresses(static, "order") == ["10.0.0.1:1", "order.local:2"]
    assert addresses(static, "payment") == ["[::1]:3"]
    assert addresses(static, "audit") == []


def test_watch_goes_on_without_end() -> None:
    """A source that ends is taken for a failing one."""

    async def main() -> None:
        async with watching(Static(["a:1"])) as watched:
            await watched.until(lambda found: True)
            assert not watched.latest.stale

    run(main())


@pytest.mark.parametrize(
    "url",
    [
        "static:",
        "static:10.0.0.1",
        "static:10.0.0.1:",
        "static:10.0.0.1:x",
        "static:10.0.0.1:0",
        "static:10.0.0.1:99999",
        "static:a:1,",
        "static:::1:5",
        "static:a:²",
        "static:http://a:1",
        "static:order=a:1;a:2",
        "static:order=a:1;order=a:2",
        "static:order=",
        "static:=a:1",
    ],
)
def test_wrong_list_is_refused_whole(url: str) -> None:
    """At start, where somebody reads it, and not at the first call."""
    with pytest.raises(RuleError):
        Static.from_url(url)
