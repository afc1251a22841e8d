"""What a live run says when nothing happens, and how nodes are listed on a narrow terminal."""

from __future__ import annotations

from typing import Any

from quarterdeck.cli import node as fleet
from quarterdeck.cli.why import LINES, reasons

NODE = {"state": "ready", "draining": False, "problem": "", "last_seen": None}


def task(node: str, state: str = "queued") -> dict[str, Any]:
    return {"node": node, "node_id": node, "state": state}


def run(*tasks: dict[str, Any]) -> dict[str, Any]:
    return {"plan": {"offline_ttl_s": 60.0}, "tasks": list(tasks)}


def node(name: str, **more: object) -> dict[str, Any]:
    return {**NODE, "node": name, **more}


def test_each_task_that_waits_says_for_what_in_the_order_of_names() -> None:
    nodes = {
        "web-10": node("web-10", draining=True),
        "web-2": node("web-2", state="silent"),
        "web-1": node("web-1"),
        "web-3": node("web-3"),
        "web-4": node("web-4", state="silent"),
    }
    tasks = [task("web-10"), task("web-2"), task("web-1"), task("web-3", "running")]
    assert reasons(run(*tasks, task("web-4", "running"), task("web-5", "ended")), nodes) == [
        "web-1: web-1 has not taken it yet: its slots may be in use",
        "web-2: node last seen never; it is given up after 60 s (--offline)",
        "web-4: node last seen never",
        "web-10: waits: web-10 drains (`qd node undrain`)",
    ]


def test_of_many_that_wait_some_are_named() -> None:
    tasks = [task(f"n{number}") for number in range(LINES + 3)]
    told = reasons(run(*tasks), {})
    assert len(told) == LINES + 1 and told[-1] == "and 3 more tasks wait"


def test_a_narrow_list_of_nodes_fits_and_names_a_wrong_clock() -> None:
    listed = node(
        "vm-1",
        last_seen="2026-01-01T00:00:00Z",
        cpu_percent=3.0,
        load1=0.1,
        memory_used=1 << 30,
        memory_total=4 << 30,
        disk_free=9 << 30,
        attempts=2,
        labels={"dc": "ams"},
        version="0.1.0",
        clock_offset_s=3.0,
        approved=True,
        unknown_attempts=[],
    )
    headers, (row,) = fleet._short([listed])
    assert len(headers) == len(row) and "25 %" in row and row[-1] == "clock +3.0 s"
    assert sum(map(len, row)) + 2 * len(row) < 80
