"""Attacks on identities, each as the sentence that must hold; a real server and a real fabric."""

from __future__ import annotations

import base64
import time
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from sqlalchemy import func, select

from quarterdeck.control.enrol import seen_from
from quarterdeck.control.main import Server
from quarterdeck.core.ids import node_id
from quarterdeck.errors import Denied, Invalid, Unavailable
from quarterdeck.fabric import jwt
from quarterdeck.fabric.base import Refused, Stored
from quarterdeck.fabric.identity import Authority, Identity
from quarterdeck.fabric.jwt import Kind, NKey
from quarterdeck.fabric.nats import NatsFabric
from quarterdeck.store.access import Principal
from quarterdeck.store.base import Tx
from quarterdeck.store.tables import nodes, rejected
from quarterdeck.telemetry import FactRejected, NodeSession, RunEnded
from quarterdeck.wire import subjects
from quarterdeck.wire.enrol import Enrolment, signed_part
from quarterdeck.wire.run import AttemptSnapshot, FactsMessage, LoadMessage
from tests.contracts.fabric_place import QUICK, Inbox
from tests.contracts.fabric_server import Harbour
from tests.integration.server_host import JOIN, Ears, HandNode, accepting, order, serving
from tests.unit.jwt_reader import claims_of

ADMIN = Principal(id="test", kind="api", namespace="*")


@pytest.fixture
async def fleet(place: Harbour) -> AsyncIterator[tuple[Server, Ears, HandNode]]:
    async with serving(place) as (server, ears):
        node = HandNode(place, server, "bad")
        await node.join()
        await ears.until(NodeSession)
        try:
            yield server, ears, node
        finally:
            await node.fabric.stop()


def enrolment(key: Identity, name: str = "x", token: str = JOIN, via: str = "") -> Enrolment:
    return Enrolment(
        public_key=key.public_key,
        name=name,
        signature=key.sign(signed_part(key.public_key, name, token)),
        token=token,
        via=via,
    )


async def works(server: Server, ears: Ears, place: Harbour) -> None:
    """An honest node still gets its work done."""
    honest = HandNode(place, server, "honest")
    honest.answer = accepting
    await honest.join()
    await ears.until(NodeSession, len(ears.all(NodeSession)) + 1)
    ended = len(ears.all(RunEnded))
    run = await order(server, "honest")
    await honest.orders.get()
    await honest.tell(
        AttemptSnapshot(
            attempt=f"{run}-0-1", revision=3, phase="ended", exit_code=0, ended_at=2.0, cached=True
        )
    )
    assert (await ears.until(RunEnded, ended + 1)).outcome == "succeeded"
    await honest.fabric.stop()


# ---- passes


def altered(token: str, **claims: object) -> str:
    """A pass with other claims and the signature it had."""
    head, _, signature = token.split(".")
    body = base64.urlsafe_b64encode(msgspec.json.encode({**claims_of(token), **claims}))
    return f"{head}.{body.rstrip(b'=').decode()}.{signature}"


async def test_a_pass_that_was_forged_altered_or_has_expired_admits_nobody(
    place: Harbour, tmp_path: Path
) -> None:
    key = place.identity("n1")
    now = int(time.time())
    genuine = place.authority.mint_node("n1", key.public_key, now=now, ttl_s=60)
    stranger = Authority.open(tmp_path / "stranger")
    own = NKey.create(Kind.ACCOUNT)
    wide = {"type": "user", "version": 2, "pub": {"allow": [">"]}, "sub": {"allow": [">"]}}
    forged = {
        "another operator's": stranger.mint_node("n1", key.public_key, now=now, ttl_s=60),
        "another name": altered(genuine, name="n2"),
        "a later end": altered(genuine, exp=now + 10**6),
        "an own signer": jwt.encode(
            own,
            {
                "sub": key.public_key,
                "iat": now,
                "exp": now + 60,
                "name": "n1",
                "nats": {**wide, "issuer_account": place.authority.account},
            },
        ),
        "expired": place.authority.mint_node("n1", key.public_key, now=now - 100, ttl_s=60),
        "garbage": "not.a.pass",
        "empty": "",
    }
    for token in forged.values():

        async def source(token: str = token) -> str:
            return token

        link = NatsFabric(
            [place.server.url],
            "n1",
            jwt_source=source,
            signer=key.sign,
            spawn=place.spawn,
            options=QUICK,
        )
        with pytest.raises((Denied, Unavailable)):
            await link.start()
        await link.stop()


