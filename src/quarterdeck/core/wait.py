"""Why an order to a node would not start at once."""

from __future__ import annotations

from datetime import datetime

from quarterdeck.core import liveness
from quarterdeck.core.model import Node
from quarterdeck.core.states import NodeState


def obstacle(node: Node, now: datetime, *, offline_ttl_s: float) -> str:
    """A sentence for people, empty when nothing stands in the way."""
    match liveness.state(node, now):
        case NodeState.WAITING:
            return "It waits for approval: `qd node approve` lets it in."
        case NodeState.QUARANTINED:
            return "Two agents use its identity: it gets no orders until one of them ends."
        case NodeState.SILENT | NodeState.GONE:
            seen = "It was never seen"
            if node.last_seen is not None:
                seen = (
                    f"It was last seen {max(0, int((now - node.last_seen).total_seconds()))} s ago"
                )
            if offline_ttl_s <= 0:
                return f"{seen}: its task fails at once."
            return f"{seen}: its task waits {offline_ttl_s:g} s for it, then fails."
    if node.draining:
        return (
            f"It is draining: its task waits {offline_ttl_s:g} s for `qd node undrain`, then fails."
        )
    return f"It takes no new work: {node.full}" if node.full else ""
