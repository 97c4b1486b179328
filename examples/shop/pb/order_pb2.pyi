# ruff: noqa
# mypy: disable-error-code=type-arg
from . import money_pb2 as _money_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class OrderState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ORDER_STATE_UNSPECIFIED: _ClassVar[OrderState]
    ORDER_STATE_PENDING: _ClassVar[OrderState]
    ORDER_STATE_UNPAID: _ClassVar[OrderState]
    ORDER_STATE_CONFIRMED: _ClassVar[OrderState]
    ORDER_STATE_CANCELLING: _ClassVar[OrderState]
    ORDER_STATE_CANCELLED: _ClassVar[OrderState]

class ShipmentState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SHIPMENT_STATE_UNSPECIFIED: _ClassVar[ShipmentState]
    SHIPMENT_STATE_NONE: _ClassVar[ShipmentState]
    SHIPMENT_STATE_PACKED: _ClassVar[ShipmentState]
    SHIPMENT_STATE_SHIPPED: _ClassVar[ShipmentState]
    SHIPMENT_STATE_DELIVERED: _ClassVar[ShipmentState]
ORDER_STATE_UNSPECIFIED: OrderState
ORDER_STATE_PENDING: OrderState
ORDER_STATE_UNPAID: OrderState
ORDER_STATE_CONFIRMED: OrderState
ORDER_STATE_CANCELLING: OrderState
ORDER_STATE_CANCELLED: OrderState
SHIPMENT_STATE_UNSPECIFIED: ShipmentState
SHIPMENT_STATE_NONE: ShipmentState
SHIPMENT_STATE_PACKED: ShipmentState
SHIPMENT_STATE_SHIPPED: ShipmentState
SHIPMENT_STATE_DELIVERED: ShipmentState

class BasketLine(_message.Message):
    __slots__ = ("sku", "quantity")
    SKU_FIELD_NUMBER: _ClassVar[int]
    QUANTITY_FIELD_NUMBER: _ClassVar[int]
    sku: str
    quantity: int
    def __init__(self, sku: _Optional[str] = ..., quantity: _Optional[int] = ...) -> None: ...

class PlaceRequest(_message.Message):
    __slots__ = ("idempotency_key", "user_id", "lines", "pay_later")
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    LINES_FIELD_NUMBER: _ClassVar[int]
    PAY_LATER_FIELD_NUMBER: _ClassVar[int]
    idempotency_key: str
    user_id: str
    lines: _containers.RepeatedCompositeFieldContainer[BasketLine]
    pay_later: bool
    def __init__(self, idempotency_key: _Optional[str] = ..., user_id: _Optional[str] = ..., lines: _Optional[_Iterable[_Union[BasketLine, _Mapping]]] = ..., pay_later: bool = ...) -> None: ...

class PayRequest(_message.Message):
    __slots__ = ("order_id",)
    ORDER_ID_FIELD_NUMBER: _ClassVar[int]
    order_id: str
    def __init__(self, order_id: _Optional[str] = ...) -> None: ...

class CancelRequest(_message.Message):
    __slots__ = ("order_id",)
    ORDER_ID_FIELD_NUMBER: _ClassVar[int]
    order_id: str
    def __init__(self, order_id: _Optional[str] = ...) -> None: ...

class ShipRequest(_message.Message):
    __slots__ = ("order_id", "to")
    ORDER_ID_FIELD_NUMBER: _ClassVar[int]
    TO_FIELD_NUMBER: _ClassVar[int]
    order_id: str
    to: ShipmentState
    def __init__(self, order_id: _Optional[str] = ..., to: _Optional[_Union[ShipmentState, str]] = ...) -> None: ...

class FindOrderRequest(_message.Message):
    __slots__ = ("order_id",)
    ORDER_ID_FIELD_NUMBER: _ClassVar[int]
    order_id: str
    def __init__(self, order_id: _Optional[str] = ...) -> None: ...

class OrderLine(_message.Message):
    __slots__ = ("sku", "quantity", "price")
    SKU_FIELD_NUMBER: _ClassVar[int]
    QUANTITY_FIELD_NUMBER: _ClassVar[int]
    PRICE_FIELD_NUMBER: _ClassVar[int]
    sku: str
    quantity: int
    price: _money_pb2.Money
    def __init__(self, sku: _Optional[str] = ..., quantity: _Optional[int] = ..., price: _Optional[_Union[_money_pb2.Money, _Mapping]] = ...) -> None: ...

class Transition(_message.Message):
    __slots__ = ("version", "type", "at")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    version: int
    type: str
    at: float
    def __init__(self, version: _Optional[int] = ..., type: _Optional[str] = ..., at: _Optional[float] = ...) -> None: ...

class OrderDetails(_message.Message):
    __slots__ = ("order_id", "user_id", "lines", "total", "state", "reason", "shipment", "tracking", "version", "history", "retry_after_seconds")
    ORDER_ID_FIELD_NUMBER: _ClassVar[int]
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    LINES_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    SHIPMENT_FIELD_NUMBER: _ClassVar[int]
    TRACKING_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    HISTORY_FIELD_NUMBER: _ClassVar[int]
    RETRY_AFTER_SECONDS_FIELD_NUMBER: _ClassVar[int]
    order_id: str
    user_id: str
    lines: _containers.RepeatedCompositeFieldContainer[OrderLine]
    total: _money_pb2.Money
    state: OrderState
    reason: str
    shipment: ShipmentState
    tracking: str
    version: int
    history: _containers.RepeatedCompositeFieldContainer[Transition]
    retry_after_seconds: float
    def __init__(self, order_id: _Optional[str] = ..., user_id: _Optional[str] = ..., lines: _Optional[_Iterable[_Union[OrderLine, _Mapping]]] = ..., total: _Optional[_Union[_money_pb2.Money, _Mapping]] = ..., state: _Optional[_Union[OrderState, str]] = ..., reason: _Optional[str] = ..., shipment: _Optional[_Union[ShipmentState, str]] = ..., tracking: _Optional[str] = ..., version: _Optional[int] = ..., history: _Optional[_Iterable[_Union[Transition, _Mapping]]] = ..., retry_after_seconds: _Optional[float] = ...) -> None: ...
