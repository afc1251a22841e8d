"""The shim's parts without a shim: state files, command lines, process tables, the output pump."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from quarterdeck.agent.shim import child, disk, files, pump, tree
from quarterdeck.agent.shim.life import Pipes
from quarterdeck.agent.spawner import BadRequest, parse
from quarterdeck.wire.marks import decode_marks

ORDER = files.Order(
    attempt="a-1",
    run="r-1",
    argv=None,
    script=b"#!/bin/sh\nexit 0\n",
    args=("x", "ü"),
    environ={"QD_ATTEMPT": "a-1", "RAW": b"\xff".decode("utf-8", "surrogateescape")},
    cwd="/tmp",
    stdin=b"\0\xff",
    timeout_s=1.5,
    max_output=10,
    leftovers="kill",
)
STARTED = files.Started("boot", files.Identity(1, 2), files.Identity(3, 4), 5.5, "/group")
STOP = files.Stop(2, 15, "cancelled", 10.0)
END = files.Exit(
    reason="timeout",
    code=None,
    signal=9,
    error=None,
    started_at=1.0,
    ended_at=2.0,
    streams={name: files.StreamEnd(3, "ab", 4) for name in ("stdout", "stderr")},
    survivors=1,
    kill_failed=True,
)
KINDS: list[tuple[str, Any, Any, Any]] = [
    ("order", ORDER, files.order_json, files.read_order),
    ("started", STARTED, files.started_json, files.read_started),
    ("stop", STOP, files.stop_json, files.read_stop),
    ("exit.json", END, files.exit_json, files.read_exit),
]


@pytest.mark.parametrize(("name", "record", "to_json", "read"), KINDS)
def test_what_is_written_is_read_again(
    tmp_path: Path, name: str, record: Any, to_json: Any, read: Any
) -> None:
    assert read(tmp_path) is None
    disk.write_json(tmp_path / name, to_json(record))
    assert read(tmp_path) == record
    assert os.listdir(tmp_path) == [name]
    assert (tmp_path / name).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(("name", "record", "to_json", "read"), KINDS)
def test_a_damaged_file_is_named_in_the_error(
    tmp_path: Path, name: str, record: Any, to_json: Any, read: Any
) -> None:
    good = json.dumps(to_json(record)).encode()
    path = tmp_path / name
    broken = [good[:size] for size in range(len(good))]
    broken += [b"[]", b"null", b"\xff\xfe", b"{}"]
    broken += [json.dumps(json.loads(good) | {field: [{}]}).encode() for field in json.loads(good)]
    for data in broken:
        path.write_bytes(data)
        with pytest.raises(ValueError, match=str(path)):
            read(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"argv": ["x"]},
        {"script_b64": None},
        {"script_b64": "%"},
        {"script_b64": None, "argv": []},
        {"script_b64": None, "argv": [1]},
        {"environ": {"A": 1}},
        {"leftovers": "some"},
        {"timeout_s": -1},
        {"timeout_s": True},
        {"grace_s": float("inf")},
        {"max_output": float("nan")},
    ],
)
def test_an_order_that_makes_no_sense_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    (tmp_path / "order").write_text(json.dumps(files.order_json(ORDER) | change))
    with pytest.raises(ValueError, match="order"):
        files.read_order(tmp_path)


def test_a_failed_write_leaves_the_old_file_and_no_draft(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        disk.write_json(tmp_path / "no" / "x", {})
    (tmp_path / "x").mkdir()
    with pytest.raises(OSError, match="directory"):
        disk.write_json(tmp_path / "x", {})
    assert os.listdir(tmp_path) == ["x"]


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (b"echo", (b"/bin/sh",)),
        (b"", (b"/bin/sh",)),
        (b"#!\nx", (b"/bin/sh",)),
        (b"#!/bin/bash\nx", (b"/bin/bash",)),
        (b"#! \t/usr/bin/env  -S python3 -I \t\nx", (b"/usr/bin/env", b"-S python3 -I")),
        (b"#!/bin/sh\r\nx", (b"/bin/sh\r",)),
        (b"#!/bin/sh -e", (b"/bin/sh", b"-e")),
        (b" #!/bin/bash\n", (b"/bin/sh",)),
    ],
)
def test_the_first_line_of_a_script_is_read_as_the_kernel_does(
    script: bytes, words: tuple[bytes, ...]
) -> None:
    assert child.interpreter(script) == words


def test_a_command_line_is_the_interpreter_the_script_and_the_arguments() -> None:
    made = child.command(ORDER, "/d/script")
    assert made == child.Command((b"/bin/sh", b"/d/script", b"x", "ü".encode()), search=False)


def test_a_process_name_may_look_like_a_stat_line() -> None:
    tail = b" S 7 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 3 0 4242 0\n"
    found = tree.parse_stat(b"12 (a) R 1 (b c)" + tail)
    assert found == tree.Process(pid=12, ppid=7, ticks=4242, state="S", threads=3)
    assert tree.parse_stat(b"12 (half") is None


def test_the_tree_is_what_descends_from_the_root() -> None:
    parents = {2: 1, 3: 2, 4: 3, 5: 1, 6: 5, 7: 99}
    table = [tree.Process(pid, ppid, 0, "S", 1) for pid, ppid in parents.items()]
    assert [process.pid for process in tree.below(2, table)] == [3, 4]
    assert {process.pid for process in tree.below(1, table)} == {2, 3, 4, 5, 6}


def test_a_dead_leader_with_living_threads_is_alive() -> None:
    assert not tree.Process(1, 1, 0, "Z", 1).living
    assert tree.Process(1, 1, 0, "Z", 2).living


@pytest.mark.parametrize(
    "message", [b"", b"\xff", b"[]", b"{}", b'{"id":true,"dir":"/x"}', b'{"id":1,"dir":"x"}']
)
def test_a_bad_message_to_the_spawner_is_told_apart(message: bytes) -> None:
    with pytest.raises(BadRequest):
        parse(message)


def test_marks_are_left_out_while_one_stream_is_fast(tmp_path: Path) -> None:
    ends = [os.pipe() for _ in range(2)]
    output = pump.Output(str(tmp_path), ends[0][0], ends[1][0], limit=0)
    output.open()
    (_, out), (_, err) = ends
    for now, fd, index in ((0.0, out, 0), (0.001, out, 0), (0.0015, err, 1), (0.0016, out, 0)):
        os.write(fd, b"ab")
        output.read(output.wanted()[index], now, int(now * 1e6))
    marks, _ = decode_marks((tmp_path / "times").read_bytes() + b"half")
    assert [(mark.stream, mark.offset, mark.time_us) for mark in marks] == [
        ("stdout", 0, 0),
        ("stderr", 0, 1500),
        ("stdout", 4, 1600),
    ]
    assert output.pipes() is Pipes.OPEN
    os.write(out, b"last")
    output.owe()
    assert output.pipes() is Pipes.OWED
    for fd in (out, err):
        os.close(fd)
    for stream in output.wanted():
        output.read(stream, 1.0, 1)
    assert output.pipes() is Pipes.OPEN
    for stream in output.wanted():
        output.read(stream, 1.0, 1)
    assert output.pipes() is Pipes.CLOSED
    assert (tmp_path / "stdout").read_bytes() == b"ababablast"


def test_what_the_disk_does_not_take_stays_in_hand(tmp_path: Path) -> None:
    sink = pump.Sink(str(tmp_path / "no" / "file"))
    sink.put(b"one")
    assert not sink.flush()
    sink.put(b"two")
    with pytest.raises(FileNotFoundError):
        sink.open()
    (tmp_path / "no").mkdir()
    sink.open()
    assert sink.flush()
    assert sink.size == 6
    assert (tmp_path / "no" / "file").read_bytes() == b"onetwo"


def test_a_sync_of_several_files_tells_of_the_one_that_failed(tmp_path: Path) -> None:
    good = os.open(tmp_path / "good", os.O_WRONLY | os.O_CREAT)
    read_end, write_end = os.pipe()
    try:
        disk.sync([good])
        with pytest.raises(OSError, match="Invalid argument"):
            disk.sync([good, write_end])
    finally:
        for fd in (good, read_end, write_end):
            os.close(fd)
