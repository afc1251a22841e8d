"""What is left to write when an attempt can't be begun, or when the shim itself fails."""

from __future__ import annotations

import hashlib
import os
import time

from quarterdeck.agent.shim import disk, files, life, linux, tree

_RETRY_S = 0.5
_NAMED = 8


def refuse(folder: str, sentence: str) -> None:
    """End an attempt whose order cannot be read: an end with a reason, never a silence."""
    contents = {"stdout": b"", "stderr": (sentence + "\n").encode("utf-8", "backslashreplace")}
    now = time.time()
    end = files.Exit(
        reason="start_error",
        code=126,
        signal=None,
        error=sentence,
        started_at=now,
        ended_at=now,
        streams={
            name: files.StreamEnd(len(data), hashlib.sha256(data).hexdigest(), 0)
            for name, data in contents.items()
        },
        survivors=0,
        kill_failed=False,
    )
    while os.path.isdir(folder):
        try:
            for name, data in (*contents.items(), ("times", b"")):
                disk.write_file(os.path.join(folder, name), data, 0o600, durable=True)
            disk.write_json(os.path.join(folder, "exit.json"), files.exit_json(end))
            return
        except OSError:
            linux.set_name(linux.BLOCKED_NAME)
            time.sleep(_RETRY_S)


def note_crash(folder: str, trace: str) -> None:
    """The shim has no screen: leave the trace of a defect where `qd doctor` finds it."""
    try:
        disk.write_file(os.path.join(folder, "crash"), trace.encode(), 0o600)
    except OSError:
        pass


def error(fault: str | None, ended: life.Ended, start_timeout_s: float) -> str | None:
    """What there is to say about an end beyond its code; for the shim to call."""
    words = [fault] if fault else []
    if ended.reason == "start_timeout":
        words.append(_not_started(start_timeout_s))
    if ended.kill_failed:
        words.append(_not_killed(os.getpid()))
    return " ".join(words) or None


def _not_started(start_timeout_s: float) -> str:
    return (
        f"The command did not begin within {start_timeout_s:g} s: its working directory, script or "
        "interpreter may lie on a file system that does not answer; check them on this node."
    )


def _not_killed(root: int) -> str:
    """Who is still there after every attempt to kill them; zombies are not."""
    left = [process for process in tree.below(root, tree.processes()) if process.living]
    named = ", ".join(f"{one.pid} (state {one.state})" for one in left[:_NAMED])
    more = f" and {len(left) - _NAMED} more" if len(left) > _NAMED else ""
    many = "Processes" if len(left) > 1 else "Process"
    return (
        f"{many} {named}{more} could not be killed; state D waits for the kernel. "
        "The node goes on watching."
    )
