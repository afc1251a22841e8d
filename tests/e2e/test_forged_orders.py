"""Orders that no server gave: whoever reaches a node's subject still can't make it do anything."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from quarterdeck.errors import Unavailable
from quarterdeck.fabric.identity import Authority, Identity
from quarterdeck.fabric.nats import NatsFabric
from quarterdeck.wire import subjects
from quarterdeck.wire.codec import Envelope, Sealed, decode, encode, seal
from quarterdeck.wire.run import Answers, OrderMessage, Orders, StartAttempt
from tests.contracts.fabric_place import QUICK, Inbox
from tests.e2e.up import Up, running

ANSWER_S = 1.0


@asynccontextmanager
async def intruder(up: Up) -> AsyncIterator[NatsFabric]:
    """A link with every right of a server on the fabric, without the key that signs orders."""
    authority = Authority.open(up.data / "keys")
    key = Identity.fresh()
    tasks: set[asyncio.Task[None]] = set()

    def spawn(work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work, name=name)
        tasks.add(task)
        return task

    async def login() -> str:
        now = int(time.time())
        return authority.mint_server("intruder", key.public_key, now=now, ttl_s=300)

    link = NatsFabric(
        [up.ready["fabric_url"]],
        "intruder",
        jwt_source=login,
        signer=key.sign,
        spawn=spawn,
        options=QUICK,
    )
    await link.start()
    try:
        yield link
    finally:
        await link.stop()


def start(attempt: str, file: Path) -> bytes:
    order = OrderMessage(argv=("/bin/sh", "-c", f"echo ran >> {file}"))
    return encode(Orders(items=(StartAttempt(attempt=attempt, order=order),)))


async def test_orders_that_are_forged_or_sent_again_change_nothing(tmp_path: Path) -> None:
    with running(tmp_path / "up", nodes=1) as up:
        (found,) = (await asyncio.to_thread(up.api, "/v1/nodes"))["items"]
        id, name = found["id"], found["node"]
        genuine = Identity.open(up.data / "keys" / "orders.nk")
        forged, once = tmp_path / "forged", tmp_path / "once"
        async with intruder(up) as link:
            heard = Inbox()
            await link.subscribe(subjects.orders(id), heard)
            run = await asyncio.to_thread(up.detach, name, "--", f"echo ran >> {once}")
            assert (await asyncio.to_thread(up.ended, run))["outcome"] == "succeeded"
            recorded = heard.messages[0].data
            known: Sealed = decode(decode(recorded, Envelope).sealed, Sealed)
            session = known.session

            async def send(data: bytes) -> Answers | None:
                try:
                    answer = await link.request(subjects.orders(id), data, timeout_s=ANSWER_S)
                except Unavailable:
                    return None
                answers: Answers = decode(answer, Answers)
                return answers

            body = start("0000000000000000-0-1", forged)
            true = Sealed(to=id, session=session, id="x", body=body)
            thief = Identity.fresh()
            unsigned = encode(Envelope(sealed=encode(true), signature=b""))
            assert await send(unsigned) is None
            assert await send(seal(true, thief.sign)) is None
            mixed = Envelope(sealed=encode(true), signature=decode(recorded, Envelope).signature)
            assert await send(encode(mixed)) is None
            other_node = Sealed(to="nsomebodyelse0000", session=session, id="x", body=body)
            assert await send(seal(other_node, genuine.sign)) is None
            other_session = Sealed(to=id, session="0" * 16, id="x", body=body)
            told = await send(seal(other_session, genuine.sign))
            assert told is not None and (told.session, told.items) == (session, ())
            for garbage in (b"", b"\xc1", b"\x91" * 100_000):
                assert await send(garbage) is None
            for message in list(heard.messages):  # start, release: all that was ever said
                await send(message.data)
        last = await asyncio.to_thread(up.qd, "run", "-t", name, "--", "echo still here")
        assert last.stdout == b"still here\n"
        assert once.read_text() == "ran\n"
        assert not forged.exists()
