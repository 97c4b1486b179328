"""Money over gRPC."""

from __future__ import annotations

import grpc.aio

from ..answers import answers
from ..pb import money_pb2
from ..pb import payment_pb2 as pb
from ..pb.payment_pb2_grpc import PaymentServicer
from .service import Payment, Payments


class PaymentApi(PaymentServicer):
    """Answer shop.v1.Payment."""

    def __init__(self, payments: Payments) -> None:
        self._payments = payments

    @answers
    async def Charge(
        self, request: pb.ChargeRequest, context: grpc.aio.ServicerContext[pb.ChargeRequest, pb.PaymentDetails]
    ) -> pb.PaymentDetails:
        """Take money, once."""
        amount = request.amount
        payment = await self._payments.charge(
            request.order_id, amount.minor, amount.currency, key=request.idempotency_key
        )
        return _details(payment)

    @answers
    async def Refund(
        self, request: pb.RefundRequest, context: grpc.aio.ServicerContext[pb.RefundRequest, pb.PaymentDetails]
    ) -> pb.PaymentDetails:
        """Give it back, or see to it that it is never taken."""
        return _details(await self._payments.refund(request.order_id))

    @answers
    async def Find(
        self,
        request: pb.FindPaymentRequest,
        context: grpc.aio.ServicerContext[pb.FindPaymentRequest, pb.PaymentDetails],
    ) -> pb.PaymentDetails:
        """Say what became of it."""
        return _details(await self._payments.find(request.order_id))


def _details(payment: Payment) -> pb.PaymentDetails:
    amount = money_pb2.Money(minor=payment.amount, currency=payment.currency)
    return pb.PaymentDetails(order_id=payment.order_id, state=f"PAYMENT_STATE_{payment.state}", amount=amount)
