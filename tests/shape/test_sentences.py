"""What the users' errors say: not only what happened, but also what to do next."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "quarterdeck"
KINDS = {"Invalid", "NotFound", "Conflict", "Denied", "Unavailable", "Broken", "TooOften"}
# a second part of the sentence, or a second sentence: what to do, or what happens by itself
NEXT = re.compile(r"[:;,] |\. \S|\bor\b|`")
FOR_PEOPLE = (
    "agent/ask.py",
    "agent/enrol.py",
    "api/auth.py",
    "client/http.py",
    "control/access.py",
    "control/enrol.py",
    "control/leaf.py",
    "control/main.py",
    "control/orders.py",
    "fabric/certificates.py",
    "fabric/identity.py",
    "fabric/nats/link.py",
    "fabric/trust.py",
    "settings/__init__.py",
    "store/access.py",
    "store/archive.py",
)


def sentences(path: Path) -> list[tuple[int, str]]:
    """(line, text) of each message that is written where its error is made; a value reads as X."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in KINDS
            and len(node.args) > 1
            and isinstance(node.args[1], ast.Constant | ast.JoinedStr)
        ):
            found.append((node.lineno, written(node.args[1])))
    return found


def written(text: ast.expr) -> str:
    if isinstance(text, ast.Constant):
        return str(text.value)
    assert isinstance(text, ast.JoinedStr)
    return "".join(
        str(part.value) if isinstance(part, ast.Constant) else "X" for part in text.values
    )


def test_a_message_is_a_sentence_and_says_what_to_do_next() -> None:
    bad = [
        f"{name}:{line}: {text}"
        for name in FOR_PEOPLE
        for line, text in sentences(SOURCE / name)
        if not NEXT.search(text) or text[-1:] not in ".?X"
    ]
    assert not bad, "\n".join(bad)


def test_the_check_above_finds_a_message_without_a_next_step(tmp_path: Path) -> None:
    source = tmp_path / "bad.py"
    source.write_text('raise Invalid("code", f"The thing {name} is broken.")\n')
    ((_, text),) = sentences(source)
    assert text == "The thing X is broken." and not NEXT.search(text)
