"""What the server knows of its nodes: the beats loop and the table of sessions.

Waits for: heartbeats (`hb.*`), taken in together every `GATHER_S`, those with news at once, and a
tick of `FLUSH_S` for writing what they said (control/heard.py). Each beat is compared with the
recorded attempts of its node (core/reconcile.py) when there are any.

Every server hears every beat and keeps the whole fleet in memory; writing and comparing is done by
the server a node belongs to (control/lease.py). Nodes that another server admitted are read from
the store when they first beat, or when that server says so.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import partial

import msgspec

from quarterdeck.control.changes import Changes, node_of, node_topic
from quarterdeck.control.heard import HeardOf
from quarterdeck.control.lease import Leases
from quarterdeck.control.steady import Steady
from quarterdeck.core import liveness
from quarterdeck.core.model import Attempt, Node
from quarterdeck.core.reconcile import Beat, Watch, compare, orders_for
from quarterdeck.core.states import NodeState
from quarterdeck.errors import Invalid, NotFound, Unavailable
from quarterdeck.fabric.base import Fabric, Message
from quarterdeck.service import Clock, Poke
from quarterdeck.store import node as node_store
from quarterdeck.store import run as run_store
from quarterdeck.store.base import Database
from quarterdeck.telemetry import FactRejected, NodeCloned, NodeSession, Telemetry
from quarterdeck.wire import subjects
from quarterdeck.wire.agentless import AgentlessReport
from quarterdeck.wire.beat import check_figures, check_names, check_words
from quarterdeck.wire.codec import decode, encode
from quarterdeck.wire.run import BeatNow, Heartbeat, load_record

FLUSH_S = 1.0
GATHER_S = 0.5
STRANGERS_S = 0.2
SETTLE_S = 1.0
SESSIONS_AT_ONCE = 4
EVERY = "*"
BEATS_PER_S = 2000
BEAT_BYTES = 128 << 10


class Fleet:
    """Nodes by id, kept current by their beats.

    `dispatch` is poked with the ids of nodes that beat and are to be sent something, `ask` with
    attempts whose node's journal is to be asked, or told again to release.
    """

    def __init__(
        self,
        *,
        database: Database,
        fabric: Fabric,
        clock: Clock,
        steady: Steady,
        telemetry: Telemetry,
        leases: Leases,
        changes: Changes,
        dispatch: Poke,
        ask: Poke,
    ) -> None:
        self._leases = leases
        self._steady = steady
        self._changes = changes
        self._database = database
        self._fabric = fabric
        self._clock = clock
        self._telemetry = telemetry
        self._dispatch = dispatch
        self._ask = ask
        self._nodes: dict[str, Node] = {}
        self._sessions: dict[str, liveness.Sessions] = {}
        self._watches: dict[str, Watch] = {}
        self._beats: dict[str, dict[str, Heartbeat]] = {}
        self._replies: dict[str, str] = {}
        self._on_session: list[Callable[[str], None]] = []
        self.behind: Callable[[], bool] = lambda: False  # whether facts wait to be taken in
        self.agentless_heard: list[Callable[[str, AgentlessReport], None]] = []
        self._arrived = Poke()
        self._wish = Poke()
        self._since: dict[str, float] = {}
        self._order: list[str] | None = None
        self._heard_of = HeardOf(database)
        self._hurry = Poke()
        self._clocks: dict[str, float] = {}
        self._strangers = Poke()

    async def load(self) -> None:
        """Know the recorded nodes."""
        for node in await self._database.read(node_store.every):
            self._admit(node)

    async def listen(self) -> None:
        """Hear beats from now on."""
        self._changes.on_foreign(self._changed_elsewhere)
        await self._fabric.subscribe(subjects.ALL_BEATS, self._heard)
        self._fabric.on_connect(lambda: self._wish(EVERY))
        self._wish(EVERY)

    async def ask_for_beats(self) -> None:
        """Loop: ask for beats: every node after each connection, spread over a moment; a node
        with a new session at once, so that the old one shows itself if it lives. A quarantined
        node is told so instead, at each of its beats."""
        while True:
            asked = await self._wish.wait()
            ids = self._nodes.keys() if EVERY in asked else asked
            within_s = len(ids) / BEATS_PER_S
            for id in list(ids):
                known = self._sessions.get(id)
                wish = BeatNow(within_s=within_s, quarantined=known is not None and known.cloned)
                await self._fabric.publish(subjects.beat_now(id), encode(wish))

    def on_session(self, callback: Callable[[str], None]) -> None:
        """Call back with the id of a node that has started anew."""
        self._on_session.append(callback)

    async def meet_strangers(self) -> None:
        """Loop: read nodes that beat or were changed on another server. Waits for such nodes."""
        while True:
            ids = await self._strangers.wait()
            for node in await self._database.read(partial(node_store.some, ids=ids)):
                known = self._nodes.get(node.id)
                if known is None and not node.removed:
                    self._admit(node)
                    self._wish(node.id)
                elif known is not None and node.removed:
                    self.forget(node.id)
                elif known is not None:
                    self._admit(node)
            await asyncio.sleep(STRANGERS_S)

    def know(self, node: Node, *, here: bool = True) -> None:
        """Take in a node that was enrolled, or what was decided about one; `here`: by this
        server, so that the others are told."""
        if not node.removed:
            self._admit(node)
        if here:
            self._changes.tell(node_topic(node.id))

    def _admit(self, node: Node) -> None:
        self._order = None
        if (known := self._nodes.get(node.id)) is not None:
            self._nodes[node.id] = with_decision(known, node)
            return
        self._nodes[node.id] = node
        self._sessions[node.id] = liveness.Sessions(
            current=node.session,
            cloned=node.quarantined,
            other_at=self._clock.monotonic(),
        )

    def forget(self, node_id: str) -> None:
        """A node was removed: its beats are those of a stranger from now on."""
        if self._nodes.pop(node_id, None) is not None:
            self._order = None
            self._sessions.pop(node_id, None)
            self._watches.pop(node_id, None)
            self._heard_of.forget(node_id)
            self._since.pop(node_id, None)
            self._clocks.pop(node_id, None)

    def _changed_elsewhere(self, topics: tuple[str, ...]) -> None:
        ids = [id for topic in topics if (id := node_of(topic)) is not None]
        if ids:
            self._strangers(*ids)

    def get(self, node_id: str) -> Node:
        """Raises NotFound."""
        node = self._nodes.get(node_id)
        if node is None:
            raise NotFound(
                "node_not_found", f"There is no node {node_id!r}; `qd nodes` lists them."
            )
        return node

    def believes(self, node_id: str, session: str) -> bool:
        """Whether a fact that a session of a node tells counts. What a replaced session told is
        told again by the present one, what a quarantined node told is asked for afterwards; a
        session that has not beaten yet is asked to."""
        known = self._sessions.get(node_id)
        if known is not None and session not in ("", known.current, *known.replaced):
            self._wish(node_id)
        return known is None or liveness.believed(known, session)

    def unsettled_s(self, node_id: str) -> float:
        """How long, in seconds, an order that another session of the node may have taken must not
        be sent to the present one: until it is clear that the other does not live on a copy."""
        since = self._since.get(node_id)
        return 0.0 if since is None else max(0.0, since + SETTLE_S - self._clock.monotonic())

    def clock_offset(self, node_id: str) -> float:
        """Seconds that a node's clock was ahead at its last beat, the way of the beat included."""
        return self._clocks.get(node_id, 0.0)

    def every(self) -> list[Node]:
        """All nodes, by name."""
        if self._order is None:
            by_name = sorted(self._nodes.values(), key=lambda node: (node.name, node.id))
            self._order = [node.id for node in by_name]
        return [self._nodes[id] for id in self._order]

    async def watch_beats(self) -> None:
        """Loop: take beats in as they come, write at most once per `FLUSH_S`."""
        flushed = self._clock.monotonic()
        while True:
            await self._arrived.wait(FLUSH_S if self._heard_of.pending else None)
            await self._hurry.wait(GATHER_S)
            beats = [beat for some in self._beats.values() for beat in some.values()]
            self._beats = {}
            replies, self._replies = self._replies, {}
            urgent = await self._take(beats)
            with contextlib.suppress(Unavailable):  # the node asks again with its next beat
                for reply in replies.values():
                    await self._fabric.publish(reply, b"")
            late = self._clock.monotonic() - flushed >= FLUSH_S
            if self._heard_of.pending and (urgent or late):
                await self._heard_of.write(urgent=urgent)
                flushed = self._clock.monotonic()

    def _heard(self, message: Message) -> None:
        try:
            if len(message.data) > BEAT_BYTES:
                raise Invalid("too_large", f"A beat of {len(message.data)} bytes.")
            beat: Heartbeat = decode(message.data, Heartbeat)
            if beat.node != subjects.node_of(message.subject):
                raise Invalid("wrong_node", f"A beat of {beat.node!r} came on {message.subject}.")
            known = self._nodes.get(beat.node)
            news = _brings_news(beat, known)
            if news:
                check_names(beat)
            check_figures(beat)
            if (
                known is None
                or known.full != beat.full
                or not self._heard_of.told(beat.node, beat.facts)
            ):
                check_words(beat)
        except Invalid as error:
            self._telemetry.emit(FactRejected(subject=message.subject, error=error.message))
            return
        by_session = self._beats.setdefault(beat.node, {})
        if beat.session in by_session or len(by_session) < SESSIONS_AT_ONCE:
            by_session[beat.session] = beat
        self._clocks[beat.node] = beat.at - self._clock.now().timestamp()
        if subjects.is_reply_of(beat.node, message.reply):
            self._replies[beat.node] = message.reply
        if news:
            self._hurry(beat.node)
        self._arrived(beat.node)

    async def _take(self, beats: list[Heartbeat]) -> bool:
        known = [beat for beat in beats if beat.node in self._nodes]
        strangers = [beat.node for beat in beats if beat.node not in self._nodes]
        if strangers:
            self._strangers(*strangers)
        ours = self._leases.ours({beat.node for beat in known})
        now = self._clock.now()
        stayed = _stayed(known, self._nodes, now) if self.behind() else set()
        written_at_once = [self._record(beat, now, ours=beat.node in ours) for beat in known]
        urgent = any(written_at_once)
        mine = [beat for beat in known if beat.node in ours and beat.node not in stayed]
        if not mine:
            return urgent
        ids = {beat.node for beat in mine}
        recorded = await self._database.read(partial(run_store.open_attempts, node_ids=ids))
        for beat in mine:
            if beat.node in self._nodes:  # not removed during the read
                self._compare(beat, {a.id: a for a in recorded.get(beat.node, [])})
        steady = self._steady.now()
        if owed := {node for node, attempts in recorded.items() if orders_for(attempts, steady)}:
            self._dispatch(*owed)
        return urgent

    def _record(self, beat: Heartbeat, at: datetime, *, ours: bool) -> bool:
        """Note a beat; True when it should be written at once."""
        node = self._nodes[beat.node]
        before = self._sessions[beat.node]
        now = self._clock.monotonic()
        after = liveness.beat(before, beat.session, beat.before, now=now)
        self._sessions[beat.node] = after
        if after.cloned:
            self._wish(node.id)
        if after.cloned and not node.quarantined:
            self._telemetry.emit(NodeCloned(node=node.id, name=node.name))
        fresh = msgspec.structs.replace(
            node,
            name=node.given_name or beat.name,
            own_name=beat.name,
            labels=beat.labels,
            session=after.current,
            last_seen=at,
            quarantined=after.cloned,
            facts=self._heard_of.facts(node, beat.facts),
            load=load_record(beat.load),
            full=beat.full,
        )
        self._nodes[node.id] = fresh
        if fresh.name != node.name:
            self._order = None
        if beat.agentless is not None and not after.cloned:
            for told in self.agentless_heard:
                told(node.id, beat.agentless)
        same = after.current == before.current and after.cloned == node.quarantined
        if not same or ours:
            self._heard_of.note(node, fresh, now)
        if same:
            return False
        if before.current and after.current != before.current:
            self._since[node.id] = self._clock.monotonic()
            self._wish(node.id)
        self._telemetry.emit(NodeSession(node=node.id, name=fresh.name, session=beat.session))
        for callback in self._on_session:
            callback(node.id)
        return True

    def _compare(self, beat: Heartbeat, recorded: dict[str, Attempt]) -> None:
        node = self._nodes[beat.node]
        if not (beat.attempts or recorded or node.unknown):
            self._watches.pop(beat.node, None)
            return
        verdict = compare(
            self._watches.get(beat.node, Watch()),
            Beat(
                session=beat.session,
                revisions=dict(beat.attempts),
                complete=beat.attempt_count <= len(beat.attempts),
            ),
            recorded,
        )
        self._watches[beat.node] = verdict.watch
        if node.unknown != verdict.unknown:
            self._nodes[node.id] = msgspec.structs.replace(node, unknown=verdict.unknown)
            self._heard_of.note(node, self._nodes[node.id], self._clock.monotonic())
        if verdict.ask or verdict.unknown:
            self._ask(*verdict.ask, *verdict.unknown)


def _stayed(beats: list[Heartbeat], nodes: Mapping[str, Node], now: datetime) -> set[str]:
    """The nodes that were here all the time: while facts wait to be taken in, what their beats
    show beyond the record is among those, and what they wait for is on its way."""
    return {
        beat.node
        for beat in beats
        if liveness.state(nodes[beat.node], now) is NodeState.READY
        and nodes[beat.node].session == beat.session
    }


def _brings_news(beat: Heartbeat, known: Node | None) -> bool:
    """Whether a beat says anything that the one before did not, figures aside."""
    return known is None or not (
        beat.session == known.session
        and beat.name == known.own_name
        and beat.labels == known.labels
    )


def with_decision(known: Node, read: Node) -> Node:
    """A node with what people decided about it: that is the store's to say, all else the beats'."""
    if read.decision <= known.decision:
        return known
    return msgspec.structs.replace(
        known,
        name=read.given_name or known.own_name or read.name,
        given_name=read.given_name,
        server_labels=read.server_labels,
        draining=read.draining,
        approved=read.approved,
        decision=read.decision,
    )
