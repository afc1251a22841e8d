"""What `qd run --preview` prints: who would be hit, and why some would wait."""

from __future__ import annotations

from typing import Any

from quarterdeck.cli.node import labels_text, say_notes, state_text
from quarterdeck.cli.render import print_json, say, table
from quarterdeck.core.fold import natural


def show_preview(found: dict[str, Any], *, as_json: bool) -> None:
    """The answer of `POST /v1/runs/preview`, as a table or as JSON."""
    if as_json:
        print_json(found)
        return
    say_notes(found["notes"], found["target"])
    if found["nodes"]:
        rows = [
            (node["node"], state_text(node), labels_text(node["labels"]), _note(node))
            for node in sorted(found["nodes"], key=lambda node: natural(node["node"]))
        ]
        table(("NODE", "STATE", "LABELS", ""), rows)
    say(f"{_summary(found)}; nothing was started.")


def _note(node: dict[str, Any]) -> str:
    """What the pick would say of a node, else why its task would wait."""
    if node["chosen"] is None:
        return str(node["waits"])
    return f"chosen: {node['why']}" if node["chosen"] else f"left out: {node['why']}"


def _summary(found: dict[str, Any]) -> str:
    count = "1 node" if found["total"] == 1 else f"{found['total']} nodes"
    if found["chosen"] is None:
        waiting = sum(1 for node in found["nodes"] if node["waits"])
        said = f"{count} would be hit, {waiting} of them would wait"
    else:
        said = f"of {count} {found['chosen']} would be chosen now, {found['tasks']} are wanted"
    if found["first"] < found["tasks"]:
        said += f"; {found['first']} of {found['tasks']} tasks start first"
    return said
