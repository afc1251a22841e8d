"""Results while they stream: chunks, repeats and order do not matter; memory is bounded."""

from __future__ import annotations

from hashlib import sha256
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from quarterdeck.core.gather import LAST_BYTES, STREAMS, Gathering

Written = dict[str, tuple[bytes, bytes, int]]
WRITTEN = st.dictionaries(
    st.sampled_from([f"web-{n}" for n in range(1, 9)]),
    st.tuples(
        st.sampled_from([b"", b"a\n", b"a\nb\n", b"ab\nc" * 20]),
        st.sampled_from([b"", b"warning\n"]),
        st.integers(0, 1),
    ),
    max_size=8,
)


def plainly(written: Written) -> Gathering:
    """Every node one after the other, each stream in one piece."""
    found = Gathering()
    for node, (out, err, code) in written.items():
        feed(found, node, "stdout", 0, out)
        feed(found, node, "stderr", 0, err)
        end(found, node, code)
    return found


def feed(to: Gathering, node: str, stream: str, offset: int, data: bytes, number: int = 1) -> None:
    to.output(f"t-{node}", node, f"t-{node}-{number}", stream, offset, data)


def end(to: Gathering, node: str, code: int) -> str:
    return to.ended(f"t-{node}", node, "failed" if code else "succeeded", code, None)


@given(WRITTEN, st.data())
def test_groups_do_not_depend_on_order_chunks_or_repeats(
    written: Written, data: st.DataObject
) -> None:
    found = Gathering()
    pieces = []
    for node, (out, err, _) in written.items():
        for stream, whole in zip(STREAMS, (out, err), strict=True):
            cuts = sorted({0, len(whole), *data.draw(st.lists(st.integers(0, len(whole))))})
            pieces.append([(node, stream, a, b) for a, b in pairwise(cuts)])
    while any(pieces):
        turn = data.draw(st.sampled_from([queue for queue in pieces if queue]))
        node, stream, start, stop = turn.pop(0)
        again = data.draw(st.integers(0, start))  # a broken connection tells some of it again
        out, err, _ = written[node]
        feed(found, node, stream, again, (out if stream == "stdout" else err)[again:stop])
    for node in data.draw(st.permutations(list(written))):
        end(found, node, written[node][2])
    expected = plainly(written)
    assert found.groups() == expected.groups()
    for id, sample in expected.samples.items():
        assert found.samples[id].streams == sample.streams and found.samples[id].whole


def test_a_result_has_the_hash_and_length_that_the_record_has() -> None:
    found = plainly({"web-1": (b"some\nbytes\xff", b"", 0)})
    (result,) = found.results.values()
    assert result.stdout.sha256 == sha256(b"some\nbytes\xff").hexdigest()
    assert (result.stdout.bytes, result.stderr.bytes, result.stderr.sha256) == (11, 0, "")


def test_a_further_attempt_begins_anew() -> None:
    found = Gathering()
    feed(found, "web-1", "stdout", 0, b"first try failed", number=1)
    feed(found, "web-1", "stdout", 0, b"a\n", number=2)
    end(found, "web-1", 0)
    feed(found, "web-2", "stdout", 0, b"a\n")
    end(found, "web-2", 0)
    assert [group.count for group in found.groups()] == [2]


def test_what_runs_is_told_with_its_last_words_until_it_ends() -> None:
    found = Gathering()
    found.began("t-web-1", "web-1")
    feed(found, "web-2", "stdout", 0, b"x" * 10_000)
    assert found.running() == [("web-1", b""), ("web-2", b"x" * LAST_BYTES)]
    end(found, "web-1", 0)
    found.began("t-web-1", "web-1")
    assert [node for node, _ in found.running()] == ["web-2"]


def test_two_tasks_on_nodes_of_one_name_are_two() -> None:
    found = Gathering()
    found.began("a", "web-1")
    found.began("b", "web-1")
    assert [node for node, _ in found.running()] == ["web-1", "web-1"]


def test_samples_are_bounded_and_say_when_something_is_missing() -> None:
    found = Gathering(keep=10, most_kept=25)
    for node in ("a", "b", "c", "d"):
        feed(found, node, "stdout", 0, b"12345678")
    assert sum(task.sample.size for task in found._tasks.values()) == 25
    id = end(found, "d", 0)
    assert not found.samples[id].whole, "it was crowded out"
    assert end(found, "a", 0) == id and found.samples[id].whole
    end(found, "b", 0)
    feed(found, "e", "stdout", 0, b"123456789012")
    long = end(found, "e", 0)
    assert found.samples[long].streams["stdout"] == b"1234567890"
    assert not found.samples[long].whole
