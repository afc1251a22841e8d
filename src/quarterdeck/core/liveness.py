"""What heartbeats say about a node: ready, silent, gone, or cloned.

A session is one start of one agent. Two machines share one identity (a copied state directory) when
a session beats that was already replaced, or one whose directory never knew the present session: a
state directory remembers the sessions that used it, and beats name them. The node is quarantined. A
copy that was made while its original ran looks like a restart until the original beats again; one
that is older, or a backup, is known at its first beat. A start on the directory that knows the
present session ends the quarantine, until the other beats again.

A beat of an ended session may come late, through a fabric that was cut off meanwhile; it looks the
same. So a quarantine also ends when the other was silent for `COPY_GONE_S` while the present
session beat on: two agents are two only as long as both are heard.

A server that has just come up does not know which sessions were replaced, and the first session of
a directory names none before it: its late beat is taken for a start. The session that names it as
an earlier one is the later of the two, and is the present one again as soon as it beats.
"""

from __future__ import annotations

from datetime import datetime, timedelta

import msgspec

from quarterdeck.core.model import Node, Record
from quarterdeck.core.states import NodeState

SILENT_AFTER_S = 15.0
GONE_AFTER_S = 60.0
REMEMBERED_SESSIONS = 8
COPY_GONE_S = 60.0
SHORT = 8


class Sessions(Record, frozen=True, kw_only=True):
    """The sessions seen of one node: the present one, and those it replaced (newest last).

    `other_at` is when a session that is not the present one was last heard (monotonic seconds).
    """

    current: str = ""
    replaced: tuple[str, ...] = ()
    cloned: bool = False
    other_at: float = 0.0


def beat(sessions: Sessions, session: str, before: str = "", *, now: float = 0.0) -> Sessions:
    """The sessions after a heartbeat of `session` at `now` (monotonic).

    `before` names the sessions that used its state directory earlier: the first `SHORT` characters
    of each, one after the other; empty when the agent can't tell.
    """
    if session == sessions.current:
        if sessions.cloned and now - sessions.other_at >= COPY_GONE_S:
            return msgspec.structs.replace(sessions, cloned=False)
        return sessions
    if session in sessions.replaced and _names(sessions.current, before):
        # a late beat of an earlier session, the first of its directory, was taken for a start
        earlier = tuple(one for one in sessions.replaced if one != session)
        replaced = (*earlier, sessions.current)[-REMEMBERED_SESSIONS:]
        return Sessions(current=session, replaced=replaced, cloned=True, other_at=now)
    if session in sessions.replaced or not _follows(sessions.current, before):
        return msgspec.structs.replace(sessions, cloned=True, other_at=now)
    replaced = (*sessions.replaced, sessions.current) if sessions.current else ()
    return msgspec.structs.replace(
        sessions,
        current=session,
        replaced=replaced[-REMEMBERED_SESSIONS:],
        cloned=sessions.cloned and not before,
    )


def believed(sessions: Sessions, session: str) -> bool:
    """Whether what a session tells of its attempts counts; an empty one is not known.

    Two state directories with one identity tell different ends of one attempt, so none of them is
    believed, and a session that was replaced is not either: if it lives, it lives on a copy.
    """
    return not sessions.cloned and session not in sessions.replaced


def _follows(current: str, before: str) -> bool:
    return not current or not before or _names(current, before)


def _names(current: str, before: str) -> bool:
    earlier = {before[at : at + SHORT] for at in range(0, len(before), SHORT)}
    return current[:SHORT] in earlier


def state(node: Node, now: datetime) -> NodeState:
    """How a node is shown at `now`; one that nobody approved yet is waiting."""
    if not node.approved:
        return NodeState.WAITING
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
