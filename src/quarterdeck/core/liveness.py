"""What heartbeats say about a node: ready, silent, gone, or cloned.

A session is one start of one agent. Beats of a session that was already replaced mean that two
machines share one identity (a copied state directory): the node is quarantined.
"""

from __future__ import annotations

from datetime import datetime, timedelta

import msgspec

from quarterdeck.core.model import Node, Record
from quarterdeck.core.states import NodeState

SILENT_AFTER_S = 15.0
GONE_AFTER_S = 60.0
REMEMBERED_SESSIONS = 8


class Sessions(Record, frozen=True, kw_only=True):
    """The sessions seen of one node: the present one, and those it replaced (newest last)."""

    current: str = ""
    replaced: tuple[str, ...] = ()
    cloned: bool = False


def beat(sessions: Sessions, session: str) -> Sessions:
    """The sessions after a heartbeat of `session`."""
    if session == sessions.current:
        return sessions
    if session in sessions.replaced:
        return msgspec.structs.replace(sessions, cloned=True)
    replaced = (*sessions.replaced, sessions.current) if sessions.current else ()
    return msgspec.structs.replace(
        sessions, current=session, replaced=replaced[-REMEMBERED_SESSIONS:]
    )


def state(node: Node, now: datetime) -> NodeState:
    """How a node is shown at `now`."""
    if node.quarantined:
        return NodeState.QUARANTINED
    if node.last_seen is None:
        return NodeState.GONE
    age = now - node.last_seen
    if age < timedelta(seconds=SILENT_AFTER_S):
        return NodeState.READY
    if age < timedelta(seconds=GONE_AFTER_S):
        return NodeState.SILENT
    return NodeState.GONE
