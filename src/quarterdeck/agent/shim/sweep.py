"""The sweep: kill what a dead shim left behind, found by the mark in its environment.

Only for an attempt whose shim is dead (its lock is free): a living shim does this better, because
it is the parent of the whole tree. Without it the mark `QD_ATTEMPT=<attempt>` is all that tells a
leftover from a stranger, so each candidate must also be of our user, or of the one the attempt was
started for, and no older than the recorded child, and is judged again after a pidfd pins it. An
agent started inside a task has re-executed itself without the mark, and what was below a killed
process is not followed without it.

It runs in a thread of the agent, but what it knows is what the shim knows: processes and cgroups.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from quarterdeck.agent.shim import cgroup, tree

_PAUSE_S = 0.005
# One clean look proves nothing: during its exec a process shows an empty environment, and one that
# forks and exits for ever is easily missed where no cgroup can hold it still.
_CLEAN_LOOKS = 100
_CLEAN_LOOKS_FROZEN = 10


def sweep(variable: str, started: Mapping[str, Any], *, deadline_s: float) -> int:
    """Kill the leftovers of an attempt whose shim is dead; how many remain after `deadline_s`.

    `variable` is the mark, `NAME=VALUE`. `started` is the content of the attempt's `started` file
    (`files.started_json`). After a reboot nothing can be left and nothing is done. Blocks; call it
    in a thread.
    """
    if started["boot_id"] != tree.boot_id():
        return 0
    child = (int(started["child"]["pid"]), int(started["child"]["ticks"]))
    users = {os.getuid(), started.get("uid") or os.getuid()}
    sign = _Sign(os.fsencode(variable), child, frozenset(users))
    group = started.get("cgroup")
    if group is None or not cgroup.freeze(group):
        return _clear(sign, deadline_s, _CLEAN_LOOKS)
    try:
        return _clear(sign, deadline_s, _CLEAN_LOOKS_FROZEN)
    finally:
        cgroup.thaw(group)
        cgroup.remove(group)


@dataclass(frozen=True, slots=True)
class _Sign:
    """By what a leftover is known."""

    mark: bytes
    child: tuple[int, int]
    users: frozenset[int]


def _clear(sign: _Sign, deadline_s: float, looks: int) -> int:
    give_up_at = time.monotonic() + deadline_s
    clean = 0
    while True:
        left = []
        for process in tree.processes():
            if _is_leftover(process, sign):
                left.append(process)
                # At once, so that it forks no more; killed when all that was found is stopped.
                _signal(process, sign, signal.SIGSTOP)
        for process in left:
            _signal(process, sign, signal.SIGKILL)
        clean = 0 if left else clean + 1
        if clean >= looks:
            return 0
        if time.monotonic() >= give_up_at:
            return len(left)
        time.sleep(_PAUSE_S)


def _signal(process: tree.Process, sign: _Sign, number: int) -> None:
    pidfd = tree.open_pidfd(process.pid)
    if pidfd is None:
        return
    try:
        now = tree.read_process(process.pid)
        if now is not None and now.ticks == process.ticks and _is_leftover(now, sign):
            signal.pidfd_send_signal(pidfd, number)
    except (ProcessLookupError, PermissionError):
        pass  # it has ended, or has become another user's
    finally:
        os.close(pidfd)


def _is_leftover(process: tree.Process, sign: _Sign) -> bool:
    if not process.living or process.pid == os.getpid():
        return False
    if (process.pid, process.ticks) == sign.child:
        return True
    if process.ticks < sign.child[1] or not _is_of(process.pid, sign.users):
        return False
    try:
        with open(f"/proc/{process.pid}/environ", "rb") as file:
            return sign.mark in file.read().split(b"\0")
    except OSError:
        return False


def _is_of(pid: int, users: frozenset[int]) -> bool:
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            for line in file:
                if line.startswith(b"Uid:"):
                    return int(line.split()[1]) in users
    except OSError:
        pass
    return False
