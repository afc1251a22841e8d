"""Who may do what on the fabric, and how a login ends."""

from __future__ import annotations

import time
from pathlib import Path

import msgspec
import pytest

from quarterdeck.errors import Denied, Unavailable
from quarterdeck.fabric.nats import NatsFabric
from tests.contracts.fabric_place import DEADLINE_S, QUICK, Connections, Inbox, Place, replayed
from tests.contracts.fabric_server import Harbour


async def test_a_login_of_another_authority_is_denied_with_a_sentence(
    nats: Harbour, tmp_path: Path
) -> None:
    other = Harbour(tmp_path / "other")
    link = other.make("node", "n1", url=nats.server.url)
    with pytest.raises(Denied, match="does not admit 'n1'"):
        await link.start()
    await link.stop()


async def test_a_login_with_the_key_of_someone_else_is_denied(nats: Harbour) -> None:
    thief = nats.identity("thief")

    async def stolen() -> str:
        key = nats.identity("n1").public_key
        return nats.authority.mint_node("n1", key, now=int(time.time()), ttl_s=60)

    link = NatsFabric(
        [nats.server.url], "n1", jwt_source=stolen, signer=thief.sign, spawn=nats.spawn
    )
    with pytest.raises(Denied):
        await link.start()


@pytest.mark.parametrize("subject", ["hb.n2", "ev.n2.a", "out.n2.r.1", "cmd.n1.x", "cmd.n2.x"])
async def test_a_node_cannot_publish_as_another(place: Place, subject: str) -> None:
    server, node = await place.fleet()
    inbox = Inbox()
    await server.subscribe(">", inbox)
    await node.publish(subject, b"forged")
    assert subject in await place.error("permissions violation for publish")
    assert not [message for message in inbox.messages if message.data == b"forged"]


@pytest.mark.parametrize(
    "subject",
    ["cmd.n2.>", "cmd.*.start", "hb.n2", "ev.>", "out.n1.>", "tail.n2.s.in", "_INBOX_s1.>", ">"],
)
async def test_a_node_cannot_listen_to_others(place: Place, subject: str) -> None:
    _, node = await place.fleet()
    with pytest.raises(Denied, match="no right to"):
        await node.subscribe(subject, Inbox())


async def test_a_node_cannot_read_or_change_streams(place: Place) -> None:
    server, node = await place.fleet()
    await node.store("out.n1.r1.1", b"secret")
    with pytest.raises(Unavailable):
        await replayed(node, "out.>")
    for call in ("STREAM.INFO.OUT", "STREAM.PURGE.OUT", "CONSUMER.MSG.NEXT.EV.ingest"):
        with pytest.raises(Denied):
            await node.request(f"$JS.API.{call}", b"", timeout_s=DEADLINE_S)
    assert len(await replayed(server, "out.>")) == 1


async def test_a_revoked_node_is_cut_and_stays_out(nats: Harbour) -> None:
    _, node = await nats.fleet()
    system = await nats.join("system", "sys")
    login = nats.authority.mint_node(
        "n7", nats.identity("n7").public_key, now=int(time.time()), ttl_s=3600
    )

    async def same() -> str:
        return login

    revoked = await nats.join("node", "n7", jwt_source=same)
    now = int(time.time())
    nats.authority.revoke({nats.identity("n7").public_key: now}, prune_before=0, now=now)
    start = time.monotonic()
    await nats.authority.push_account(system)
    await nats.error("link to the fabric lost")
    assert time.monotonic() - start < 2
    assert "n7" in await nats.error("does not admit")
    assert not revoked.connected
    assert node.connected
    nats.kill()
    await nats.up()  # the revocation is part of what the server starts from
    nats.errors.clear()
    again = nats.make("node", "n7", jwt_source=same)
    with pytest.raises(Denied):
        await again.start()


async def test_a_link_dials_at_once_with_a_renewed_login(place: Place) -> None:
    slow = msgspec.structs.replace(QUICK, backoff_first_s=3600.0, backoff_cap_s=3600.0)
    node = await place.join("node", "n1", options=slow)
    back = Connections(node)
    node.reconnect()
    await back.reach(1)
    assert node.connected


async def test_a_stopped_link_takes_nothing(place: Place) -> None:
    _, node = await place.fleet()
    await node.stop()
    assert node.store("out.n1.r1.1", b"x").cancelled()
    with pytest.raises(Unavailable):
        await node.publish("hb.n1", b"")
