"""The files that a server gives away: what lies in one directory, and what it makes itself.

A name is looked up in a listing of that directory and never joined to a path that somebody sent,
so no name leads out of it. Only ordinary files count: no directory, link or hidden file. A file
is known by its SHA-256, which is computed once for each state of the file.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Callable, Generator, Mapping
from pathlib import Path

import msgspec

import quarterdeck
from quarterdeck.errors import NotFound
from quarterdeck.tt.pack import zipapp

SUMS = "SHA256SUMS"
PIECE = 256 << 10
ARCHITECTURES = ("x86_64", "aarch64")
WHEEL = "quarterdeck-*.whl"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,199}")
_ABOUT = (
    (r"tt", "tt for any machine with Python 3.8 or later"),
    (r"tt-linux-(\w+)", "tt in one file, for Linux on {0} without Python"),
    (
        r"quarterdeck-agent-linux-(\w+)\.tar\.gz",
        "the agent and the command line, for Linux on {0} without Python",
    ),
    (r"quarterdeck-.*\.whl", "the package, for pip on Python 3.11 or later"),
    (SUMS, "the SHA-256 of every file here, for `sha256sum -c`"),
)
Identity = tuple[int, int, int, int]


class File(msgspec.Struct, frozen=True, kw_only=True):
    """A file to give away: `data` when it is made here, else where it lies and as what."""

    name: str
    size: int
    sha256: str
    data: bytes | None = None
    path: str = ""
    identity: Identity = (0, 0, 0, 0)


class Shelf:
    """One directory, or none, and files by name that are made. All of it blocks: for a thread."""

    def __init__(self, directory: Path | None, made: Mapping[str, Callable[[], bytes]]) -> None:
        self._directory = directory
        self._made = dict(made)
        self._known: dict[str, tuple[Identity, str]] = {}

    def files(self) -> list[File]:
        """All of them by name, without SHA256SUMS."""
        found = {name: _made(name, make()) for name, make in self._made.items()}
        for path in self._paths():
            if (file := self._kept(path)) is not None:
                found[file.name] = file
        return [found[name] for name in sorted(found)]

    def find(self, name: str) -> File:
        """One of them. Raises NotFound."""
        if name == SUMS:
            return _made(SUMS, self.sums().encode())
        for file in self.files():
            if file.name == name:
                return file
        raise NotFound("no_download", f"This server offers no {name[:200]!r}: {self._offered()}")

    def sums(self) -> str:
        """The lines of SHA256SUMS."""
        return "".join(f"{file.sha256}  {file.name}\n" for file in self.files())

    def agents(self) -> dict[str, str]:
        """Architectures for which the agent without Python is here, and its SHA-256."""
        known = {file.name: file.sha256 for file in self.files()}
        named = {arch: agent_name(arch) for arch in ARCHITECTURES}
        return {arch: known[name] for arch, name in named.items() if name in known}

    def absent(self) -> list[str]:
        """What could be offered and is not: names, one a pattern."""
        there = [file.name for file in self.files()]
        wanted = [f"tt-linux-{arch}" for arch in ARCHITECTURES]
        wanted += [agent_name(arch) for arch in ARCHITECTURES]
        missing = [name for name in wanted if name not in there]
        return missing + [WHEEL] * (not any(name.endswith(".whl") for name in there))

    def _offered(self) -> str:
        names = [file.name for file in self.files()]
        return f"it has {', '.join(names)}." if names else "it has none."

    def _paths(self) -> list[Path]:
        if self._directory is None:
            return []
        try:
            entries = sorted(self._directory.iterdir())
        except OSError:
            return []
        return [path for path in entries if _NAME.fullmatch(path.name) and path.name != SUMS]

    def _kept(self, path: Path) -> File | None:
        try:
            found = path.lstat()
            if not stat.S_ISREG(found.st_mode):
                return None
            identity = _identity(found)
            known = self._known.get(path.name)
            if known is None or known[0] != identity:
                with path.open("rb") as file:
                    known = (identity, hashlib.file_digest(file, "sha256").hexdigest())
                self._known[path.name] = known
        except OSError:
            return None
        return File(
            name=path.name,
            size=found.st_size,
            sha256=known[1],
            path=str(path),
            identity=identity,
        )


def shelf_at(directory: str) -> Shelf:
    """The shelf for a setting `downloads`."""
    made = {"tt": zipapp}
    sources = Path(quarterdeck.__file__).parents[2]
    if directory:
        return Shelf(Path(directory).absolute(), made)
    return Shelf(sources / "dist" if (sources / "release").is_dir() else None, made)


def pieces(file: File, start: int, end: int) -> Generator[bytes]:
    """The bytes from `start` to before `end`. Raises NotFound when it is no longer that file."""
    if file.data is not None:
        yield file.data[start:end]
        return
    fd = os.open(file.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        if _identity(os.fstat(fd)) != file.identity:
            raise NotFound("no_download", f"{file.name} was just replaced: ask for it again.")
        while start < end:
            data = os.pread(fd, min(PIECE, end - start), start)
            if not data:
                raise NotFound("no_download", f"{file.name} has become shorter: ask again.")
            start += len(data)
            yield data
    finally:
        os.close(fd)


def about(name: str) -> str:
    """What a file is, by its name."""
    for pattern, text in _ABOUT:
        if found := re.fullmatch(pattern, name):
            return text.format(*found.groups())
    return ""


def agent_name(architecture: str) -> str:
    return f"quarterdeck-agent-linux-{architecture}.tar.gz"


def _made(name: str, data: bytes) -> File:
    return File(name=name, size=len(data), sha256=hashlib.sha256(data).hexdigest(), data=data)


def _identity(found: os.stat_result) -> Identity:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
