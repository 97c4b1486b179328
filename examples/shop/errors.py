"""What a service refuses, said so that a stranger may read it."""

from __future__ import annotations


class ShopError(Exception):
    """A refusal: `reason` is for programs, the message for people.

    `retry_after` is in seconds; None when waiting changes nothing.
    """

    reason = "REFUSED"

    def __init__(self, message: str, *, reason: str | None = None, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        if reason is not None:
            self.reason = reason


class Invalid(ShopError):
    """The request can never be right, whatever the state of the shop."""

    reason = "INVALID"


class NotFound(ShopError):
    """There is no such thing."""

    reason = "NOT_FOUND"


class AlreadyExists(ShopError):
    """The name or key is taken by something else."""

    reason = "ALREADY_EXISTS"


class Refused(ShopError):
    """Right in itself, but not in the state things are in."""


class Unauthenticated(ShopError):
    """Nobody knows who is asking."""

    reason = "UNAUTHENTICATED"


class Forbidden(ShopError):
    """Known, and not allowed."""

    reason = "FORBIDDEN"


class Unavailable(ShopError):
    """Not now; nothing was done, or asking again with the same key does no harm."""

    reason = "UNAVAILABLE"
