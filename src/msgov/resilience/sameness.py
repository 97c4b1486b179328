"""Two calls are the same when their keys are equal, and no key is guessed for what cannot be compared."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable
from hashlib import blake2b
from typing import TypeAlias

from msgov.call import Call
from msgov.errors import RuleError

Key: TypeAlias = Callable[[Call], Hashable]

_PLAIN = 128  # characters up to which a text is kept as it is: whoever sends a megabyte is remembered by 32 bytes
_IDENTITY = object.__hash__


def sameness(key: Key | None) -> Key:
    """Return the function that names a call: equal names are equal calls, None is a call like no other.

    By default a call is named by target, method, `call.key` (whom it is for) and request, where a function's arguments
    compare as `functools.lru_cache` compares them. A `key` of the user's own, a function of the call, stands for the
    last two; it returns None for a call that must be made. The name raises `TypeError`, on the call, where its request
    cannot be hashed, compares by identity, or is known to its edge alone: then `key` must say what makes two the same.
    Raises `RuleError` for a `key` that is no plain function of one thing.
    """
    if key is None:
        return _by_request
    if not callable(key) or inspect.iscoroutinefunction(key):
        raise RuleError.at("key", key, "a plain function of the call")
    try:
        inspect.signature(key).bind(None)
    except TypeError:
        raise RuleError.at("key", key, "a function of one thing: the call") from None
    except ValueError:
        pass  # a builtin that tells no signature
    chosen: Key = key

    def by_key(call: Call) -> Hashable:
        found = chosen(call)
        return None if found is None else (call.target, call.method, _hashed(call, _short(found)))

    return by_key


def _by_request(call: Call) -> Hashable:
    request = call.request
    asked: object
    if isinstance(request, tuple) and len(request) == 2 and isinstance(request[0], tuple) and _named(request[1]):
        asked = (request[0], *sorted(request[1].items())) if request[1] else request[0]
    elif request is None and call.context is not None:
        raise _unnamed(call, "what it asks for is its edge's own")
    elif request is not None and type(request).__hash__ is _IDENTITY:
        raise _unnamed(call, f"{type(request).__name__} compares by identity")
    else:
        asked = _short(request)
    return call.target, call.method, _short(call.key), _hashed(call, asked)


def _named(arguments: object) -> bool:
    return isinstance(arguments, dict)


def _hashed(call: Call, name: object) -> Hashable:
    try:
        hash(name)
    except TypeError as error:
        raise _unnamed(call, str(error)) from None
    return name


def _unnamed(call: Call, why: str) -> TypeError:
    return TypeError(
        f"{call.target} {call.method}".rstrip()
        + f": {why}, so nothing tells equal calls: give key=, a function of the call"
    )


def _short(name: object) -> object:
    if isinstance(name, str) and len(name) > _PLAIN:
        return blake2b(name.encode("utf-8", "surrogatepass"), digest_size=32).digest(), "text"
    if isinstance(name, bytes) and len(name) > _PLAIN:
        return blake2b(name, digest_size=32).digest(), "bytes"
    return name
