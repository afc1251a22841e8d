"""Why nothing happens: what the tasks of a run wait for, said on a terminal after some silence.

The events of a run are read in one blocking call, so an alarm looks up from it: it asks the server
over a connection of its own and writes what is new to stderr.
"""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType
from typing import Any

from quarterdeck.cli.look import waits
from quarterdeck.cli.render import safe_text
from quarterdeck.client.http import Connection, quote
from quarterdeck.core.fold import natural
from quarterdeck.errors import QuarterdeckError

SILENT_S = 2.0
ANSWER_S = 3.0
LINES = 8
MOST_NODES = 1000  # of larger runs the counts say enough, and each look is dear


class Why:
    """One at a time: the alarm is the process's only one."""

    def __init__(self, server: Connection, run_id: str, *, on: bool) -> None:
        self._server = server
        self._run_id = run_id
        self._said: set[str] = set()
        self._on = on and sys.stderr.isatty()
        if self._on:
            signal.signal(signal.SIGALRM, self._look)
            signal.setitimer(signal.ITIMER_REAL, SILENT_S)

    def heard(self, event: dict[str, Any]) -> None:
        """Something happens: the silence begins anew."""
        if event["type"] == "run" and event["nodes"] > MOST_NODES:
            self.close()
        if self._on and event["type"] != "run":
            signal.setitimer(signal.ITIMER_REAL, SILENT_S)

    def close(self) -> None:
        if self._on:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            self._on = False

    def _look(self, _number: int, _frame: FrameType | None) -> None:
        try:
            server = self._server.hasty(ANSWER_S)
            try:
                run = server.get(f"/v1/runs/{quote(self._run_id)}")
                nodes = {node["id"]: node for node in server.get("/v1/nodes")["items"]}
            finally:
                server.close()
        except QuarterdeckError:
            return  # the stream says what is the matter with the server
        for line in reasons(run, nodes):
            if line not in self._said:
                self._said.add(line)
                os.write(2, safe_text(f"qd: {line}\n").encode())


def reasons(run: dict[str, Any], nodes: dict[str, Any]) -> list[str]:
    """A line for each task that waits for something that is known, as many as a person reads."""
    ttl_s = run["plan"]["offline_ttl_s"]
    found = []
    for task in sorted(run["tasks"], key=lambda task: natural(task["node"])):
        if task["state"] not in ("queued", "running"):
            continue
        node = nodes.get(task["node_id"])
        why = waits(task, node)
        if not why:
            continue
        if task["state"] == "queued" and node is not None and node["state"] != "ready":
            why += f"; it is given up after {ttl_s:g} s (--offline)"
        found.append(f"{task['node']}: {why}" if task["node"] else why)
    more = len(found) - LINES
    return [*found[:LINES], f"and {more} more tasks wait"] if more > 0 else found
