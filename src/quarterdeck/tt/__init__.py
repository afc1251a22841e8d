"""tt: run a command here and show it to everybody, live. Standard library only, Python 3.8 on.

Theory. Three processes, and none waits for another longer than it must:

    tt (front.py) ── pipes or a terminal ── the command          forked first, before any import
       │ frames, never blocking ▲ sentences
       ▼                        │
    sender (sender.py) ── HTTP ── server                         a session of its own

The front copies what the command writes to where tt was told to write, hands a copy to the sender,
forwards signals, and leaves with the command's code. The sender finds the server, begins the trace,
keeps what the server has not taken (memory, then a spool file, then a count of what was dropped:
buffer.py), and goes on after the front has left until everything is delivered, or for a while.

Invariants:
- the command starts before the server is thought of, and nothing that happens to the sender, the
  server or the disk changes its input, output, signals or exit code;
- its output is slowed by who reads it and by this machine, never by the network;
- bytes stay bytes; offsets count the bytes of a stream that exist, so what is sent twice is kept
  once; what was dropped is counted where it was;
- a terminal that was taken is given back on every end, also when the front is killed.

The front imports only what is compiled into Python or loaded anyway: the start of a command must
not cost more than Python's own (tests/unit/test_tt_start.py counts).
"""