@pytest.mark.parametrize("name", ["*", ">", "a.b", "n1.>", "", "a b", "x" * 65, "n\n1"])
def test_no_pass_is_made_for_a_name_that_is_a_wildcard_or_several_tokens(
    name: str, tmp_path: Path
) -> None:
    authority = Authority.open(tmp_path / "keys")
    key = Identity.fresh().public_key
    with pytest.raises(Invalid):
        authority.mint_node(name, key, now=1, ttl_s=60)


@pytest.mark.parametrize(
    "subject",
    ["$SYS.REQ.CLAIMS.UPDATE", "$SYS.REQ.SERVER.PING", "$JS.API.STREAM.DELETE.EV", "_INBOX_s1.x"],
)
async def test_a_node_cannot_speak_to_the_system_the_streams_or_other_inboxes(
    place: Harbour, fleet: tuple[Server, Ears, HandNode], subject: str
) -> None:
    _, _, node = fleet
    await node.fabric.publish(subject, b"forged")
    assert subject.lower() in (await place.error("permissions violation for publish")).lower()


async def test_a_node_that_names_another_as_the_receiver_of_an_answer_reaches_nobody(
    place: Harbour, fleet: tuple[Server, Ears, HandNode]
) -> None:
    server, ears, node = fleet
    victim = HandNode(place, server, "victim")
    await victim.join()
    await ears.until(NodeSession, 2)
    inbox, orders = Inbox(), Inbox()
    await victim.fabric.subscribe(f"_INBOX_{victim.id}.>", inbox)
    await server.fabric.subscribe(subjects.orders(victim.id), orders)
    for reply in (f"_INBOX_{victim.id}.q.1", subjects.orders(victim.id)):
        await node.fabric.publish(subjects.beat(node.id), node.beat_bytes(), reply=reply)
    await ears.until(NodeSession, 2)
    await works(server, ears, place)
    assert inbox.messages == [] and orders.messages == []
    await victim.fabric.stop()


# ---- tokens


async def test_every_token_is_good_for_its_own_purpose_only(
    fleet: tuple[Server, Ears, HandNode],
) -> None:
    server, _, _ = fleet
    _, api = await server.tokens.create("api", by=ADMIN)
    kept, join = await server.tokens.create("join", by=ADMIN)
    assert (await server.principal(join)).kind == "join"  # which the API's guard refuses
    with pytest.raises(Denied, match="make a join token"):
        await server.enrolments.enrol(enrolment(Identity.fresh(), token=api))
    await server.enrolments.enrol(enrolment(Identity.fresh(), token=join))
    await server.tokens.revoke(kept.id, by=ADMIN)
    with pytest.raises(Denied, match="revoked"):
        await server.enrolments.enrol(enrolment(Identity.fresh(), token=join))
    wrong = (join[:-1] + ("0" if join[-1] != "0" else "1"), "", "qd_join_x_y", "*")
    for number, token in enumerate(wrong):
        with pytest.raises(Denied):  # each from another address: nobody waits for the brake
            await server.enrolments.enrol(
                enrolment(Identity.fresh(), token=token), f"10.0.0.{number}"
            )


