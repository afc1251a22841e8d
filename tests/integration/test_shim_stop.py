"""The shim with real processes: timeout, stop, lost contact, and trees that try to escape."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from quarterdeck.agent.shim import disk, files, tree
from tests.integration.shim_host import (
    ESCAPISTS,
    Host,
    gone,
    marked,
    wait_for,
)

STUBBORN = "trap '' TERM; echo up; while :; do sleep 0.1; done"


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


# --- timeout, stop, lost contact


def test_a_timeout_kills_what_is_deaf_to_term(both_hosts: Host) -> None:
    attempt = both_hosts.sh(STUBBORN, timeout_s=0.3, grace_s=0.3)
    end = attempt.exit()
    assert (end.reason, end.code, end.signal) == ("timeout", None, signal.SIGKILL)
    assert end.ended_at - end.started_at > 0.55
    assert attempt.has("overdue", b'"at"')


def test_a_timeout_gives_a_process_its_grace(host: Host) -> None:
    attempt = host.sh(
        "trap 'echo bye; exit 9' TERM; while :; do sleep 0.02; done", timeout_s=0.3, grace_s=30.0
    )
    end = attempt.exit()
    assert (end.reason, end.code) == ("timeout", 9)
    assert attempt.read("stdout") == b"bye\n"


def test_a_stop_cancels(both_hosts: Host) -> None:
    attempt = both_hosts.sh("echo up; sleep 1000")
    attempt.says(b"up")
    attempt.stop()
    end = attempt.exit()
    assert (end.reason, end.signal, end.survivors) == ("cancelled", signal.SIGTERM, 0)


def test_a_second_stop_with_kill_does_not_wait_for_the_grace(both_hosts: Host) -> None:
    attempt = both_hosts.sh(STUBBORN)
    attempt.says(b"up")
    attempt.stop(1, grace_s=1000)
    attempt.stop(2, signal.SIGKILL)
    end = attempt.exit()
    assert (end.reason, end.signal) == ("cancelled", signal.SIGKILL)


def test_a_stop_that_was_seen_before_is_not_acted_on_again(host: Host) -> None:
    attempt = host.sh("trap 'echo T' TERM; echo up; while :; do sleep 0.02; done")
    attempt.says(b"up")
    attempt.stop(1, grace_s=1000)
    attempt.says(b"T\n")
    tree.signal_process(*attempt.shim, signal.SIGUSR1)
    attempt.stop(2, grace_s=1000)
    attempt.says(b"T\nT\n")
    attempt.stop(3, signal.SIGKILL)
    attempt.exit()
    assert attempt.read("stdout") == b"up\nT\nT\n"


def test_a_stop_that_is_there_before_the_start_keeps_the_order_from_running(
    host: Host, tmp_path: Path
) -> None:
    name, folder = host.prepare(argv=("touch", str(tmp_path / "ran")))
    stop = files.Stop(1, signal.SIGTERM, "cancelled", 10)
    disk.write_json(folder / "stop", files.stop_json(stop))
    host.fork(name, folder)
    assert host.attempts[-1].exit().reason == "cancelled"
    assert not (tmp_path / "ran").exists()


def test_a_stop_reaches_other_sessions_and_stopped_processes(host: Host) -> None:
    attempt = host.sh(
        """setsid sh -c 'trap "echo got; exit" TERM; echo one; while :; do sleep 0.02; done' &
        setsid sh -c 'trap "echo got; exit" TERM; echo two; kill -STOP $$' &
        trap : TERM; wait; wait; wait"""
    )
    attempt.says(b"one")
    attempt.says(b"two")
    attempt.stop(grace_s=15)
    end = attempt.exit()
    assert attempt.read("stdout").count(b"got") == 2
    assert (end.reason, end.survivors) == ("cancelled", 0)


def test_a_stop_while_draining_clears_the_survivors_but_changes_no_result(host: Host) -> None:
    attempt = host.sh("(trap '' TERM; echo up; exec sleep 1000) & exit 0", drain_s=60.0)
    attempt.says(b"up")
    child = attempt.started().child
    wait_for(lambda: gone(child.pid, child.ticks), "end of main")
    attempt.stop(grace_s=0.1)
    end = attempt.exit()
    assert (end.reason, end.code, end.survivors) == (None, 0, 0)


def test_leftovers_are_killed_when_the_order_says_so(both_hosts: Host) -> None:
    attempt = both_hosts.sh(
        "setsid sleep 1000 >/dev/null 2>&1 & echo ok", leftovers="kill", drain_s=0.2
    )
    end = attempt.exit()
    assert (end.reason, end.code, end.survivors) == (None, 0, 0)
    assert marked(attempt.id) == []


def test_an_attempt_without_contact_ends_itself(host: Host) -> None:
    contact = host.root / "contact"
    attempt = host.sh("echo up; sleep 1000", lost_after_s=0.6)
    attempt.says(b"up")
    until = time.monotonic() + 1.5

    def touched() -> bool:
        # Times far in the past and in the future: a stepped clock is no loss of contact.
        ahead = 1e6 if int(time.monotonic() * 100) % 2 else -1e6
        os.utime(contact, (time.time() + ahead, time.time() + ahead))
        return time.monotonic() > until

    wait_for(touched, "time to pass")
    assert attempt.shim_alive() and not (attempt.folder / "exit.json").exists()
    end = attempt.exit()
    assert (end.reason, end.signal) == ("lost_after", signal.SIGTERM)


# --- trees


@pytest.mark.parametrize("how", ["stop", "timeout"])
def test_nothing_is_left_of_a_tree_made_to_escape(both_hosts: Host, how: str) -> None:
    attempt = both_hosts.python(ESCAPISTS, timeout_s=0.8 if how == "timeout" else 0.0, grace_s=0.2)
    attempt.says(b"up")
    if how == "stop":
        attempt.stop(grace_s=0.2)
    end = attempt.exit()
    assert end.reason == ("timeout" if how == "timeout" else "cancelled")
    assert (end.signal, end.survivors, end.kill_failed) == (signal.SIGKILL, 0, False)
    assert marked(attempt.id) == []


def test_orphans_that_end_are_reaped_while_the_attempt_runs(host: Host) -> None:
    attempt = host.sh("for i in 1 2 3 4 5; do (sleep 0 &); done; echo up; sleep 1000")
    attempt.says(b"up")

    def zombies() -> int:
        return sum(process.ppid == attempt.shim[0] for process in tree.processes())

    wait_for(lambda: zombies() == 1, "only the main process below the shim")
    attempt.stop()
    attempt.exit()


def test_cgroups_are_removed_at_the_end(host: Host) -> None:
    attempt = host.sh("cat /proc/self/cgroup; sleep 1000 >/dev/null 2>&1 &", leftovers="kill")
    attempt.exit()
    groups = [line for line in attempt.read("stdout").splitlines() if b"qd-attempt-" in line]
    if not groups:
        pytest.skip("no cgroup v2 that can be written to on this machine")
    path = os.fsdecode(groups[0].split(b"::", 1)[1])
    assert not any(os.path.exists(f"/sys/fs/cgroup{part}{path}") for part in ("", "/unified"))


def test_what_cannot_be_killed_ends_as_kill_failed(host: Host) -> None:
    frozen = Path(f"/sys/fs/cgroup/freezer/qd-test-{os.getpid()}")
    try:
        frozen.mkdir()
    except OSError as error:
        pytest.skip(f"needs a freezer cgroup (v1) to make a process unkillable: {error}")
    unkillable: list[tree.Process] = []
    try:
        attempt = host.sh("echo up; sleep 1000", kill_s=0.3)
        attempt.says(b"up")
        unkillable = marked(attempt.id)
        for process in unkillable:
            (frozen / "cgroup.procs").write_text(str(process.pid))
        (frozen / "freezer.state").write_text("FROZEN")
        wait_for(lambda: "FROZEN" in (frozen / "freezer.state").read_text(), "freezing")
        attempt.stop(number=signal.SIGKILL)
        end = attempt.exit()
        assert (end.reason, end.code, end.signal) == ("cancelled", None, None)
        assert end.kill_failed and end.survivors >= 1
    finally:
        (frozen / "freezer.state").write_text("THAWED")
        for process in unkillable:
            ended = functools.partial(gone, process.pid, process.ticks)
            wait_for(ended, "end of the frozen")
            with contextlib.suppress(ChildProcessError):
                os.waitpid(process.pid, 0)  # ours since its shim ended, see conftest
        frozen.rmdir()
