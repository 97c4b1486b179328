"""A request is named by verb and route template, never by the path that was asked for: clients make paths up.

Frameworks leave the route that they chose in the scope: Starlette and FastAPI as an object, whoever else wants to be
named as a text, `scope["route"] = "/orders/{id}"`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

UNKNOWN: Final = "_OTHER"
_MOST: Final = 4096
_CONVERTOR = re.compile(r"\{(\w+):\w+\}")


class Routes:
    """Names routes, mounted ones with what they are mounted under; each is looked for once."""

    def __init__(self) -> None:
        self._names: dict[int, tuple[object, str]] = {}  # by id, for a route defines equality without a hash

    def name(self, scope: Mapping[str, object]) -> str:
        """Return the template of the route that a request took, "_OTHER" when that is not known."""
        route = scope.get("route")
        if route is None or isinstance(route, str):
            return route or UNKNOWN
        known = self._names.get(id(route))
        if known is not None and known[0] is route:
            return known[1]
        mounted = _find(getattr(scope.get("router"), "routes", ()), route, "")
        found = _path(route) if mounted is None else mounted
        if len(self._names) >= _MOST:  # routes made per request: let the old ones go
            self._names.clear()
        self._names[id(route)] = (route, found)
        return found


def _path(route: object) -> str:
    path = getattr(route, "path_format", None) or getattr(route, "path", None)
    return path if isinstance(path, str) else UNKNOWN


def _find(routes: Iterable[object], wanted: object, prefix: str) -> str | None:
    for route in routes:
        if route is wanted:
            return prefix + _path(route)
        inside = getattr(route, "routes", None)
        if inside:
            under = getattr(route, "path", "")
            found = _find(inside, wanted, prefix + _CONVERTOR.sub(r"{\1}", under if isinstance(under, str) else ""))
            if found is not None:
                return found
    return None
