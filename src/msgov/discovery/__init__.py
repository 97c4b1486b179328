"""Find other services, choose where each call goes, and stay registered whatever becomes of the registry."""

from msgov.discovery.backend import Discovery, open  # noqa: A004  read as discovery.open
from msgov.discovery.balance import Balancer, RoundRobin
from msgov.discovery.directory import Directory
from msgov.discovery.instance import Instance, Snapshot
from msgov.discovery.pick import Pick
from msgov.discovery.registrar import Registrar, Registration
from msgov.discovery.two_choices import TwoChoices

__all__ = [
    "Balancer",
    "Directory",
    "Discovery",
    "Instance",
    "Pick",
    "Registrar",
    "Registration",
    "RoundRobin",
    "Snapshot",
    "TwoChoices",
    "open",
]
