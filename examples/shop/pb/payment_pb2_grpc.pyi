# ruff: noqa
"""The types of payment_pb2_grpc, for grpc.aio."""
from collections.abc import Awaitable, Sequence

import grpc.aio

from . import payment_pb2 as pb

class PaymentStub:
    def __init__(self, channel: grpc.aio.Channel) -> None: ...
    def Charge(
        self, request: pb.ChargeRequest, *, timeout: float | None = ...,
        metadata: Sequence[tuple[str, str | bytes]] | None = ...,
    ) -> Awaitable[pb.PaymentDetails]: ...
    def Refund(
        self, request: pb.RefundRequest, *, timeout: float | None = ...,
        metadata: Sequence[tuple[str, str | bytes]] | None = ...,
    ) -> Awaitable[pb.PaymentDetails]: ...
    def Find(
        self, request: pb.FindPaymentRequest, *, timeout: float | None = ...,
        metadata: Sequence[tuple[str, str | bytes]] | None = ...,
    ) -> Awaitable[pb.PaymentDetails]: ...

class PaymentServicer:
    async def Charge(
        self, request: pb.ChargeRequest, context: grpc.aio.ServicerContext[pb.ChargeRequest, pb.PaymentDetails]
    ) -> pb.PaymentDetails: ...
    async def Refund(
        self, request: pb.RefundRequest, context: grpc.aio.ServicerContext[pb.RefundRequest, pb.PaymentDetails]
    ) -> pb.PaymentDetails: ...
    async def Find(
        self, request: pb.FindPaymentRequest, context: grpc.aio.ServicerContext[pb.FindPaymentRequest, pb.PaymentDetails]
    ) -> pb.PaymentDetails: ...

def add_PaymentServicer_to_server(
    servicer: PaymentServicer, server: grpc.aio.Server
) -> None: ...
