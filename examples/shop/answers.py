"""A servicer's method answers with a reply, or with a refusal that a stranger may read."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Coroutine
from typing import Final, TypeVar

import grpc
import grpc.aio
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from . import errors

DOMAIN = "shop.v1"  # who gave the reason
DETAILS = "grpc-status-details-bin"  # where google.rpc.Status travels

CODES: Final = {
    errors.Invalid: grpc.StatusCode.INVALID_ARGUMENT,
    errors.NotFound: grpc.StatusCode.NOT_FOUND,
    errors.AlreadyExists: grpc.StatusCode.ALREADY_EXISTS,
    errors.Refused: grpc.StatusCode.FAILED_PRECONDITION,
    errors.Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    errors.Forbidden: grpc.StatusCode.PERMISSION_DENIED,
    errors.Unavailable: grpc.StatusCode.UNAVAILABLE,
}

log = logging.getLogger(__name__)

Servicer = TypeVar("Servicer")
Ask = TypeVar("Ask", bound=Message)
Give = TypeVar("Give", bound=Message)
Method = Callable[[Servicer, Ask, "grpc.aio.ServicerContext[Ask, Give]"], Coroutine[object, None, Give]]


def answers(method: Method[Servicer, Ask, Give]) -> Method[Servicer, Ask, Give]:
    """Turn what the business refuses into a gRPC status; what it never meant to raise stays inside, as INTERNAL."""

    @functools.wraps(method)
    async def answer(self: Servicer, request: Ask, context: grpc.aio.ServicerContext[Ask, Give]) -> Give:
        try:
            return await method(self, request, context)
        except errors.ShopError as refusal:
            await refuse(context, refusal)
        except grpc.aio.AbortError:
            raise
        except Exception:
            log.exception("%s failed", method.__qualname__)
            await context.abort(grpc.StatusCode.INTERNAL, "internal error")
        raise AssertionError("abort returned")

    return answer


async def refuse(context: grpc.aio.ServicerContext[Ask, Give], refusal: errors.ShopError) -> None:
    """Abort with the code of the refusal's class, its reason, and when to come back."""
    code = CODES[type(refusal)]
    status = status_pb2.Status(code=code.value[0], message=str(refusal))
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason=refusal.reason, domain=DOMAIN))
    if refusal.retry_after is not None:
        delay = Duration()
        delay.FromMilliseconds(round(refusal.retry_after * 1000))
        status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=delay))
    await context.abort(code, str(refusal), ((DETAILS, status.SerializeToString()),))
