"""The shim with real faults: repeats, bad messages, kills at bad moments, full disks."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from quarterdeck.agent.shim import disk, files, tree
from quarterdeck.agent.shim.sweep import sweep
from quarterdeck.settings.environment import ATTEMPT_MARK
from quarterdeck.wire.marks import decode_marks
from tests.integration.shim_host import (
    ESCAPISTS,
    Host,
    gone,
    kill_survivors,
    marked,
    wait_for,
)


@pytest.fixture(params=[True, False], ids=["cgroup", "walk"])
def both_hosts(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Host]:
    """A host that kills by cgroup where it can, and one that never does."""
    host = Host(tmp_path, cgroups=request.param)
    yield host
    host.close()


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    host = Host(tmp_path)
    yield host
    host.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    if os.getuid() != 0:
        pytest.skip("needs root to mount a tmpfs of 2 MiB")
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m,mode=700", "tmpfs", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"cannot mount a tmpfs of 2 MiB: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Take all the space that is left; the file to remove to give it back."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError:
            return ballast


# --- locks, repeats, kills at bad moments


def test_the_lock_is_held_by_the_shim_alone_and_for_its_life(host: Host) -> None:
    attempt = host.sh("echo up; sleep 1000")
    attempt.says(b"up")
    assert not attempt.lock_free()
    attempt.kill_shim()
    assert attempt.lock_free()
    assert len(marked(attempt.id)) > 0
    assert kill_survivors(attempt.id) > 0
    other = host.sh(":")
    other.exit()
    assert other.lock_free()


def test_an_attempt_is_never_started_twice(host: Host, tmp_path: Path) -> None:
    attempt = host.sh(f"echo x >> {tmp_path}/runs")
    attempt.exit()
    answer = host.fork(attempt.id, attempt.folder)
    assert "was started before" in answer["error"]
    (attempt.folder / "exit.json").unlink()
    answer = host.fork(attempt.id, attempt.folder)
    assert "was started before" in answer["error"]
    assert (tmp_path / "runs").read_text() == "x\n"


def test_a_bad_message_is_answered_and_the_spawner_goes_on(host: Host, tmp_path: Path) -> None:
    _, folder = host.prepare(argv=("true",))
    stranger = os.open(tmp_path / "stranger", os.O_RDWR | os.O_CREAT)
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT)
    try:
        good = {"id": 7, "dir": str(folder)}
        assert host.ask(b"\xff{")["id"] is None
        assert host.ask([1])["id"] is None
        assert host.ask({"id": "x", "dir": str(folder)})["id"] is None
        assert "absolute" in host.ask({"id": 7, "dir": "x"}, lock)["error"]
        assert "0 descriptors" in host.ask(good)["error"]
        assert "2 descriptors" in host.ask(good, lock, lock)["error"]
        assert "not the lock" in host.ask(good, stranger)["error"]
        assert "no usable lock" in host.ask({"id": 7, "dir": str(tmp_path / "no")}, lock)["error"]
        assert "too long" in host.ask(b" " * 70_000 + b"{}", lock)["error"]
        first = host.ask(good, lock)
        assert first["pid"] > 0
        wait_for(lambda: files.read_exit(folder), "exit")
    finally:
        os.close(stranger)
        os.close(lock)
    held = host.sh("echo up; sleep 1000")
    held.says(b"up")
    again = os.open(held.folder / "lock", os.O_RDWR)
    try:
        answer = host.ask({"id": 8, "dir": str(held.folder)}, again)
        assert "locked by another" in answer["error"]
    finally:
        os.close(again)
    held.stop()
    assert held.exit().reason == "cancelled"
    assert len(os.listdir(f"/proc/{host.spawner.pid}/fd")) == 4  # stdio and the socket


def test_shims_live_on_when_the_spawner_is_killed(host: Host, tmp_path: Path) -> None:
    attempt = host.sh(f"echo up; until test -e {tmp_path}/go; do sleep 0.02; done; echo on; exit 6")
    attempt.says(b"up")
    host.spawner.kill()
    host.spawner.wait()
    (tmp_path / "go").touch()
    end = attempt.exit()
    assert (end.code, attempt.read("stdout")) == (6, b"up\non\n")


def test_the_shim_ignores_the_signals_of_a_closing_terminal(host: Host) -> None:
    attempt = host.sh("echo up; sleep 1000")
    attempt.says(b"up")
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGPIPE):
        tree.signal_process(*attempt.shim, number)
    attempt.stop()
    assert attempt.exit().reason == "cancelled"


def mark_of(attempt: str) -> str:
    return f"{ATTEMPT_MARK}={attempt}"


def test_a_sweep_clears_what_a_killed_shim_left(both_hosts: Host) -> None:
    attempt = both_hosts.python(ESCAPISTS)
    attempt.says(b"up")
    started = files.started_json(attempt.started())
    attempt.kill_shim()
    assert files.read_exit(attempt.folder) is None
    assert sweep(mark_of(attempt.id), started, deadline_s=15) == 0
    # What forks and exits for ever is missed by one look, not by a hundred.
    assert not any(marked(attempt.id) for _ in range(100))


def test_a_sweep_signals_no_stranger(host: Host) -> None:
    attempt = host.sh("echo up; sleep 1000")
    attempt.says(b"up")
    attempt.kill_shim()
    started = files.started_json(attempt.started())
    stranger = subprocess.Popen(["sleep", "1000"])
    try:
        pid, ticks = tree.identity(stranger.pid) or (0, 0)
        rebooted = {**started, "boot_id": "another"}
        assert sweep(mark_of(attempt.id), rebooted, deadline_s=5) == 0
        assert marked(attempt.id)
        # Its pid is recorded, its ticks are another's; then: it has the mark, but is older.
        reused = {**started, "child": {"pid": pid, "ticks": ticks + 1}}
        assert sweep(mark_of("another"), reused, deadline_s=5) == 0
        newer = {**started, "child": {"pid": pid, "ticks": ticks + 10**6}}
        assert sweep(mark_of(attempt.id), newer, deadline_s=5) == 0
        assert marked(attempt.id)
        assert not tree.signal_process(pid, ticks + 1, signal.SIGKILL)
        assert sweep(mark_of(attempt.id), started, deadline_s=10) == 0
        assert stranger.poll() is None
        assert tree.signal_process(pid, ticks, signal.SIGKILL)
    finally:
        stranger.kill()
        stranger.wait()
    assert marked(attempt.id) == []


# --- a full disk


def test_a_full_disk_blocks_the_child_and_loses_no_byte(host: Host, small_disk: Path) -> None:
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"x" * 1_200_000)
    attempt = host.sh("yes 0123456789 | head -c 1700000; echo end", root=small_disk)
    wait_for(attempt.blocked, "a blocked shim")
    assert not (attempt.folder / "exit.json").exists()
    ballast.unlink()
    end = attempt.exit()
    expected = (b"0123456789\n" * 160_000)[:1_700_000] + b"end\n"
    assert (end.code, end.streams["stdout"].dropped) == (0, 0)
    assert end.streams["stdout"].sha256 == hashlib.sha256(expected).hexdigest()
    marks, _ = decode_marks(attempt.read("times"))
    assert marks[0].offset == 0 and len(attempt.read("times")) == len(marks) * files.MARK.size


def test_an_exit_waits_in_memory_until_the_disk_takes_it(
    host: Host, small_disk: Path, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    attempt = host.sh(f"until test -e {go}; do sleep 0.02; done; exit 3", root=small_disk)
    attempt.started()
    ballast = fill(small_disk)
    go.touch()
    wait_for(attempt.blocked, "a blocked shim")
    assert attempt.shim_alive() and not (attempt.folder / "exit.json").exists()
    ballast.unlink()
    assert attempt.exit().code == 3


def test_nothing_runs_before_started_is_on_disk(
    host: Host, small_disk: Path, tmp_path: Path
) -> None:
    names = ("killed", "stopped", "waiting")
    prepared = [
        host.prepare(argv=("touch", str(tmp_path / name)), root=small_disk) for name in names
    ]
    for _, folder in prepared:
        (folder / "lock").touch()
    stop = files.Stop(1, signal.SIGTERM, "cancelled", 10)
    disk.write_json(prepared[1][1] / "stop", files.stop_json(stop))
    ballast = fill(small_disk)
    for name, folder in prepared:
        host.fork(name, folder)
    killed, stopped, waiting = host.attempts
    for attempt in host.attempts:
        wait_for(attempt.blocked, "a blocked shim")
    children = tree.below(killed.shim[0], tree.processes())
    assert len(children) == 1
    killed.kill_shim()
    wait_for(lambda: gone(children[0].pid, children[0].ticks), "end of the child")
    ballast.unlink()
    assert (waiting.exit().code, waiting.exit().reason) == (0, None)
    assert stopped.exit().reason == "cancelled"
    assert not (killed.folder / "started").exists()
    assert [name for name in names if (tmp_path / name).exists()] == ["waiting"]
