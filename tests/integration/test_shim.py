"""The shim with real processes: how attempts start and end, and what is kept of their output."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from quarterdeck.agent.shim import tree
from quarterdeck.wire.marks import decode_marks
from tests.integration.shim_host import (
    Host,
    kill_survivors,
)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    host = Host(tmp_path)
    yield host
    host.close()


# --- starts and ends


def test_a_success_has_code_0_and_both_streams_apart(host: Host) -> None:
    attempt = host.sh("echo out; echo err >&2")
    end = attempt.exit()
    assert (end.reason, end.code, end.signal, end.error) == (None, 0, None, None)
    assert (end.survivors, end.kill_failed) == (0, False)
    assert (attempt.read("stdout"), attempt.read("stderr")) == (b"out\n", b"err\n")
    started = attempt.started()
    assert started.boot_id == tree.boot_id()
    assert (started.shim.pid, started.shim.ticks) == attempt.shim
    assert started.at == end.started_at <= end.ended_at


def test_a_failure_keeps_its_code(host: Host) -> None:
    end = host.sh("exit 37").exit()
    assert (end.reason, end.code, end.signal) == (None, 37, None)


def test_a_death_by_signal_is_no_code(host: Host) -> None:
    end = host.sh("kill -SEGV $$").exit()
    assert (end.reason, end.code, end.signal) == (None, None, signal.SIGSEGV)


def test_a_missing_program_is_127_with_a_sentence_in_the_log(host: Host) -> None:
    attempt = host.start(argv=("no-such-program", "x"))
    end = attempt.exit()
    assert (end.reason, end.code) == ("start_error", 127)
    assert end.error is not None and "no-such-program" in end.error
    assert attempt.read("stderr").decode() == end.error + "\n"


def test_a_program_that_cannot_run_is_126(host: Host, tmp_path: Path) -> None:
    (tmp_path / "data").write_text("no program")
    end = host.start(argv=(str(tmp_path / "data"),)).exit()
    assert (end.reason, end.code) == ("start_error", 126)
    assert end.error is not None and "Permission denied" in end.error


def test_a_bad_working_directory_is_126_and_nothing_runs(host: Host, tmp_path: Path) -> None:
    end = host.sh("touch ran", cwd=str(tmp_path / "nowhere")).exit()
    assert (end.reason, end.code) == ("start_error", 126)
    assert end.error is not None and "nowhere" in end.error


def test_an_environment_that_cannot_be_passed_is_126(host: Host) -> None:
    end = host.sh(":", environ={"BAD": "a\0b"}).exit()
    assert (end.reason, end.code) == ("start_error", 126)


def test_a_process_that_ends_with_127_is_no_start_error(host: Host) -> None:
    end = host.sh("exit 127").exit()
    assert (end.reason, end.code, end.error) == (None, 127, None)


def test_an_order_that_is_corrupt_ends_with_a_sentence_that_names_the_file(host: Host) -> None:
    name, folder = host.prepare(argv=("true",))
    (folder / "order").write_text('{"v":1,"attempt":"half')
    host.fork(name, folder)
    end = host.attempts[-1].exit()
    assert (end.reason, end.code) == ("start_error", 126)
    assert end.error is not None and str(folder / "order") in end.error


def test_a_script_runs_with_its_interpreter_and_its_arguments(host: Host) -> None:
    script = f"#!{sys.executable} -I\nimport sys; print(sys.argv[1:], sys.flags.isolated)\n"
    attempt = host.start(script=script.encode(), args=("a b", "ü", ""))
    assert attempt.exit().code == 0
    assert attempt.read("stdout").decode() == "['a b', 'ü', ''] 1\n"


def test_a_script_without_a_first_line_runs_with_sh(host: Host) -> None:
    attempt = host.start(script=b'echo "$1/$#"; exit 4\n', args=("x y", "z"))
    assert attempt.exit().code == 4
    assert attempt.read("stdout") == b"x y/2\n"


def test_a_script_whose_interpreter_has_a_carriage_return_says_so(host: Host) -> None:
    end = host.start(script=b"#!/bin/sh\r\necho x\r\n").exit()
    assert (end.reason, end.code) == ("start_error", 127)
    assert end.error is not None and r"'/bin/sh\r'" in end.error


def test_stdin_is_what_the_order_has_and_does_not_stay_on_disk(host: Host) -> None:
    data = bytes(range(256)) * 4000
    attempt = host.start(argv=("cat",), stdin=data)
    attempt.exit()
    assert attempt.read("stdout") == data
    assert not (attempt.folder / "stdin").exists()


def test_without_stdin_there_is_an_end_at_once(host: Host) -> None:
    assert host.sh("cat; test $(readlink /proc/$$/fd/0) = /dev/null").exit().code == 0


def test_environment_and_working_directory_are_exactly_those_of_the_order(
    host: Host, tmp_path: Path
) -> None:
    environ = {"A": "1", "UTF": "ü", "RAW": b"\xff".decode("utf-8", "surrogateescape"), "E": ""}
    attempt = host.start(argv=("cat", "/proc/self/environ"), environ=environ)
    attempt.exit()
    seen = dict(part.split(b"=", 1) for part in attempt.read("stdout").split(b"\0") if part)
    wanted = environ | {"PATH": os.environ["PATH"], "QD_ATTEMPT": attempt.id}
    assert seen == {key.encode(): os.fsencode(value) for key, value in wanted.items()}
    attempt = host.sh("pwd", cwd=str(tmp_path))
    attempt.exit()
    assert attempt.read("stdout") == os.fsencode(tmp_path) + b"\n"


def test_the_child_has_default_signals_its_own_session_and_only_three_descriptors(
    host: Host,
) -> None:
    attempt = host.python(
        "import os; print(os.getsid(0) == os.getpid() == os.getpgid(0), sorted("
        "int(f) for f in os.listdir('/proc/self/fd') if os.path.exists(f'/proc/self/fd/{f}')))"
    )
    attempt.exit()
    assert attempt.read("stdout") == b"True [0, 1, 2]\n"
    attempt = host.start(argv=("grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status"))
    attempt.exit()
    assert {line.split()[1] for line in attempt.read("stdout").splitlines()} == {b"0" * 16}


# --- output


def test_bytes_of_any_kind_are_kept_exactly(host: Host) -> None:
    data = bytes(range(256)) + b"\0\x1b[31m\xff\xfe" + b"no newline at the end"
    program = f"import os; os.write(1, {data!r}); os.write(2, {data[::-1]!r})"
    attempt = host.python(program)
    attempt.exit()
    assert (attempt.read("stdout"), attempt.read("stderr")) == (data, data[::-1])


def test_50_megabytes_are_kept_exactly(host: Host) -> None:
    program = (
        "import hashlib, os, sys\n"
        "h = hashlib.sha256()\n"
        "for i in range(800):\n"
        "    data = i.to_bytes(4, 'big') * 16384\n"
        "    h.update(data)\n"
        "    sys.stdout.buffer.write(data)\n"
        "print(h.hexdigest(), file=sys.stderr)\n"
    )
    attempt = host.python(program)
    end = attempt.exit(60)
    assert end.streams["stdout"].bytes == 800 * 65536
    assert attempt.read("stderr").decode().strip() == end.streams["stdout"].sha256


def test_past_max_output_bytes_are_dropped_and_counted_and_the_process_goes_on(
    host: Host,
) -> None:
    attempt = host.sh("head -c 3000000 /dev/zero; echo end >&2", max_output=100_000)
    end = attempt.exit()
    assert end.code == 0
    out, err = end.streams["stdout"], end.streams["stderr"]
    assert (out.bytes, out.dropped) == (100_000, 2_900_000)
    assert (err.bytes, err.dropped) == (0, 4)


def test_marks_tell_when_each_part_of_each_stream_was_read(host: Host) -> None:
    attempt = host.python(
        "import os, time\n"
        "for fd, data in ((1, b'ab'), (2, b'c'), (1, b'd')):\n"
        "    os.write(fd, data)\n"
        "    time.sleep(0.05)\n"
    )
    end = attempt.exit()
    marks, _ = decode_marks(attempt.read("times"))
    assert [(mark.stream, mark.offset) for mark in marks] == [
        ("stdout", 0),
        ("stderr", 0),
        ("stdout", 2),
    ]
    times = [end.started_at, *(mark.time_us / 1e6 for mark in marks), end.ended_at]
    assert times == sorted(times)


def test_marks_of_a_fast_writer_are_few(host: Host) -> None:
    attempt = host.sh("seq 200000")
    attempt.exit()
    marks, _ = decode_marks(attempt.read("times"))
    assert [mark.offset for mark in marks] == sorted(mark.offset for mark in marks)
    # 2 ms apart on the shim's clock, which is read a moment before the mark's time
    assert 1 <= len(marks) <= 1 + (marks[-1].time_us - marks[0].time_us) / 1000


def test_the_attempt_ends_although_a_survivor_keeps_the_pipe_open(host: Host) -> None:
    attempt = host.sh("sleep 1000 & echo done; exit 5")
    end = attempt.exit()
    assert (end.reason, end.code, end.survivors) == (None, 5, 1)
    assert 1.9 < (attempt.folder / "exit.json").stat().st_mtime - end.ended_at < 6
    assert kill_survivors(attempt.id) == 1


def test_the_attempt_ends_at_once_when_nobody_holds_the_pipes(host: Host) -> None:
    attempt = host.sh("sleep 1000 >/dev/null 2>&1 & exit 0", drain_s=60.0)
    assert attempt.exit().survivors == 1
    assert kill_survivors(attempt.id) == 1
