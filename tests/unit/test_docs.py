"""Generated pages are what the code says now, and STATUS names every row of the product."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[2]
ROWS = {
    "T": 13, "R": 16, "S": 9, "A": 3, "G": 5, "H": 1, "L": 8, "O": 4, "F": 6,
}  # fmt: skip


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_generated_pages_are_current() -> None:
    for path, text in generator().pages().items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name}: run ./dev docs"


def test_status_says_works_partly_or_not_yet_of_every_row() -> None:
    text = (ROOT / "docs" / "STATUS.md").read_text(encoding="utf-8")
    found = dict(re.findall(r"^\| ([A-Z]\d+) \| (works|partly|not yet) \|", text, re.MULTILINE))
    assert set(found) == {f"{kind}{n}" for kind, most in ROWS.items() for n in range(1, most + 1)}


def test_a_row_that_works_names_a_test_that_exists() -> None:
    text = (ROOT / "docs" / "STATUS.md").read_text(encoding="utf-8")
    for row, shown in re.findall(r"^\| ([A-Z]\d+) \| works \| (.*) \|$", text, re.MULTILINE):
        named = re.findall(r"`(tests/[\w/.]+)`", shown)
        assert named, f"{row} names no test"
        for path in named:
            assert (ROOT / path).exists(), f"{row}: {path} does not exist"


def test_every_page_that_is_named_exists() -> None:
    there = {path.name for path in texts() if path.suffix == ".md"}
    missing = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in texts()
        for name in re.findall(r"([\w-]+\.md)\b", path.read_text(encoding="utf-8"))
        if name not in there
    ]
    assert not missing


def test_records_of_decisions_are_numbered_without_gaps_and_as_their_headings_say() -> None:
    numbers = []
    for path in sorted((ROOT / "docs" / "adr").glob("*.md")):
        heading = path.read_text(encoding="utf-8").splitlines()[0]
        number = re.fullmatch(r"# (\d+)\. .+", heading)
        assert number is not None, f"{path.name}: {heading}"
        assert path.name.startswith(f"{int(number[1]):04d}-"), f"{path.name}: {heading}"
        numbers.append(int(number[1]))
    assert numbers == list(range(1, len(numbers) + 1))


def texts() -> list[Path]:
    """Every text of ours in which a page may be named."""
    folders = ("src", "tests", "docs", "bench", "examples")
    found = [path for folder in folders for path in (ROOT / folder).rglob("*")]
    kept = [path for path in found if path.suffix in (".py", ".md", ".toml", ".sh")]
    return [*kept, ROOT / "dev", ROOT / "README.md", ROOT / "CHANGELOG.md"]
