"""`--fold` over real nodes: groups, differences, terminals that are not steered, the API."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
from pathlib import Path

from tests.e2e.up import QD, Up

SCRIPT = r"""
case $QD_ATTEMPT in
*-2-1) printf 'one\nTWO\n\033]0;title\007'; echo odd >&2; exit 3;;
esac
printf 'one\ntwo\n'
"""


def script(directory: Path) -> str:
    path = directory / "script"
    path.write_text(SCRIPT)
    return str(path)


def odd_node(up: Up, run: str) -> str:
    tasks = up.api(f"/v1/runs/{run}")["tasks"]
    return next(str(task["node"]) for task in tasks if task["exit_code"] == 3)


def test_equal_results_are_one_group_and_the_odd_one_is_a_difference(
    up: Up, tmp_path: Path
) -> None:
    done = up.qd("run", "-t", "all", "--fold", "--script", script(tmp_path))
    assert done.returncode == 1
    *lines, last = done.stdout.decode().splitlines()
    run = re.fullmatch(r"run (\w+) failed: 2 succeeded, 1 failed", last)
    assert run is not None, done
    odd = odd_node(up, run[1])
    assert lines[0].startswith("2 the same, succeeded: ") and odd not in lines[0].split(",")
    assert lines[1:] == [
        "  | one",
        "  | two",
        f"1 node, failed, exit 3: {odd}",
        "  | @@ -1,2 +1,3 @@",
        "  |  one",
        "  | -two",
        "  | +TWO",
        r"  | +\x1b]0;title\x07 (no line end)",
        "  ! odd",
    ]
    assert b"\x1b" not in done.stdout + done.stderr
    again = up.qd("logs", run[1], "--fold")
    assert again.stdout.decode().splitlines() == lines, "the server has the same groups"
    followed = up.qd("watch", run[1], "--fold")
    assert (followed.returncode, followed.stdout) == (1, done.stdout)


def test_fold_events_tell_of_each_end_and_then_of_the_groups(up: Up, tmp_path: Path) -> None:
    done = up.qd("run", "-t", "all", "--fold", "--json", "--script", script(tmp_path))
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert [event["type"] for event in events] == ["run", *["fold"] * 3, *["group"] * 2, "ended"]
    groups = [event for event in events if event["type"] == "group"]
    assert [group["count"] for group in groups] == [2, 1]
    assert groups[1]["sample"]["stderr"] == "odd\n" and groups[1]["sample"]["whole"]
    run = events[0]["id"]
    found = up.api(f"/v1/runs/{run}/fold")
    assert [group["id"] for group in found["groups"]] == [group["id"] for group in groups]
    assert (found["total"], found["open"], found["state"]) == (3, 0, "ended")
    first, second = (group["id"] for group in groups)
    diff = up.api(f"/v1/runs/{run}/fold/diff", first=first, second=second)
    assert "-two" in diff["stdout"] and diff["stderr"][-1] == "+odd" and not diff["cut"]
    assert up.api(f"/v1/runs/{run}/fold", by="stdout")["groups"][0]["count"] == 2


def test_by_stdout_what_only_stderr_tells_apart_is_the_same(up: Up) -> None:
    done = up.qd("run", "-t", "all", "--fold-by", "stdout", "--", "echo a; echo $QD_ATTEMPT >&2")
    assert done.stdout.startswith(b"3 the same, succeeded: "), done


def test_on_a_terminal_it_is_drawn_in_place_and_nothing_of_a_task_steers_it(
    up: Up, tmp_path: Path
) -> None:
    main, side = pty.openpty()
    words = ["run", "-t", "all", "--fold", "--", "printf 'a\\033]0;title\\007\\n'; sleep 0.5"]
    process = subprocess.Popen(
        [QD, *words], env={**up.env, "LINES": "20", "COLUMNS": "60"}, stdout=side, stderr=side
    )
    os.close(side)
    said = b""
    while True:
        try:
            piece = os.read(main, 4096)
        except OSError:  # the other side is closed
            break
        said += piece
    os.close(main)
    assert process.wait(20) == 0
    assert b"running" in said and b"3 the same, succeeded" in said
    assert b"\x1b]" not in said and rb"a\x1b]0;title\x07" in said
    picture, _, summary = said.rpartition(b"\x1b[J")
    assert b"of 3 ended" in picture and b"of 3 ended" not in summary
    assert re.sub(rb"\x1b\[[0-9;]*m", b"", summary).startswith(b"3 the same"), said
