"""The wire: envelopes nobody can bend, chunks, marks, and garbage that harms nobody."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from quarterdeck.core.stream import Mark
from quarterdeck.errors import Denied, Invalid
from quarterdeck.fabric.identity import Identity, verify
from quarterdeck.wire.codec import (
    Chunk,
    Envelope,
    Sealed,
    decode,
    decode_chunk,
    encode,
    encode_chunk,
    open_envelope,
    seal,
)
from quarterdeck.wire.marks import RECORD, decode_marks, encode_marks
from quarterdeck.wire.run import (
    Answers,
    AttemptSnapshot,
    Heartbeat,
    Orders,
)

A = "01hzy3k4m5n6p7q8-3-1"
KINDS = [Envelope, Sealed, Orders, Answers, AttemptSnapshot, Heartbeat]

thorough = settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
kinds = pytest.mark.parametrize("kind", KINDS, ids=[kind.__name__ for kind in KINDS])

CHUNK = encode_chunk(Chunk("stderr", 70000, 1930000000000001, b"\0hi\xff"))
MARKS = encode_marks([Mark("stdout", 0, 1930000000000001), Mark("stderr", 5, 1930000000000002)])


# ---- envelopes


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Identity, Identity]:
    place = tmp_path_factory.mktemp("keys")
    return Identity.open(place / "server"), Identity.open(place / "stranger")


def checks(key: Identity) -> Callable[[bytes, bytes], bool]:
    return lambda data, signature: verify(key.public_key, data, signature)


LETTER = Sealed(to="n1", session="s1", id="i1", body=b"body")


def test_an_envelope_opens_for_its_receiver_and_session(keys: tuple[Identity, Identity]) -> None:
    data = seal(LETTER, keys[0].sign)
    assert open_envelope(data, to="n1", session="s1", verify=checks(keys[0])) == LETTER


@pytest.mark.parametrize(
    ("to", "session", "signer", "code"),
    [
        ("n2", "s1", 0, "wrong_node"),
        ("n1", "s2", 0, "wrong_session"),
        ("n1", "", 0, "wrong_session"),
        ("n1", "s1", 1, "bad_signature"),
        ("n2", "s2", 1, "bad_signature"),
    ],
)
def test_an_envelope_of_another_key_node_or_session_is_denied(
    keys: tuple[Identity, Identity], to: str, session: str, signer: int, code: str
) -> None:
    data = seal(LETTER, keys[signer].sign)
    with pytest.raises(Denied) as caught:
        open_envelope(data, to=to, session=session, verify=checks(keys[0]))
    assert caught.value.code == code


@thorough
@given(st.data())
def test_an_envelope_with_any_flipped_bit_is_refused(
    keys: tuple[Identity, Identity], data: st.DataObject
) -> None:
    whole = bytearray(seal(LETTER, keys[0].sign))
    for at in data.draw(st.sets(st.integers(0, len(whole) * 8 - 1), min_size=1, max_size=3)):
        whole[at // 8] ^= 1 << at % 8
    with pytest.raises((Denied, Invalid)):
        open_envelope(bytes(whole), to="n1", session="s1", verify=checks(keys[0]))


@thorough
@given(st.integers(0, 200))
def test_a_cut_off_envelope_is_refused(keys: tuple[Identity, Identity], length: int) -> None:
    whole = seal(LETTER, keys[0].sign)
    with pytest.raises((Denied, Invalid)):
        open_envelope(whole[: length % len(whole)], to="n1", session="s1", verify=checks(keys[0]))


def test_a_signed_body_that_is_no_letter_is_invalid(keys: tuple[Identity, Identity]) -> None:
    data = encode(Envelope(sealed=b"\xc1", signature=keys[0].sign(b"\xc1")))
    with pytest.raises(Invalid):
        open_envelope(data, to="n1", session="s1", verify=checks(keys[0]))


# ---- garbage

values: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text()
    | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["type", "items", "attempt", "node", "sealed"]), inner)
    ),
    max_leaves=12,
)


@kinds
@thorough
@given(st.binary(max_size=80) | values.map(msgspec.msgpack.encode))
@example(b"")
@example(b"\xdf\xff\xff\xff\xff")
@example(b"\x81\xa5items\xdd\xff\xff\xff\xff")
@example(b"\x82\xa4node\xa1\xff\xa7session\xa0")
def test_garbage_is_invalid_and_nothing_else(kind: Any, data: bytes) -> None:
    with contextlib.suppress(Invalid):
        assert isinstance(decode(data, kind), kind)


@kinds
def test_a_deeply_nested_message_is_invalid(kind: Any) -> None:
    with pytest.raises(Invalid):
        decode(b"\x81\xa1x" + b"\x91" * 50_000 + b"\xc0", kind)


@thorough
@given(st.binary(max_size=40))
def test_garbage_is_no_chunk_or_one_that_encodes_to_itself(data: bytes) -> None:
    with contextlib.suppress(Invalid):
        assert encode_chunk(decode_chunk(data)) == data


@pytest.mark.parametrize("data", [b"", CHUNK[:17], b"\x02" + CHUNK[1:], b"\x01\x03" + CHUNK[2:]])
def test_a_chunk_of_another_version_stream_or_without_header_is_invalid(data: bytes) -> None:
    with pytest.raises(Invalid):
        decode_chunk(data)


# ---- chunks and marks

numbers = st.integers(0, 2**64 - 1)
streams = st.sampled_from(["stdout", "stderr"])


@thorough
@given(st.builds(Chunk, streams, numbers, numbers, st.binary(max_size=100)))
def test_a_chunk_comes_back_as_it_was(chunk: Chunk) -> None:
    assert decode_chunk(encode_chunk(chunk)) == chunk


@thorough
@given(st.lists(st.builds(Mark, streams, numbers, numbers), max_size=6), st.data())
def test_marks_come_back_in_pieces_and_a_cut_off_one_waits(
    marks: list[Mark], data: st.DataObject
) -> None:
    written = encode_marks(marks)
    read: list[Mark] = []
    position = 0
    for end in [*sorted(data.draw(st.lists(st.integers(0, len(written))))), len(written)]:
        found, used = decode_marks(written[position:end])
        assert used % RECORD.size == 0 and end - position - used < RECORD.size
        read += found
        position += used
    assert read == marks


def test_a_damaged_mark_is_skipped_and_counted_as_read() -> None:
    damaged = b"\x09" + MARKS[1 : RECORD.size] + MARKS
    assert decode_marks(damaged) == (decode_marks(MARKS)[0], len(damaged))
