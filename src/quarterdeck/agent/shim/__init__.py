"""The shim: parent of one attempt's process; it outlives the agent and needs nobody.

Theory. An attempt is a directory (files.py). The agent writes `order` there, takes the lock and
asks the spawner for a shim; from then on the directory is the only thing the two share:

    order ──► [fork child, blocked at a gate] ──► started (fsynced) ──► gate opens ──► exec
    stop, contact ──► life.py decides ──► signals to the tree
    pipes ──► pump.py ──► stdout, stderr, times
    end of the main process ──► drain ──► exit.json (the last word; nothing is written after it)

Invariants:
- at most one exec per attempt: the gate opens only after `started` is on disk, and a directory
  that has a `started` is never started again;
- no byte is lost: what was read is held until the disk takes it, and the child blocks meanwhile;
- a foreign process is never signalled: identity is (boot id, pid, start ticks), see tree.py;
- one thread but for the moment of an fsync (disk.py), one poll loop (main.py), every decision in a
  pure `step` (life.py).

Standard library only, and nothing of ours: a shim lives for as long as its process does, across
upgrades of everything else.
"""
