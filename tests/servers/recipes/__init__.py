"""Each module here is one server; adding a file is all it takes to add a server.

The file sets `RECIPE`, a `tests.servers.recipe.Recipe`; `fetch`, `run` and `server("...")` know it by `RECIPE.name`.
"""

import importlib
import pkgutil

from tests.servers.recipe import Recipe


def recipes() -> dict[str, Recipe]:
    """Every recipe by its name, sorted."""
    modules = (importlib.import_module(f"{__name__}.{found.name}") for found in pkgutil.iter_modules(__path__))
    known: dict[str, Recipe] = {module.RECIPE.name: module.RECIPE for module in modules}
    return dict(sorted(known.items()))


def recipe(name: str) -> Recipe:
    """The recipe called `name`; LookupError names the known ones."""
    known = recipes()
    if name not in known:
        raise LookupError(f"no server is called {name!r}; known: {', '.join(known)}")
    return known[name]
