"""One facade over all the rooms: a service that is found, calls safely, limits itself and shows what it does."""

from __future__ import annotations

from msgov.service.facade import Service
from msgov.service.running import Running

__all__ = ["Running", "Service"]
