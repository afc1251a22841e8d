"""The fabric in one process, for simulations: one core (the nats-server), a link per principal.

The links are the very ones of fabric/nats (Link, Outbox, pulls, replays) over a connection in
memory, so a simulation runs the code that production runs. What is imitated is nats-server:
subjects, rights, JetStream. Time is the event loop's, chance is the caller's; there are no threads
and nothing is ordered by hash or address, so the same seed on a loop with virtual time gives the
same order of everything.
"""

from quarterdeck.fabric.memory.core import MemoryCore
from quarterdeck.fabric.memory.fabric import MemoryFabric
from quarterdeck.fabric.memory.wire import Chance, Faults

__all__ = ["Chance", "Faults", "MemoryCore", "MemoryFabric"]
