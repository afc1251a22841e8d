"""What a server tells a node of the machines that it is to reach over SSH, and what that says."""

from __future__ import annotations

from quarterdeck.core.agentless import Agentless
from quarterdeck.wire.codec import WireMessage

PROOF = "via"
PROBLEMS = 200
PROBLEM_LENGTH = 400


class AgentlessMessage(WireMessage, frozen=True, kw_only=True):
    """One machine, as it was ordered (core/agentless.py)."""

    id: str
    name: str
    place: str
    identity: str = ""
    host_key: str = ""
    jump: str = ""
    jump_key: str = ""
    accept_new: bool = False


class KeepAgentless(WireMessage, frozen=True, kw_only=True, tag="agentless"):
    """All machines that a node is to reach from now on; `version` names this list. `attempt` is
    empty: orders are told by it."""

    version: str
    nodes: tuple[AgentlessMessage, ...]
    attempt: str = ""


class AgentlessKept(WireMessage, frozen=True, kw_only=True, tag="agentless_kept"):
    """The list is written down and acted on."""

    version: str


class AgentlessReport(WireMessage, frozen=True, kw_only=True):
    """In the beats of a node that can reach others: the version of the list it has, by the ids of
    the list why it does not reach one, and which it has only begun to try; at most `PROBLEMS`."""

    version: str = ""
    problems: dict[str, str] = {}
    trying: tuple[str, ...] = ()


def agentless_message(wanted: Agentless) -> AgentlessMessage:
    """Core to wire."""
    return AgentlessMessage(
        id=wanted.id,
        name=wanted.name,
        place=wanted.place,
        identity=wanted.identity,
        host_key=wanted.host_key,
        jump=wanted.jump,
        jump_key=wanted.jump_key,
        accept_new=wanted.accept_new,
    )


def vouched_part(id: str, public_key: str) -> bytes:
    """What a node signs with its own key so that one it reaches can enrol with a key of its own."""
    return "\n".join(["quarterdeck-via", id, public_key]).encode()
