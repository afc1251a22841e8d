"""The shape of the tree: sizes, names, words and places that the house agreed on."""

from __future__ import annotations

import ast
import gc
import io
import re
import subprocess
import sys
import tokenize
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
PLACES = ("src/quarterdeck", "tests", "bench", "examples", "release", "requirements")

FILE_LINES = 400
FUNCTION_LINES = 60
CLASS_METHODS = 20

VAGUE_MODULES = {"utils", "util", "helpers", "common", "manager", "managers", "misc"}
WORDS_NEVER_USED = {
    "worker",
    "workers",
    "slave",
    "slaves",
    "minion",
    "minions",
    "master",
    "masters",
    "execution",
    "executions",
    "invocation",
    "invocations",
    "box",
    "boxes",
}
# processes of their own, forked often: what they import is paid for by every attempt
STANDARD_LIBRARY_ONLY = ("agent/shim", "agent/spawner", "tt/")
HEAVY = {"litestar", "sqlalchemy", "alembic", "nats", "rich", "uvicorn", "asyncssh"}
# in halves, so that this file does not name them
REGISTRY_HOSTS = [
    "".join(halves)
    for halves in (
        ("pypi", ".org"),
        ("files.python", "hosted.org"),
        ("registry.", "npmjs.org"),
        ("deb.", "debian.org"),
        ("registry.", "yarnpkg.com"),
    )
]

Function = ast.FunctionDef | ast.AsyncFunctionDef


