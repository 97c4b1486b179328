"""Events that are neither lost nor applied twice: at-least-once delivery, exactly-once effect."""

from msgov.messaging.bus import Bus, Delivery, Letter, Subscription, open  # noqa: A004  read as messaging.open
from msgov.messaging.consumer import Consumer
from msgov.messaging.consumption import ConsumerRule
from msgov.messaging.idempotency import Idempotency, KeyConflict
from msgov.messaging.message import Message, Poison
from msgov.messaging.relay import Relay
from msgov.messaging.transaction import Transactions, Tx

__all__ = [
    "Bus",
    "Consumer",
    "ConsumerRule",
    "Delivery",
    "Idempotency",
    "KeyConflict",
    "Letter",
    "Message",
    "Poison",
    "Relay",
    "Subscription",
    "Transactions",
    "Tx",
    "open",
]
