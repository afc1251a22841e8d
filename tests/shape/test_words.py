"""The words that the house never uses are in no docstring, no comment and no page either."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from tests.shape.test_shape import (
    WORDS_NEVER_USED,
    comments,
    name,
    python_files,
    report,
    tracked,
    tree,
)

NEVER = re.compile(rf"\b({'|'.join(sorted(WORDS_NEVER_USED))})\b", re.IGNORECASE)
# where a page lists them, or names a thing of another system by its own name
QUOTED = {("docs/GLOSSARY.md", "Never used:"), ("tests/shape/test_shape.py", "-> execution")}
Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def docstrings(module: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and text of each docstring, also of those that explain a name."""
    for node in ast.walk(module):
        if not isinstance(node, Documented):
            continue
        for statement in node.body:
            match statement:
                case ast.Expr(value=ast.Constant(value=str(text))):
                    for offset, line in enumerate(text.splitlines()):
                        yield statement.lineno + offset, line


def pages() -> list[Path]:
    return [file for file in tracked() if file.suffix == ".md"]


def lines(file: Path) -> Iterator[tuple[int, str]]:
    """What a file says to people, with the line."""
    if file.suffix == ".md":
        yield from enumerate(file.read_text(encoding="utf-8").splitlines(), 1)
    else:
        yield from docstrings(tree(file))
        yield from comments(file)


def test_words_that_are_never_used_are_in_no_docstring_comment_or_page() -> None:
    report(
        [
            f"{name(file)}:{line}: {found[0]!r}: docs/GLOSSARY.md has the house's word"
            for file in (*python_files(), *pages())
            if NEVER.search(file.read_text(encoding="utf-8"))  # else it need not be read in parts
            for line, text in lines(file)
            if (found := NEVER.search(text))
            and not any(name(file) == page and start in text for page, start in QUOTED)
        ]
    )


def test_the_check_above_reads_docstrings_comments_and_pages(tmp_path: Path) -> None:
    word = sorted(WORDS_NEVER_USED)[0]
    source = tmp_path / "x.py"
    source.write_text(
        f'"""Opens a {word}."""\nX = 1\n"""A {word}."""\n\n\ndef f():\n    """{word}."""\n'
    )
    said = [line for line, text in docstrings(ast.parse(source.read_text())) if NEVER.search(text)]
    assert said == [1, 3, 7]
    noted = tmp_path / "y.py"
    noted.write_text(f"x = 1  # the {word}\n")
    assert [line for line, text in comments(noted) if NEVER.search(text)] == [1]
    assert not NEVER.search("sandboxed, boxing, ControlMaster")