@cache
def tracked() -> tuple[Path, ...]:
    """All files of the tree that git keeps or would keep."""
    listed = subprocess.run(
        ["git", "-c", "safe.directory=*", "ls-files", "-z", "-co", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    files = (ROOT / name for name in listed.split("\0") if name)
    return tuple(sorted({file for file in files if file.is_file()}))


def name(path: Path) -> str:
    """A path as people write it."""
    return str(path.relative_to(ROOT))


def is_under(path: Path, place: str) -> bool:
    """True of a file somewhere in a folder of the tree."""
    return path.is_relative_to(ROOT / place)


@cache
def python_files() -> tuple[Path, ...]:
    """Our Python: the places above, and the door."""
    places = [f for f in tracked() if f.suffix == ".py" and any(is_under(f, p) for p in PLACES)]
    return (*places, ROOT / "dev")


def sources() -> list[Path]:
    """The product's modules."""
    return [file for file in python_files() if is_under(file, "src")]


@cache
def tree(path: Path) -> ast.Module:
    """The syntax tree of a file."""
    return ast.parse(path.read_text(encoding="utf-8"), name(path))


@cache
def nodes(path: Path) -> tuple[ast.AST, ...]:
    """All of its syntax tree."""
    return tuple(ast.walk(tree(path)))


@pytest.fixture(scope="module", autouse=True)
def trees_are_kept_for_these_tests_only() -> Iterator[None]:
    """And the collector does not go through half a million nodes again and again."""
    gc.disable()
    yield
    tree.cache_clear()
    nodes.cache_clear()
    gc.enable()


def report(found: list[str]) -> None:
    """Fails with all findings at once."""
    if found:
        pytest.fail("\n".join(found), pytrace=False)


def test_no_file_is_longer_than_the_cap() -> None:
    sizes = {file: len(file.read_text(encoding="utf-8").splitlines()) for file in python_files()}
    report([f"{name(f)}: {n} lines, cap {FILE_LINES}" for f, n in sizes.items() if n > FILE_LINES])


def test_no_function_is_longer_than_the_cap() -> None:
    report(
        [
            f"{name(file)}:{node.lineno}: {node.name} has {length} lines, cap {FUNCTION_LINES}"
            for file in python_files()
            for node in nodes(file)
            if isinstance(node, Function)
            and (length := (node.end_lineno or 0) - node.lineno + 1) > FUNCTION_LINES
        ]
    )


def test_no_class_has_more_methods_than_the_cap() -> None:
    report(
        [
            f"{name(file)}:{node.lineno}: {node.name} has {count} methods, cap {CLASS_METHODS}"
            for file in python_files()
            for node in nodes(file)
            if isinstance(node, ast.ClassDef)
            and (count := sum(isinstance(part, Function) for part in node.body)) > CLASS_METHODS
        ]
    )


def test_every_module_opens_by_saying_what_it_is_for() -> None:
    def first_line(file: Path) -> str:
        text = ast.get_docstring(tree(file), clean=False) or ""
        return text.split("\n", 1)[0].strip()

    report([f"{name(f)}: the first line says nothing" for f in python_files() if not first_line(f)])


def test_no_module_has_a_name_that_says_nothing() -> None:
    report(
        [
            f"{name(file)}: name it after what it does"
            for file in python_files()
            if VAGUE_MODULES & {part.removesuffix(".py") for part in file.relative_to(ROOT).parts}
        ]
    )


def defined_names(module: tuple[ast.AST, ...]) -> Iterator[tuple[int, str]]:
    """Names that the module itself gives, not those that it takes from others."""
    for node in module:
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                yield node.lineno, node.name
            case ast.arg():
                yield node.lineno, node.arg
            case ast.Name(ctx=ast.Store()):
                yield node.lineno, node.id
            case ast.Attribute(ctx=ast.Store()):
                yield node.lineno, node.attr


def words_of(identifier: str) -> set[str]:
    """`ExecutionBox`, `execution_box` -> execution, box."""
    return set(re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", identifier).lower().split("_"))


def test_words_that_the_house_does_not_use_are_in_no_name() -> None:
    given = [
        (f"{name(file)}:{line}", given)
        for file in sources()
        for line, given in (*defined_names(nodes(file)), (1, file.stem))
    ]
    report([f"{at}: {word} (house words: see docs)" for at, word in given if bad_words(word)])


def bad_words(identifier: str) -> set[str]:
    """The words of a name that are never used."""
    return words_of(identifier) & WORDS_NEVER_USED


def test_a_camel_or_snake_name_is_taken_apart() -> None:
    assert bad_words("RunExecution") == {"execution"}
    assert bad_words("box_of_runs") == {"box"}
    assert not bad_words("sandbox_masterpiece")


@cache
def comments(file: Path) -> tuple[tuple[int, str], ...]:
    """Line and text of each comment."""
    text = file.read_text(encoding="utf-8")
    if "#" not in text:
        return ()
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return tuple((t.start[0], t.string) for t in tokens if t.type == tokenize.COMMENT)


def test_what_is_left_to_do_has_an_issue() -> None:
    mark = re.compile(r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X)\b(?!\s*\(?#\d+)")
    report(
        [
            f"{name(file)}:{line}: name the issue, as in (#12)"
            for file in python_files()
            if mark.search(file.read_text(encoding="utf-8"))  # else it need not be read in parts
            for line, text in comments(file)
            if mark.search(text)
        ]
    )


def sleeps(module: tuple[ast.AST, ...]) -> Iterator[int]:
    """Lines that sleep; sleep(0) only lets others run."""
    for node in module:
        match node:
            case ast.Call(
                func=ast.Attribute(value=ast.Name(id="time" | "asyncio" | "anyio"), attr="sleep"),
                args=[ast.Constant(value=0)],
            ):
                continue
            case ast.Call(
                func=ast.Attribute(value=ast.Name(id="time" | "asyncio" | "anyio"), attr="sleep")
            ):
                yield node.lineno
            case ast.ImportFrom(module="time" | "asyncio" | "anyio", names=names):
                if any(alias.name == "sleep" for alias in names):
                    yield node.lineno


def test_no_test_sleeps() -> None:
    report(
        [
            f"{name(file)}:{line}: wait for an event with a deadline instead"
            for file in python_files()
            if is_under(file, "tests")
            for line in sleeps(nodes(file))
        ]
    )


def imported(module: tuple[ast.AST, ...]) -> Iterator[tuple[int, str]]:
    """Modules that a module imports, with the line."""
    for node in module:
        match node:
            case ast.Import(names=names):
                yield from ((node.lineno, alias.name) for alias in names)
            case ast.ImportFrom(module=str(origin)):
                yield node.lineno, origin


def test_the_shim_the_spawner_and_tt_import_only_the_standard_library() -> None:
    allowed = sys.stdlib_module_names - {"asyncio"}
    package = ROOT / "src/quarterdeck"
    files = [
        file
        for file in sources()
        if str(file.relative_to(package)).removesuffix(".py").startswith(STANDARD_LIBRARY_ONLY)
    ]
    report(
        [
            f"{name(file)}:{line}: {origin}"
            for file in files
            for line, origin in imported(nodes(file))
            if origin.split(".")[0] not in allowed
            and not f"{origin}.".startswith(("quarterdeck.agent.shim.", "quarterdeck.tt."))
        ]
    )


def test_no_file_names_a_place_of_this_machine_or_a_registry() -> None:
    top = str(ROOT.parent) + "/"
    homes = ["/ro" + "ot/", "/wo" + "rk/main", *([top] if top.count("/") > 2 else [])]
    found = []
    for file in tracked():
        try:
            text = file.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        found += [f"{name(file)}: {bad}" for bad in (*homes, *REGISTRY_HOSTS) if bad in text]
    report(found)


def test_every_dependency_is_in_the_locks() -> None:

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = [project["dependencies"], *project.get("optional-dependencies", {}).values()]
    wanted = [Requirement(text) for group in groups for text in group]
    report(
        [
            f"requirements/{lock}: no {each} (run ./dev lock)"
            for lock in ("dev.txt", "run.txt")
            for each in wanted
            if not (pin := locked(lock).get(each.name.lower())) or pin not in each.specifier
        ]
    )


def locked(lock: str) -> dict[str, str]:
    """Name and version of what a lock pins."""
    text = (ROOT / "requirements" / lock).read_text(encoding="utf-8")
    return dict(re.findall(r"^([a-z0-9._-]+)==([^\s;\\]+)", text, re.MULTILINE))


def test_the_two_locks_agree() -> None:
    run, dev = locked("run.txt"), locked("dev.txt")
    assert {package: dev.get(package) for package in run} == run


def test_the_command_starts_without_what_only_servers_need() -> None:
    probe = "import quarterdeck.cli.main, sys; print(*{m.split('.')[0] for m in sys.modules})"
    asked = subprocess.run(
        [sys.executable, "-c", probe], check=False, capture_output=True, text=True
    )
    assert asked.returncode == 0, asked.stderr
    assert not HEAVY & set(asked.stdout.split())
