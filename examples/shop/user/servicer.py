"""Users over gRPC."""

from __future__ import annotations

import grpc.aio

from ..answers import answers
from ..pb import user_pb2 as pb
from ..pb.user_pb2_grpc import UserServicer
from .service import Account, Users


class UserApi(UserServicer):
    """Answer shop.v1.User."""

    def __init__(self, users: Users) -> None:
        self._users = users

    @answers
    async def Register(
        self, request: pb.RegisterRequest, context: grpc.aio.ServicerContext[pb.RegisterRequest, pb.Account]
    ) -> pb.Account:
        """Add a customer."""
        return _account(await self._users.register(request.name, request.password))

    @answers
    async def LogIn(
        self, request: pb.LogInRequest, context: grpc.aio.ServicerContext[pb.LogInRequest, pb.Session]
    ) -> pb.Session:
        """Give a token."""
        session = await self._users.log_in(request.name, request.password)
        return pb.Session(token=session.token, user_id=session.user_id, expires_in_seconds=session.expires_in)

    @answers
    async def Verify(
        self, request: pb.VerifyRequest, context: grpc.aio.ServicerContext[pb.VerifyRequest, pb.Identity]
    ) -> pb.Identity:
        """Say whom a token speaks for."""
        who = await self._users.verify(request.token)
        return pb.Identity(user_id=who.user_id, roles=who.roles, permissions=sorted(who.permissions))

    @answers
    async def Grant(
        self, request: pb.GrantRequest, context: grpc.aio.ServicerContext[pb.GrantRequest, pb.Account]
    ) -> pb.Account:
        """Give a role."""
        return _account(await self._users.grant(request.user_id, request.role, token=request.token))


def _account(account: Account) -> pb.Account:
    return pb.Account(user_id=account.user_id, name=account.name, roles=account.roles)
