"""From commands to items of a message, and from answers to events."""

from __future__ import annotations

import msgspec

from quarterdeck.core import attempt as machine
from quarterdeck.core.model import Order, Reason
from quarterdeck.core.reconcile import Command, Release, Revoke, Signal, Start, Stop
from quarterdeck.core.states import RefusalCode
from quarterdeck.wire.run import (
    AnswerItem,
    AttemptRefused,
    AttemptReleased,
    AttemptSnapshot,
    AttemptUnknown,
    OrderItem,
    ReleaseAttempt,
    ReportAttempt,
    RevokeAttempt,
    SignalAttempt,
    StartAttempt,
    StopAttempt,
    order_message,
    signal_items,
    snapshot_record,
)

BATCH_ITEMS = 200
BATCH_BYTES = 4 << 20


def order_item(command: Command, order: Order) -> OrderItem:
    match command:
        case Start(attempt=attempt):
            return StartAttempt(attempt=attempt, order=order_message(order))
        case Stop(attempt=attempt, count=count, signal=signal):
            return StopAttempt(attempt=attempt, count=count, signal=signal, grace_s=order.grace_s)
        case Signal(attempt=attempt, signals=signals):
            return SignalAttempt(attempt=attempt, signals=signal_items(signals))
        case Revoke(attempt=attempt):
            return RevokeAttempt(attempt=attempt)
        case Release(attempt=attempt):
            return ReleaseAttempt(attempt=attempt)


def meaning(asked: OrderItem, answer: AnswerItem) -> machine.Event | None:
    """What an answer means for its attempt; None when it means nothing."""
    match answer:
        case AttemptSnapshot():
            return machine.Reported(snapshot=snapshot_record(answer))
        case AttemptRefused(text=text, code=code):
            called_off = RefusalCode(code) is RefusalCode.REVOKED
            reason = Reason.CANCELLED if called_off else Reason.REFUSED
            return machine.TurnedDown(reason=reason, error=text)
        case AttemptReleased():
            return machine.Dropped()
        case AttemptUnknown():
            if isinstance(asked, ReleaseAttempt):
                return machine.Dropped()
            if isinstance(asked, ReportAttempt | StopAttempt | SignalAttempt):
                return machine.Vanished()
            return None
        case _:
            return None


def batches(items: list[OrderItem]) -> list[tuple[OrderItem, ...]]:
    """Items in groups that fit into one message."""
    batches: list[list[OrderItem]] = [[]]
    size = 0
    for item in items:
        weight = len(msgspec.msgpack.encode(item)) if isinstance(item, StartAttempt) else 100
        if batches[-1] and (size + weight > BATCH_BYTES or len(batches[-1]) >= BATCH_ITEMS):
            batches.append([])
            size = 0
        batches[-1].append(item)
        size += weight
    return [tuple(batch) for batch in batches if batch]
