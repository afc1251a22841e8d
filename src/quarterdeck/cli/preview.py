"""What `qd run --preview` prints: who would be hit, and why some would wait."""

from __future__ import annotations

from typing import Any

from quarterdeck.cli.node import labels_text, say_notes, state_text
from quarterdeck.cli.render import print_json, say, table


def show_preview(found: dict[str, Any], *, as_json: bool) -> None:
    """The answer of `POST /v1/runs/preview`, as a table or as JSON."""
    if as_json:
        print_json(found)
        return
    say_notes(found["notes"], found["target"])
    if found["nodes"]:
        rows = [
            (node["node"], state_text(node), labels_text(node["labels"]), node["waits"])
            for node in found["nodes"]
        ]
        table(("NODE", "STATE", "LABELS", ""), rows)
    waiting = sum(1 for node in found["nodes"] if node["waits"])
    count = "1 node" if found["total"] == 1 else f"{found['total']} nodes"
    say(f"{count} would be hit, {waiting} of them would wait; nothing was started.")
