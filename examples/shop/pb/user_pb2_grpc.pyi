# ruff: noqa
"""The types of user_pb2_grpc, for grpc.aio."""
from collections.abc import Awaitable, Sequence

import grpc.aio

from . import user_pb2 as pb

class UserStub:
    def __init__(self, channel: grpc.aio.Channel) -> None: ...
    def Register(
        self, request: pb.RegisterRequest, *, timeout: float | None = ...,
        metadata: Sequence[tuple[str, str | bytes]] | None = ...,
    ) -> Awaitable[pb.Account]: ...
    def LogIn(
        self, request: pb.LogInRequest, *, timeout: float | None = ...,
        metadata: Sequence[tuple[str, str | bytes]] | None = ...,
    ) -> Awaitable[pb.Session]: ...
    def Verify(
        self, request: pb.VerifyRequest, *, timeout: float | None = ...,
        metadata: Sequence[tuple[str, str | bytes]] | None = ...,
    ) -> Awaitable[pb.Identity]: ...
    def Grant(
        self, request: pb.GrantRequest, *, timeout: float | None = ...,
        metadata: Sequence[tuple[str, str | bytes]] | None = ...,
    ) -> Awaitable[pb.Account]: ...

class UserServicer:
    async def Register(
        self, request: pb.RegisterRequest, context: grpc.aio.ServicerContext[pb.RegisterRequest, pb.Account]
    ) -> pb.Account: ...
    async def LogIn(
        self, request: pb.LogInRequest, context: grpc.aio.ServicerContext[pb.LogInRequest, pb.Session]
    ) -> pb.Session: ...
    async def Verify(
        self, request: pb.VerifyRequest, context: grpc.aio.ServicerContext[pb.VerifyRequest, pb.Identity]
    ) -> pb.Identity: ...
    async def Grant(
        self, request: pb.GrantRequest, context: grpc.aio.ServicerContext[pb.GrantRequest, pb.Account]
    ) -> pb.Account: ...

def add_UserServicer_to_server(
    servicer: UserServicer, server: grpc.aio.Server
) -> None: ...
