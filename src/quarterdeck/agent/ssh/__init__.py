"""Agentless nodes: machines that an agent reaches over SSH and for which it acts.

Theory. An agentless node is a whole node: it has an identity, a session, beats and orders of its
own. Only its machine is somewhere else, so only `Host` differs (agent/host.py). On the far side
runs what runs on every node, `agent/machine.py` with its spawner and shims, carried over the
connection as source (carry.py) and served on stdin and stdout (far.py). Here lies a mirror of what
it tells (mirror.py), so that the agent's loops can look without waiting (host.py).

    agent loops ── SshHost ── mirror ◄─ states ─┐
                        └── requests ──► ssh ──►┴─ far ── Machine ── spawner ── shims

Invariants:
- the directories on the far side are the truth. A connection that ends ends this start of the
  node's agent, and nothing else: the shims go on, and the next connection is the next start, which
  adopts what it finds exactly as an agent does that was killed;
- the far end holds the lock of every attempt that no shim holds, so a claim is only handed out
  here and is the same claim there;
- a state is read after the lock was taken, and states arrive in the order in which they were read;
- no answer means unknown: a request whose connection ended raises Unavailable, never OSError;
- no order goes to a host whose key is not the one that was pinned (road.py).
"""