async def test_a_recorded_enrolment_that_is_sent_again_changes_nothing_and_helps_nobody(
    place: Harbour, fleet: tuple[Server, Ears, HandNode]
) -> None:
    server, _, _ = fleet
    key = Identity.fresh()
    recorded = enrolment(key, "first")
    given = await server.enrolments.enrol(recorded)

    def count(tx: Tx) -> int:
        return int(tx.execute(select(func.count()).select_from(nodes)).scalar_one())

    before = await server.database.read(count)
    again = await server.enrolments.enrol(recorded)
    assert again.node == given.node == node_id(key.public_key)
    assert await server.database.read(count) == before
    thief = Identity.fresh()

    async def stolen() -> str:
        return again.jwt

    link = NatsFabric(
        [place.server.url],
        again.node,
        jwt_source=stolen,
        signer=thief.sign,
        spawn=place.spawn,
        options=QUICK,
    )
    with pytest.raises(Denied):
        await link.start()
    await link.stop()
    for changed in (
        msgspec.structs.replace(recorded, name="other"),
        msgspec.structs.replace(recorded, token=""),
        msgspec.structs.replace(recorded, public_key=thief.public_key),
    ):
        with pytest.raises(Denied, match="not signed by the key"):
            await server.enrolments.enrol(changed)
    await server.removals.remove("first", by="test")
    with pytest.raises(Denied, match="removed"):
        await server.enrolments.enrol(recorded)


@pytest.mark.parametrize("via", ["evil.example/x", "a b", "x" * 300, "h@st", "\n"])
async def test_the_host_that_a_node_says_it_came_by_can_be_nothing_but_a_host(via: str) -> None:
    with pytest.raises(Invalid):
        seen_from("tls://127.0.0.1:4222", via)
    assert seen_from("tls://10.0.0.1:4222", via) == "tls://10.0.0.1:4222"


# ---- floods and garbage


async def test_beats_facts_and_answers_that_are_huge_or_garbage_stop_no_loop(
    place: Harbour, fleet: tuple[Server, Ears, HandNode]
) -> None:
    server, ears, node = fleet
    beat = node.beat_bytes()
    bad = [
        b"",
        b"\xc1",
        b"\x91" * 100_000,  # nests as deep as it is long
        b"\xdf\xff\xff\xff\xff",  # says that four billion entries follow
        beat + b"\0" * (1 << 20),
        node.beat_bytes(session="x" * 100_000),
        node.beat_bytes(session="two tokens"),
        node.beat_bytes(name="\x1b[2J"),
        node.beat_bytes(node="nsomebodyelse0000"),
        node.beat_bytes(at=float("nan")),
        node.beat_bytes(load=LoadMessage(load1=float("inf"))),
        node.beat_bytes(facts=FactsMessage(kernel="6.1\x1b]0;gotcha\x07")),
    ]
    answers: list[Stored | Refused] = []
    for number, data in enumerate(bad, 1):
        await node.fabric.publish(subjects.beat(node.id), data)
        await ears.until(FactRejected, number + sum(isinstance(a, Stored) for a in answers))
        fact = node.fabric.store(subjects.snapshots(node.id), data, message_id=f"bad {number}")
        answers.append(await fact)
    await ears.until(FactRejected, 2 * len(bad) - 1)
    assert [isinstance(answer, Refused) for answer in answers].count(True) == 1, "the huge one"
    await works(server, ears, place)
    assert server.fleet.get(node.id).session == "session-1"


async def test_a_node_that_floods_with_garbage_fills_no_table_and_stops_nobody(
    place: Harbour, fleet: tuple[Server, Ears, HandNode], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, ears, node = fleet
    monkeypatch.setattr("quarterdeck.store.node.REJECTED", 50)
    for number in range(300):
        node.fabric.store(subjects.snapshots(node.id), b"\xc1" * 1000, message_id=f"{number}")
        await node.fabric.publish(subjects.beat(node.id), node.beat_bytes())
    await ears.until(FactRejected, 300)
    await works(server, ears, place)

    def count(tx: Tx) -> int:
        return int(tx.execute(select(func.count()).select_from(rejected)).scalar_one())

    assert await server.database.read(count) <= 50
