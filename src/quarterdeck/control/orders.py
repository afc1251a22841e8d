"""Talking to an agent: signed envelopes out, decoded answers back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from quarterdeck.control.observe import Fleet
from quarterdeck.core.model import Node
from quarterdeck.errors import Invalid, NotFound, Unavailable
from quarterdeck.fabric.base import Fabric
from quarterdeck.wire import subjects
from quarterdeck.wire.codec import Sealed, decode, encode, seal
from quarterdeck.wire.run import AnswerItem, Answers, OrderItem, Orders, OutputBytes, ReadOutput

TIMEOUT_S = 10.0


class Orderer:
    """Signs for the servers of this fleet and asks one node at a time."""

    def __init__(
        self,
        *,
        fabric: Fabric,
        fleet: Fleet,
        sign: Callable[[bytes], bytes],
        new_id: Callable[[], str],
    ) -> None:
        self._fabric = fabric
        self._fleet = fleet
        self._sign = sign
        self._new_id = new_id
        self._asking: dict[str, set[asyncio.Timeout]] = {}
        fleet.on_session(self._give_up)

    def reachable(self, node_id: str) -> bool:
        """Whether the node has ever announced a session and may be given orders."""
        try:
            node = self._fleet.get(node_id)
        except NotFound:
            return False
        if not self._fabric.connected:
            return False
        return bool(node.session) and not node.quarantined and not node.removed

    async def ask(
        self, node_id: str, items: tuple[OrderItem, ...], *, timeout_s: float = TIMEOUT_S
    ) -> tuple[AnswerItem, ...]:
        """One answer per item. Raises Unavailable: `no_responders`, `timeout`, `disconnected`,
        `node_away`, `stale_session` or `bad_answer`."""
        node = self._node(node_id)
        sealed = Sealed(
            to=node.id, session=node.session, id=self._new_id(), body=encode(Orders(items=items))
        )
        data = await self._request(node, seal(sealed, self._sign), timeout_s)
        try:
            answers: Answers = decode(data, Answers)
        except Invalid as error:
            raise Unavailable(
                "bad_answer",
                f"Node {node.name} gave an answer that can't be read ({error}); it is asked "
                "again. If it stays, bring agent and server to one version.",
            ) from error
        if answers.node == node.id and answers.session != node.session:
            raise Unavailable(
                "stale_session",
                f"The agent of node {node.name} has started anew meanwhile; it is asked again at "
                "its next beat.",
            )
        if answers.node != node.id or len(answers.items) != len(items):
            raise Unavailable(
                "bad_answer",
                f"Node {node.name} gave an answer that fits no order; it is asked again. If it "
                "stays, bring agent and server to one version.",
            )
        self._node(node_id)  # one that was quarantined meanwhile is not believed
        return answers.items

    async def read_output(
        self, node_id: str, attempt: str, stream: str, offset: int, length: int
    ) -> OutputBytes | None:
        """Bytes from the node's own files; None when it has no such attempt.

        Raises Unavailable when the node does not answer.
        """
        order = ReadOutput(attempt=attempt, stream=stream, offset=offset, length=length)
        (answer,) = await self.ask(node_id, (order,))
        return answer if isinstance(answer, OutputBytes) else None

    async def _request(self, node: Node, data: bytes, timeout_s: float) -> bytes:
        """Ask, until the answer, the timeout, or a new session of the node: the agent that was
        asked is gone then."""
        asking = self._asking.setdefault(node.id, set())
        try:
            async with asyncio.timeout(None) as patience:
                asking.add(patience)
                return await self._fabric.request(
                    subjects.orders(node.id), data, timeout_s=timeout_s
                )
        except TimeoutError as error:
            raise Unavailable(
                "stale_session",
                f"The agent of node {node.name} has started anew meanwhile; it is asked again at "
                "its next beat.",
            ) from error
        finally:
            asking.discard(patience)
            if not asking:
                self._asking.pop(node.id, None)

    def _give_up(self, node_id: str) -> None:
        for patience in self._asking.get(node_id, ()):
            patience.reschedule(0)

    def _node(self, node_id: str) -> Node:
        if not self.reachable(node_id):
            raise Unavailable(
                "node_away",
                f"Node {node_id} can't be given orders now: it is silent, quarantined or not "
                "approved. `qd node show` says which; it gets them when it is back.",
            )
        return self._fleet.get(node_id)
