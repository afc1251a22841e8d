"""What senders of other tools say: bytes of their protocols become messages of ours.

    rtail      UDP    one JSON object a datagram                          rtail.py
    log.io 0.3 TCP    words separated by `|`, CRLF ends a message         logio.py
    log.io 0.4 TCP    the same, NUL ends a message                        logio.py
    syslog     UDP    one message a datagram (RFC 5424 or 3164)           syslog.py
    syslog     TCP    counted octets, or LF ends a message (RFC 6587)     syslog.py

A parser is fed bytes as they come and gives the messages that are whole. However the bytes were
cut, the messages are the same; one that can't be read becomes `Bad` and the next is read as if it
had not been there. A parser holds at most one message, and no message is longer than
`MESSAGE_BYTES`.
"""

from quarterdeck.core.foreign.message import (
    MESSAGE_BYTES,
    Bad,
    Bound,
    Closed,
    Line,
    Message,
    Parser,
    Told,
)
from quarterdeck.core.foreign.names import sender_id, trace_name

__all__ = [
    "MESSAGE_BYTES",
    "Bad",
    "Bound",
    "Closed",
    "Line",
    "Message",
    "Parser",
    "Told",
    "sender_id",
    "trace_name",
]
