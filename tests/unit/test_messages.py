"""Messages on the wire: recordings are understood for ever, later fields ignored, records made."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from quarterdeck.core.model import Facts, Load, Order, Reason, Snapshot, StreamEnd
from quarterdeck.core.states import Phase, RefusalCode
from quarterdeck.core.stream import Mark
from quarterdeck.wire.codec import (
    Chunk,
    Envelope,
    decode,
    decode_chunk,
    encode_chunk,
    open_envelope,
)
from quarterdeck.wire.marks import decode_marks, encode_marks
from quarterdeck.wire.run import (
    Answers,
    AttemptBusy,
    AttemptRefused,
    AttemptReleased,
    AttemptSnapshot,
    AttemptUnknown,
    FactsMessage,
    Heartbeat,
    LoadMessage,
    OrderMessage,
    Orders,
    OutputBytes,
    ReadOutput,
    ReleaseAttempt,
    ReportAttempt,
    RevokeAttempt,
    StartAttempt,
    StopAttempt,
    StreamEndMessage,
    facts_record,
    load_record,
    order_message,
    snapshot_record,
)

A = "01hzy3k4m5n6p7q8-3-1"

# ---- recordings of the first release: what was sent once is understood for ever

ORDERS = bytes.fromhex(
    "81a56974656d739683a474797065a57374617274a7617474656d7074b43031687a79336b346d356e36703771"
    "382d332d31a56f726465728ba46172677693a27368a22d63a76563686f206869a6736372697074c40a23212f"
    "62696e2f73680aa46172677392a161a162a3656e7681a44c414e47a143a3637764a42f737276a5737464696e"
    "c402696ea974696d656f75745f73cb403e800000000000a767726163655f73cb4014000000000000aa6d6178"
    "5f6f7574707574ce00100000a96c6566746f76657273a46b696c6cac6c6f73745f61667465725f73cb404e00"
    "000000000085a474797065a473746f70a7617474656d7074b43031687a79336b346d356e36703771382d332d"
    "31a5636f756e7402a67369676e616c09a767726163655f73cb3ff800000000000082a474797065a67265766f"
    "6b65a7617474656d7074b43031687a79336b346d356e36703771382d332d3182a474797065a772656c656173"
    "65a7617474656d7074b43031687a79336b346d356e36703771382d332d3182a474797065a67265706f7274a7"
    "617474656d7074b43031687a79336b346d356e36703771382d332d3185a474797065a472656164a761747465"
    "6d7074b43031687a79336b346d356e36703771382d332d31a673747265616da67374646f7574a66f66667365"
    "7407a66c656e677468cd1000"
)
ANSWERS = bytes.fromhex(
    "83a46e6f6465b06e6162636465666768696a6b6c6d6e6fa773657373696f6ea27331a56974656d7396de0011"
    "a474797065a8736e617073686f74a7617474656d7074b43031687a79336b346d356e36703771382d332d31a8"
    "7265766973696f6e04a57068617365a5656e646564ab61636365707465645f6174cb41dcc25da0100000aa73"
    "7461727465645f6174cb41dcc25da0200000a8656e6465645f6174cb41dcc25da0700000a6726561736f6ea7"
    "74696d656f7574a9657869745f636f6465cc8fa67369676e616c0fa56572726f72b1497420746f6f6b20746f"
    "6f206c6f6e672ea67374646f757483a5627974657305a6736861323536d94061626162616261626162616261"
    "6261626162616261626162616261626162616261626162616261626162616261626162616261626162616261"
    "62616261626162a764726f7070656401a673746465727282a5627974657302a6736861323536d94063646364"
    "6364636463646364636463646364636463646364636463646364636463646364636463646364636463646364"
    "63646364636463646364636463646364a97375727669766f727301ab6b696c6c5f6661696c6564c3a6636163"
    "686564c3a573746f70730284a474797065a772656675736564a7617474656d7074b43031687a79336b346d35"
    "6e36703771382d332d31a4636f6465a46469736ba474657874a546756c6c2e82a474797065a775"
    "6e6b6e6f776ea7617474656d7074b43031687a79336b346d356e36703771382d332d3182a474797065a87265"
    "6c6561736564a7617474656d7074b43031687a79336b346d356e36703771382d332d3183a474797065a46275"
    "7379a7617474656d7074b43031687a79336b346d356e36703771382d332d31a474657874a64c617465722e87"
    "a474797065a56279746573a7617474656d7074b43031687a79336b346d356e36703771382d332d31a6737472"
    "65616da6737464657272a66f666673657403a464617461c40200ffa473697a6505a566696e616cc3"
)
BEAT = bytes.fromhex(
    "8ba46e6f6465b06e6162636465666768696a6b6c6d6e6fa773657373696f6ea27331a66e756d62657209a46e"
    "616d65a477656231a26174cb41dcc25da0a00000a5666163747388a26f73a664656269616ea66b65726e656c"
    "a3362e31a461726368a67838365f3634a46370757304a7626f6f745f6964a162a8686f73746e616d65a47765"
    "6231a961646472657373657391a831302e302e302e31a776657273696f6ea5302e312e30a46c6f616487ab63"
    "70755f70657263656e74cb4029000000000000a56c6f616431cb3fe0000000000000ac6d656d6f72795f746f"
    "74616c64ab6d656d6f72795f7573656432aa6469736b5f746f74616c0aa96469736b5f6672656505a8617474"
    "656d70747301a66c6162656c7381a3656e76a470726f64a466756c6ca46469736ba8617474656d7074739192"
    "b43031687a79336b346d356e36703771382d332d3104ad617474656d70745f636f756e7401"
)
ENVELOPE = bytes.fromhex(
    "82a67365616c6564c45184a2746fa26e31a773657373696f6ea27331a26964a26931a4626f6479c43281a569"
    "74656d739182a474797065a67265706f7274a7617474656d7074b43031687a79336b346d356e36703771382d"
    "332d31a97369676e6174757265c4400707070707070707070707070707070707070707070707070707070707"
    "0707070707070707070707070707070707070707070707070707070707070707070707"
)
CHUNK = bytes.fromhex("010200000000000111700006db53246aa001006869ff")
MARKS = bytes.fromhex("01000000000000000001a06a2453db060002050000000000000002a06a2453db0600")


def test_recorded_orders_are_understood() -> None:
    order = OrderMessage(
        argv=("sh", "-c", "echo hi"),
        script=b"#!/bin/sh\n",
        args=("a", "b"),
        env={"LANG": "C"},
        cwd="/srv",
        stdin=b"in",
        timeout_s=30.5,
        grace_s=5.0,
        max_output=1 << 20,
        leftovers="kill",
        lost_after_s=60.0,
    )
    assert decode(ORDERS, Orders) == Orders(
        items=(
            StartAttempt(attempt=A, order=order),
            StopAttempt(attempt=A, count=2, signal=9, grace_s=1.5),
            RevokeAttempt(attempt=A),
            ReleaseAttempt(attempt=A),
            ReportAttempt(attempt=A),
            ReadOutput(attempt=A, stream="stdout", offset=7, length=4096),
        )
    )


SNAPSHOT = AttemptSnapshot(
    attempt=A,
    revision=4,
    phase="ended",
    accepted_at=1930000000.25,
    started_at=1930000000.5,
    ended_at=1930000001.75,
    reason="timeout",
    exit_code=143,
    signal=15,
    error="It took too long.",
    stdout=StreamEndMessage(bytes=5, sha256="ab" * 32, dropped=1),
    stderr=StreamEndMessage(bytes=2, sha256="cd" * 32),
    survivors=1,
    kill_failed=True,
    cached=True,
    stops=2,
)
FACTS = FactsMessage(
    os="debian",
    kernel="6.1",
    arch="x86_64",
    cpus=4,
    boot_id="b",
    hostname="web1",
    addresses=("10.0.0.1",),
    version="0.1.0",
)
LOAD = LoadMessage(
    cpu_percent=12.5,
    load1=0.5,
    memory_total=100,
    memory_used=50,
    disk_total=10,
    disk_free=5,
    attempts=1,
)


def test_recorded_answers_are_understood() -> None:
    assert decode(ANSWERS, Answers) == Answers(
        node="nabcdefghijklmno",
        session="s1",
        items=(
            SNAPSHOT,
            AttemptRefused(attempt=A, code=RefusalCode.DISK, text="Full."),
            AttemptUnknown(attempt=A),
            AttemptReleased(attempt=A),
            AttemptBusy(attempt=A, text="Later."),
            OutputBytes(attempt=A, stream="stderr", offset=3, data=b"\0\xff", size=5, final=True),
        ),
    )


def test_a_recorded_heartbeat_is_understood() -> None:
    assert decode(BEAT, Heartbeat) == Heartbeat(
        node="nabcdefghijklmno",
        session="s1",
        number=9,
        name="web1",
        at=1930000002.5,
        facts=FACTS,
        load=LOAD,
        labels={"env": "prod"},
        full="disk",
        attempts=((A, 4),),
        attempt_count=1,
    )


def test_a_recorded_envelope_is_understood() -> None:
    sealed = open_envelope(
        ENVELOPE, to="n1", session="s1", verify=lambda data, signature: signature == b"\x07" * 64
    )
    assert sealed.id == "i1"
    assert decode(sealed.body, Orders) == Orders(items=(ReportAttempt(attempt=A),))


def test_recorded_chunks_and_marks_are_understood_and_written_the_same_today() -> None:
    chunk = Chunk("stderr", 70000, 1930000000000001, b"\0hi\xff")
    marks = [Mark("stdout", 0, 1930000000000001), Mark("stderr", 5, 1930000000000002)]
    assert decode_chunk(CHUNK) == chunk and encode_chunk(chunk) == CHUNK
    assert decode_marks(MARKS) == (marks, len(MARKS)) and encode_marks(marks) == MARKS


# ---- messages only grow


@pytest.mark.parametrize(
    ("data", "kind"),
    [(ORDERS, Orders), (ANSWERS, Answers), (BEAT, Heartbeat), (ENVELOPE, Envelope)],
)
def test_fields_of_a_later_version_are_ignored(data: bytes, kind: Any) -> None:
    def grown(value: Any) -> Any:
        if isinstance(value, dict):
            later = {key: grown(each) for key, each in value.items()}
            return later if value.keys() & {"env", "LANG"} else later | {"later_field": [1, {}]}
        return [grown(each) for each in value] if isinstance(value, list) else value

    fields = grown(msgspec.msgpack.decode(data))
    if kind is Heartbeat:
        fields["labels"] = {"env": "prod"}
    assert decode(msgspec.msgpack.encode(fields), kind) == decode(data, kind)


# ---- conversions


def test_every_field_of_an_order_crosses() -> None:
    order = Order(
        argv=("a",),
        script=b"s",
        args=("b",),
        env={"K": "v"},
        cwd="/",
        stdin=b"i",
        timeout_s=1.5,
        grace_s=2.5,
        max_output=7,
        leftovers="kill",
        lost_after_s=3.5,
    )
    assert msgspec.structs.asdict(order_message(order)) == msgspec.structs.asdict(order)


def test_a_snapshot_becomes_a_record_with_times_in_utc() -> None:
    assert snapshot_record(SNAPSHOT) == Snapshot(
        attempt=A,
        revision=4,
        phase=Phase.ENDED,
        accepted_at=datetime(2031, 2, 27, 23, 6, 40, 250000, tzinfo=UTC),
        started_at=datetime(2031, 2, 27, 23, 6, 40, 500000, tzinfo=UTC),
        ended_at=datetime(2031, 2, 27, 23, 6, 41, 750000, tzinfo=UTC),
        reason=Reason.TIMEOUT,
        exit_code=143,
        signal=15,
        error="It took too long.",
        stdout=StreamEnd(bytes=5, sha256="ab" * 32, dropped=1),
        stderr=StreamEnd(bytes=2, sha256="cd" * 32),
        survivors=1,
        kill_failed=True,
        cached=True,
        stops=2,
    )


def test_facts_and_load_cross_field_by_field() -> None:
    assert msgspec.structs.asdict(facts_record(FACTS)) == msgspec.structs.asdict(FACTS)
    assert msgspec.structs.asdict(load_record(LOAD)) == msgspec.structs.asdict(LOAD)
    assert facts_record(FactsMessage()) == Facts()
    assert load_record(LoadMessage()) == Load()


def bare(**fields: Any) -> AttemptSnapshot:
    known: dict[str, Any] = {"attempt": A, "revision": 1, "phase": "running"}
    return AttemptSnapshot(**(known | fields))


@pytest.mark.parametrize(
    "message", [bare(phase="dreaming"), bare(reason="mood"), bare(started_at=float("nan"))]
)
def test_a_snapshot_this_version_does_not_understand_is_a_value_error(
    message: AttemptSnapshot,
) -> None:
    with pytest.raises(ValueError, match=r".+"):
        snapshot_record(message)


@pytest.mark.parametrize("seconds", [1e300, float("inf"), -1e18])
def test_a_snapshot_with_an_absurd_time_is_a_value_error(seconds: float) -> None:
    with pytest.raises(ValueError, match=r".+"):
        snapshot_record(bare(started_at=seconds))


def test_a_snapshot_with_a_number_no_database_holds_is_a_value_error() -> None:
    with pytest.raises(ValueError, match=r".+"):
        snapshot_record(bare(exit_code=2**63))
