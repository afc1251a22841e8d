"""Senders of other tools: rtail, log.io and syslog, listened to and told as traces.

Theory. A listener reads bytes (`datagrams.py`, `connections.py`), a parser of core/foreign makes
messages of them, the gate (`gate.py`) lets each sender say so much and no more, and the book
(`book.py`) holds the traces that are open and the lines that wait for them. One loop
(`deliver.py`) gives the lines to the service of traces, all that came since the last time together:
a line that comes alone goes at once.

Bounds, whatever anybody sends: a message, the connections, the lines that wait, the traces that are
open, the senders that are remembered. A connection that sends too fast is read more slowly; of
datagrams that come too fast the surplus is dropped and counted.

A trace is one (protocol, name, sender) as the sender tells them. It ends when the sender says so,
`LINGER_S` after the last connection that said something for it was closed, or after `SILENT_S`
without a line.
"""
