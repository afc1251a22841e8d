"""Makes .venv from the locks beside this file, and keeps it what they say; part of ./dev.

Python's own venv, then pip installs uv (pinned, hashed), then uv installs dev.txt (pinned, hashed)
and the project itself, editable. Standard library only.

A stamp in `.venv` holds the hash of all that went in; while it matches, nothing is done.
`.dev/making` stands while `.venv` is being changed: found by a later run, which holds the lock by
then, it means that an earlier one was cut off, and `.venv` is made anew. A step that merely fails
takes the mark away again.
"""

from __future__ import annotations

import ast
import contextlib
import fcntl
import hashlib
import importlib.util
import json
import os
import re
import shutil
import ssl
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
UV = VENV / "bin" / "uv"
STAMP = VENV / ".dev-stamp"
STATE = ROOT / ".dev"
MAKING = STATE / "making"
LOCKS = ROOT / "requirements"
AGAIN = "Check the network and what `pip config list` says, then run ./dev setup again."


Argv = list[str | Path]


class Stop(Exception):
    """Ends the script; the text says what failed and what to do."""


def say(text: str) -> None:
    """Progress goes to stderr: stdout belongs to what a verb runs."""
    print(f"dev: {text}", file=sys.stderr, flush=True)


def capture(argv: Argv, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Runs a command in the root, without input, its output and errors as one text."""
    return subprocess.run(
        [str(word) for word in argv],
        cwd=ROOT,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )


def step(what: str, argv: Argv, hint: str, env: dict[str, str] | None = None) -> str:
    """Runs one quiet command; its output, or Stop with the tail of it."""
    try:
        done = capture(argv, env)
    except OSError as error:
        raise Stop(f"{what} failed: {error}. {hint}") from error
    if done.returncode:
        tail = "\n".join(f"  | {line}" for line in done.stdout.splitlines()[-20:])
        raise Stop(f"{what} failed (exit code {done.returncode}). {hint}\n{tail}")
    return done.stdout


# ---- the registry, as this machine has it set up for pip


def pip_settings() -> dict[str, str]:
    """What pip's files and environment say; uv reads neither."""
    hint = "Mend what `pip config debug` shows, then run ./dev setup again."
    listed = step("Reading pip's settings", [PYTHON, "-m", "pip", "config", "list"], hint)
    found: dict[str, str] = {}
    for section in ("global.", "install.", ":env:."):  # the later one wins, as in pip
        for line in listed.splitlines():
            key, equals, value = line.partition("=")
            if equals and key.startswith(section):
                found[key.removeprefix(section)] = str(ast.literal_eval(value))
    return found


def reaches(place: str, *, local: bool) -> bool:
    """True of an index on the network and, if `local`, of one in a folder that is there."""
    parts = urlsplit(place)
    if parts.scheme not in {"", "file"}:
        return True
    return local and Path(unquote(parts.path)).exists()


def clean_env() -> dict[str, str]:
    """The environment less what would lead pip or uv to another Python."""
    strays = {"VIRTUAL_ENV", "CONDA_PREFIX", "PYTHONHOME", "PYTHONPATH", "PIP_TARGET", "PIP_PREFIX"}
    kept = {name: value for name, value in os.environ.items() if name not in strays}
    return {**kept, "PIP_USER": "0", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}


def has_certificates() -> bool:
    """True when the system has authorities to trust, as pip does; else uv has its own."""
    paths = ssl.get_default_verify_paths()
    if paths.cafile:
        return True
    return any(Path(paths.capath).iterdir()) if paths.capath else False


def uv_env(*, local: bool = True) -> dict[str, str]:
    """The environment for uv, with pip's settings in its words; `local` False leaves out folders.

    What is set for uv itself wins. Indexes are asked as pip asks them: the best version of all.
    """
    pip = pip_settings()

    def places(key: str) -> list[str]:
        return [place for place in pip.get(key, "").split() if reaches(place, local=local)]

    words = {
        "UV_DEFAULT_INDEX": " ".join(places("index-url")),
        "UV_INDEX": " ".join(places("extra-index-url")),
        "UV_FIND_LINKS": ",".join(places("find-links")),
        "UV_NO_INDEX": "1" if pip.get("no-index", "").lower() in {"1", "true", "yes", "on"} else "",
        "UV_INSECURE_HOST": pip.get("trusted-host", ""),
        "UV_HTTP_TIMEOUT": pip.get("timeout", pip.get("default-timeout", "")),
        "SSL_CERT_FILE": pip.get("cert", ""),
        "UV_SYSTEM_CERTS": "1" if has_certificates() else "",
        "ALL_PROXY": pip.get("proxy", ""),
        "UV_INDEX_STRATEGY": "unsafe-best-match",
        "UV_PYTHON_DOWNLOADS": "never",
        "UV_NO_PROGRESS": "1",
    }
    return {name: value for name, value in words.items() if value} | clean_env()


# ---- .venv


def digest() -> str:
    """The hash of all that makes `.venv` what it is."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    packed = [str(VENV), str(PYTHON.resolve()), project["project"], project["build-system"], "pyc"]
    total = hashlib.sha256(json.dumps(packed, sort_keys=True, default=str).encode())
    for name in ("uv.txt", "dev.txt"):
        total.update((LOCKS / name).read_bytes())
    return total.hexdigest()


def is_current() -> bool:
    """True when `.venv` was finished from just what the tree says now."""
    programs = (PYTHON, UV, VENV / "bin" / "qd", VENV / "bin" / "pytest")
    return (
        STAMP.is_file()
        and not MAKING.exists()
        and all(os.access(program, os.X_OK) for program in programs)
        and STAMP.read_text(encoding="ascii") == digest()
    )


def is_usable() -> bool:
    """True of a `.venv` that can be brought up to date in place: its Python runs, here."""
    probe = "import sys; sys.exit(sys.version_info < (3, 11))"
    try:
        answer = capture([PYTHON, "-c", probe]).returncode
    except OSError:
        return False
    for script in (VENV / "bin").iterdir():  # a copied tree runs the Python it was copied from
        if script.is_file() and not script.is_symlink():
            with script.open("rb") as file:
                first = file.readline(300)
            if first.startswith(b"#!/") and b"python" in first and str(VENV).encode() not in first:
                return False
    return answer == 0


@contextlib.contextmanager
def changing_venv() -> Iterator[None]:
    """Holds the lock on `.venv`, and the mark by which a run that was cut off is known."""
    STATE.mkdir(exist_ok=True)
    with (STATE / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another ./dev is building .venv, waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def make_venv() -> None:
    """Makes `.venv`, or brings one that works up to date; the caller holds the lock."""
    if importlib.util.find_spec("ensurepip") is None or importlib.util.find_spec("venv") is None:
        raise Stop("python3 here cannot make virtual environments: apt install python3-venv")
    if VENV.exists() and (MAKING.exists() or not is_usable()):
        say("removing a .venv that is broken or half made")
        MAKING.touch()
        shutil.rmtree(VENV)
    MAKING.touch()
    STAMP.unlink(missing_ok=True)
    try:
        fill_venv()
        STAMP.write_text(digest(), encoding="ascii")
    except Stop:
        STAMP.unlink(missing_ok=True)
        MAKING.unlink()
        raise
    MAKING.unlink()


def fill_venv() -> None:
    """The installs, in order."""
    start_uv()
    env = uv_env()
    install: Argv = [UV, "pip", "install", "--quiet", "--python", PYTHON]
    # without bytecode, every process here would compile all that it imports: 1.5 s for a server
    locked: Argv = [*install, "--compile-bytecode", "--require-hashes", "-r", LOCKS / "dev.txt"]
    step("Installing requirements/dev.txt", locked, AGAIN, env)
    prune(env)
    editable: Argv = [*install, "--no-deps", "--no-build-isolation", "--editable", ROOT]
    step("Installing the project", editable, "Mend pyproject.toml.", env)


def start_uv() -> None:
    """An empty `.venv` with pip, and uv in it; what a `.venv` already has stays."""
    own = getattr(sys, "_base_executable", "") or sys.executable
    if not (PYTHON.exists() and (VENV / "bin" / "pip").exists()):
        hint = "Is there room on the disk? If so: apt install python3-venv, and again."
        step("Making .venv", [own, "-m", "venv", VENV], hint, clean_env())
    install: Argv = [PYTHON, "-m", "pip", "install", "--quiet", "--require-hashes", "--no-deps"]
    pinned: Argv = [*install, "--only-binary", ":all:", "-r", LOCKS / "uv.txt"]
    step("Installing uv", pinned, AGAIN, clean_env())


def prune(env: dict[str, str]) -> None:
    """Removes what is no longer locked, lest code work here only because of it."""
    locked = re.findall(r"^([A-Za-z0-9._-]+)==", (LOCKS / "dev.txt").read_text(), re.MULTILINE)
    keep = {"quarterdeck", "pip", "setuptools", *locked}
    hint = "Remove .venv, then run ./dev setup again."
    listing: Argv = [UV, "pip", "list", "--quiet", "--format", "json", "--python", PYTHON]
    have = [entry["name"] for entry in json.loads(step("Listing packages", listing, hint, env))]
    extra = [name for name in have if name not in keep]
    if extra:
        removal: Argv = [UV, "pip", "uninstall", "--quiet", "--python", PYTHON, *extra]
        step("Removing packages", removal, hint, env)


def compile_sources() -> None:
    """Bytecode of our own modules, which Python may be told not to write when it imports them.

    A module that does not compile is for the checks to tell.
    """
    capture([PYTHON, "-m", "compileall", "-q", ROOT / "src"])


def ensure_venv() -> None:
    """Brings `.venv` to what the tree says now."""
    if is_current():
        compile_sources()
        return
    began = time.monotonic()
    with changing_venv():
        if not is_current():  # another run may have done it while this one waited
            say("building .venv")
            make_venv()
    compile_sources()
    say(f".venv is ready ({time.monotonic() - began:.1f} s)")
