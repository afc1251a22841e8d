"""A leaf node hears of a removal at once: the answer that it asked for has waited for that."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from quarterdeck.control.leaf import LeafEnrolments
from quarterdeck.control.parts import Leaves
from quarterdeck.core.brake import Brake
from quarterdeck.fabric.identity import Identity
from quarterdeck.service import Services, SystemClock
from quarterdeck.store import access as access_store
from quarterdeck.store.sqlite import SqliteDatabase
from quarterdeck.wire.leaf import LeafEnrolment, leaf_part, seen_of

TOKEN = "qd_leaf_0000000000000000_" + "0" * 32


def enrolment(key: Identity, seen: str) -> LeafEnrolment:
    return LeafEnrolment(
        public_key=key.public_key,
        token=TOKEN,
        signature=key.sign(leaf_part(key.public_key, TOKEN, "")),
        seen=seen,
    )


async def test_the_answer_to_a_leaf_waits_until_there_is_somebody_it_must_not_admit(
    tmp_path: Path,
) -> None:
    whom = ["before"]
    looked = asyncio.Event()

    def accounts() -> dict[str, str]:
        looked.set()
        others = dict.fromkeys(
            ("operator_jwt", "account", "system_account", "system_account_jwt"), "x"
        )
        return {"account_jwt": whom[0], **others}

    clock, draining = SystemClock(), asyncio.Event()
    services = Services(lambda *_: None, clock)
    database = SqliteDatabase(tmp_path / "record.sqlite3")
    await database.start()
    now = datetime(2026, 1, 1, tzinfo=UTC)
    await database.write(partial(access_store.register, token=TOKEN, namespace="default", now=now))
    made = LeafEnrolments(
        database=database,
        clock=clock,
        leaves=Leaves(mint=lambda *_: "pass", certify=lambda *_: "", accounts=accounts),
        urls=("/fabric",),
        brake=Brake(),
        draining=draining,
    )
    key = Identity.open(tmp_path / "leaf.nk")
    try:
        asked = services.spawn(made.enrol(enrolment(key, seen_of("before"))), "asked")
        await looked.wait()
        whom[0] = "after a removal"
        assert (await asked).account_jwt == "after a removal"
        assert (await made.enrol(enrolment(key, ""))).account_jwt == "after a removal"
        draining.set()
        waits_for_nobody = await made.enrol(enrolment(key, seen_of("after a removal")))
        assert waits_for_nobody.account_jwt == "after a removal"
    finally:
        await services.stop()
        await database.stop()
