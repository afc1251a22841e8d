"""What a simulated command does, said by its own argv, so that an order alone decides it.

    sim ticks=20 every=0.5 size=64 exit=3 stubborn broken hangs undying=9

`ticks` times, every `every` seconds, it writes `size` bytes of numbered lines, mostly to stdout;
then it exits with `exit`. `stubborn` ends only by KILL; `broken` can't be executed at all; `hangs`
never comes to its exec; `undying` does not end of a KILL before that many seconds. The bytes follow
from attempt, stream and number, so anybody can tell what a whole stream must be.
"""

from __future__ import annotations

import msgspec

from quarterdeck.wire.run import OrderMessage

CAN_NOT_EXECUTE = 127


class Behaviour(msgspec.Struct, frozen=True, kw_only=True):
    """One command, read from its argv; an argv of anything else exits with 0 at once."""

    ticks: int = 0
    every: float = 0.1
    size: int = 64
    exit: int = 0
    stubborn: bool = False
    broken: bool = False
    hangs: bool = False
    undying: float = 0.0


def behaviour(order: OrderMessage) -> Behaviour:
    """What an order does on a simulated machine."""
    words = order.argv[1:] if order.argv[:1] == ("sim",) else ()
    pairs = (word.partition("=") for word in words)
    values = {key: value if equals else "true" for key, equals, value in pairs}
    return msgspec.convert(values, Behaviour, strict=False)


def stream_of(number: int) -> str:
    """Which stream the tick of this number writes to."""
    return "stderr" if number % 4 == 3 else "stdout"


def piece(attempt: str, number: int, size: int) -> bytes:
    """What the tick of this number writes."""
    line = f"{attempt} {stream_of(number)} {number} ".encode()
    return (line * (size // len(line) + 1))[: max(size - 1, 0)] + b"\n"
