"""The details of an order with real processes: user, terminal, signals, starts that hang."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import pwd
import signal
import stat
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from quarterdeck.agent.shim import disk, files, tree
from quarterdeck.agent.shim.sweep import sweep
from tests.integration.shim_host import Attempt, Host, gone, marked, wait_for

NOBODY = pwd.getpwnam("nobody")
ACCOUNT = files.Account(NOBODY.pw_uid, NOBODY.pw_gid, (NOBODY.pw_gid,), NOBODY.pw_dir)
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")

# sigwait: a handler of Python waits for the end of a call that began in the moment of the signal
COUNTER = """
import os, signal, sys
counted = {signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2}
signal.pthread_sigmask(signal.SIG_BLOCK, counted)
print("up", flush=True)
while True: os.write(1, signal.sigwait(counted).name.encode() + b"\\n")
"""


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    host = Host(tmp_path)
    yield host
    host.close()


class SilentFiles:
    """A file system (FUSE) that answers nothing after its mount: each look-up in it hangs."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        options = f"fd={self._fd},rootmode=40000,user_id=0,group_id=0".encode()
        if self._libc.mount(b"silent", os.fsencode(root), b"fuse", 0, options) != 0:
            os.close(self._fd)
            raise OSError(ctypes.get_errno(), "mount")
        init = os.read(self._fd, 1 << 17)
        (unique,) = struct.unpack_from("<Q", init, 8)
        body = struct.pack("<IIIIHHII", 7, 31, 0, 0, 0, 0, 4096, 1).ljust(64, b"\0")
        os.write(self._fd, struct.pack("<IiQ", 16 + len(body), 0, unique) + body)

    def take_request(self) -> None:
        """Begin to answer a look-up, and never end."""
        os.read(self._fd, 1 << 17)

    def close(self) -> None:
        """Gone: every look-up fails now. May be called twice."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            self._libc.umount2(os.fsencode(self.root), 2)


@pytest.fixture
def silent(tmp_path: Path) -> Iterator[SilentFiles]:
    root = tmp_path / "silent"
    root.mkdir()
    try:
        silent = SilentFiles(root)
    except OSError as error:
        pytest.skip(f"needs /dev/fuse and the right to mount: {error}")
    yield silent
    silent.close()


def ask_signals(attempt: Attempt, *wanted: tuple[int, int, bool], told: int = 1) -> None:
    """What the agent does to have signals sent; `told` is how often the shim hears of it."""
    numbered = [files.Signal(*one) for one in wanted]
    disk.write_json(attempt.folder / "signals", files.signals_json(numbered))
    for _ in range(told):
        tree.signal_process(*attempt.shim, signal.SIGUSR1)


# --- another user


@as_root
def test_another_user_runs_the_script_with_its_groups_and_without_ours(host: Host) -> None:
    attempt = host.start(
        script=b"id -u; id -g; id -G; pwd; cat; cat $0 | head -n 1",
        args=(),
        stdin=b"given\n",
        account=ACCOUNT,
    )
    assert attempt.exit().code == 0, attempt.read("stderr")
    uid, gid = str(NOBODY.pw_uid), str(NOBODY.pw_gid)
    head = f"{uid}\n{gid}\n{gid}\n/\ngiven\nid -u"
    assert attempt.read("stdout").decode().startswith(head)


@as_root
def test_another_user_reaches_nothing_of_the_attempts_directory(host: Host) -> None:
    text = 'ls "$0"; cat "$0/order"; echo x > "$0/stdout"; cat "$0/script"; echo done'
    attempt = host.start(script=b"true", account=ACCOUNT)
    attempt.exit()
    denied = host.start(argv=("/bin/sh", "-c", text, str(attempt.folder)), account=ACCOUNT)
    assert denied.exit().code == 0
    assert denied.read("stdout") == b"done\n"
    script = os.stat(attempt.folder / "script")
    assert (script.st_uid, stat.S_IMODE(script.st_mode) & 0o077) == (NOBODY.pw_uid, 0)


@as_root
def test_another_user_may_open_its_own_streams_by_name(host: Host) -> None:
    attempt = host.sh("echo out > /dev/stdout; echo err > /dev/stderr", account=ACCOUNT)
    assert attempt.exit().code == 0
    assert (attempt.read("stdout"), attempt.read("stderr")) == (b"out\n", b"err\n")


@as_root
def test_what_a_killed_shim_left_of_another_user_is_swept(host: Host) -> None:
    attempt = host.sh("sleep 1000 & echo up; wait", account=ACCOUNT)
    attempt.says(b"up")
    started = attempt.started()
    assert started.uid == NOBODY.pw_uid
    attempt.kill_shim()
    mark = f"QD_ATTEMPT={attempt.id}"
    assert sweep(mark, files.started_json(started), deadline_s=10) == 0
    assert marked(attempt.id) == []


def test_the_umask_of_the_order_is_that_of_the_command(host: Host) -> None:
    attempt = host.sh("umask", umask=0o027)
    attempt.exit()
    assert attempt.read("stdout") == b"0027\n"


# --- interpreters


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        (b"#!/bin/sh -e", b""),
        (b"#!/usr/bin/env -S sh -e", b""),
        (b"#! /bin/sh", b"after\n"),
    ],
)
def test_the_first_line_chooses_the_interpreter_with_its_arguments(
    host: Host, line: bytes, wanted: bytes
) -> None:
    attempt = host.start(script=line + b"\nfalse\necho after\n")
    attempt.exit()
    assert attempt.read("stdout") == wanted


def test_an_interpreter_that_does_not_exist_is_named(host: Host) -> None:
    end = host.start(script=b"#!/opt/none/ruby -w\nputs 1\n").exit()
    assert (end.reason, end.code) == ("start_error", 127)
    assert end.error is not None and '"/opt/none/ruby"' in end.error


# --- a terminal


def test_a_terminal_has_its_size_and_both_streams_in_one(host: Host) -> None:
    attempt = host.sh(
        "tty; stty size; echo err >&2; test -t 0 && test -t 2; exit $((7 + $?))", pty=(33, 101)
    )
    assert attempt.exit().code == 7
    lines = attempt.read("stdout").split(b"\r\n")
    assert lines[0].startswith(b"/dev/") and lines[1:3] == [b"33 101", b"err"]
    assert attempt.read("stderr") == b""


def test_the_last_output_on_a_terminal_is_never_lost(host: Host) -> None:
    text = "import sys; sys.stdout.write('x' * 300_000 + '#end')"
    for _ in range(5):
        attempt = host.python(text, pty=(24, 80))
        attempt.exit()
        data = attempt.read("stdout")
        assert (len(data), data[-4:]) == (300_004, b"#end")


def test_who_reads_from_a_terminal_finds_its_end(host: Host) -> None:
    attempt = host.sh("cat; echo over", pty=(24, 80))
    attempt.exit()
    assert attempt.read("stdout") == b"over\r\n"


def test_a_terminal_that_hangs_up_ends_who_is_left_in_front_of_it(host: Host) -> None:
    attempt = host.sh(
        "trap '' HUP; (trap - HUP; exec sleep 1000) & sleep 0.2; echo $!", pty=(24, 80), drain_s=0.2
    )
    attempt.exit()
    wait_for(lambda: not marked(attempt.id), "end of the sleep by SIGHUP")


def test_a_signal_ends_what_has_a_terminal_and_its_code_is_kept(host: Host) -> None:
    attempt = host.sh("echo up; exec sleep 1000", pty=(24, 80))
    attempt.says(b"up")
    attempt.stop()
    end = attempt.exit()
    assert (end.reason, end.signal) == ("cancelled", signal.SIGTERM)


@as_root
def test_a_terminal_belongs_to_the_user_of_the_command(host: Host) -> None:
    attempt = host.sh("stat -c %u $(tty); echo fine > /dev/tty", pty=(24, 80), account=ACCOUNT)
    assert attempt.exit().code == 0
    assert attempt.read("stdout").split() == [str(NOBODY.pw_uid).encode(), b"fine"]


# --- signals while it runs


def test_each_signal_is_sent_once_however_often_the_shim_is_told(host: Host) -> None:
    attempt = host.python(COUNTER)
    attempt.says(b"up")
    ask_signals(attempt, (1, signal.SIGHUP, False), told=5)
    attempt.says(b"SIGHUP")
    ask_signals(attempt, (1, signal.SIGHUP, False), (2, signal.SIGUSR1, False), told=5)
    attempt.says(b"SIGUSR1")
    wait_for(lambda: files.read_signalled(attempt.folder) == 2, "record of the signals")
    attempt.stop(number=signal.SIGKILL)
    attempt.exit()
    assert attempt.read("stdout").split() == [b"up", b"SIGHUP", b"SIGUSR1"]


def test_a_signal_reaches_the_main_process_or_the_whole_tree(host: Host) -> None:
    text = "import subprocess, sys\n" + COUNTER.replace(
        'print("up", flush=True)',
        'subprocess.Popen([sys.executable, "-I", "-c", sys.argv[1]])\nprint("main", flush=True)',
    )
    attempt = host.python(text, COUNTER)
    attempt.says(b"up")
    ask_signals(attempt, (1, signal.SIGUSR1, False))
    attempt.says(b"SIGUSR1")
    ask_signals(attempt, (1, signal.SIGUSR1, False), (2, signal.SIGUSR2, True))
    wait_for(lambda: attempt.read("stdout").count(b"SIGUSR2") == 2, "signal to the whole tree")
    attempt.stop(number=signal.SIGKILL)
    attempt.exit()
    assert attempt.read("stdout").count(b"SIGUSR1") == 1


def test_one_of_two_attempts_of_the_same_command_is_killed_and_the_other_lives(host: Host) -> None:
    first, second = host.python(COUNTER), host.python(COUNTER)
    for attempt in (first, second):
        attempt.says(b"up")
    first.stop(number=signal.SIGKILL)
    assert first.exit().signal == signal.SIGKILL
    ask_signals(second, (1, signal.SIGHUP, False))
    second.says(b"SIGHUP")
    second.stop(number=signal.SIGKILL)
    assert second.exit().signal == signal.SIGKILL


# --- starts that hang, and what can't be killed


def test_a_command_that_does_not_come_to_its_exec_ends_as_start_timeout(
    host: Host, silent: SilentFiles
) -> None:
    attempt = host.start(argv=("/bin/true",), cwd=f"{silent.root}/home", start_timeout_s=0.5)
    started = attempt.started()
    end = attempt.exit()
    assert (end.reason, end.signal, end.kill_failed) == ("start_timeout", signal.SIGKILL, False)
    assert end.error is not None and "0.5 s" in end.error
    assert gone(started.child.pid, started.child.ticks)


def test_an_attempt_whose_directory_takes_no_record_in_time_ends_as_start_timeout(
    host: Host,
) -> None:
    name, folder = host.prepare(argv=("/bin/true",), start_timeout_s=0.5, stdin=b"x")
    (folder / "stdin").symlink_to("elsewhere")
    host.fork(name, folder)
    end = host.attempts[-1].exit()
    assert (end.reason, end.code, end.signal) == ("start_timeout", None, None)


def test_a_process_in_uninterruptible_sleep_ends_as_kill_failed_and_is_watched(
    host: Host, silent: SilentFiles
) -> None:
    home = f"{silent.root}/home"
    attempt = host.start(argv=("/bin/true",), cwd=home, start_timeout_s=0.5, kill_s=0.5)
    child = attempt.started().child
    silent.take_request()  # what the file system has begun to answer no signal interrupts
    end = attempt.exit()
    assert (end.reason, end.kill_failed, end.code, end.signal) == (
        "start_timeout",
        True,
        None,
        None,
    )
    assert end.error is not None and f"{child.pid} (state D)" in end.error
    assert attempt.shim_alive() and not attempt.lock_free()
    silent.close()
    assert wait_for(lambda: files.read_gone(attempt.folder), "word that it has gone")
    wait_for(lambda: not attempt.shim_alive(), "end of the shim")


def test_what_cannot_be_killed_is_watched_until_it_has_gone(host: Host) -> None:
    frozen = Path(f"/sys/fs/cgroup/freezer/qd-test-watch-{os.getpid()}")
    try:
        frozen.mkdir()
    except OSError as error:
        pytest.skip(f"needs a freezer cgroup (v1) to make a process unkillable: {error}")
    unkillable: list[tree.Process] = []
    try:
        attempt = host.sh("echo up; exec sleep 1000", kill_s=0.3)
        attempt.says(b"up")
        # one that is becoming sleep has no mark to be seen
        unkillable = wait_for(lambda: marked(attempt.id), "its mark")
        for process in unkillable:
            (frozen / "cgroup.procs").write_text(str(process.pid))
        (frozen / "freezer.state").write_text("FROZEN")
        wait_for(lambda: "FROZEN" in (frozen / "freezer.state").read_text(), "freezing")
        attempt.stop(number=signal.SIGKILL)
        end = attempt.exit()
        assert end.kill_failed and end.error is not None and str(unkillable[0].pid) in end.error
        assert attempt.shim_alive() and files.read_gone(attempt.folder) is None
        (frozen / "freezer.state").write_text("THAWED")
        assert wait_for(lambda: files.read_gone(attempt.folder), "word that it has gone")
        wait_for(lambda: not attempt.shim_alive(), "end of the shim")
        assert files.read_exit(attempt.folder) == end
    finally:
        with contextlib.suppress(OSError):
            (frozen / "freezer.state").write_text("THAWED")
        for process in unkillable:
            wait_for(functools.partial(gone, process.pid, process.ticks), "end of the frozen")
        frozen.rmdir()
