"""A Python to carry: a directory that runs on any Linux of this architecture, without a Python and
with any C library, or none.

Theory. A program finds its C library through the loader that is named in it, an absolute path. So
ours is not started by its name but by a loader that we bring, with the libraries that we bring:

    bin/python3 (a few lines of shell) ──► start/NAME --library-path lib --argv0 bin/python3
        ──► lib/python ──► lib/python3.11/

`--argv0` makes `sys.executable` the shell script, so whatever starts `sys.executable` starts all
of this again, and Python finds its modules beside it. Nothing is put into the environment, which
tasks inherit. NAME is what `ps` shows.

What is carried is the Python that builds: its program, all shared libraries that it and its
extension modules need (with the C library they were linked to), and its standard library as
bytecode that is never compared with a source.
"""

from __future__ import annotations

import os
import py_compile
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterable
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement

VERSION = f"python{sys.version_info.major}.{sys.version_info.minor}"
# of the standard library: tests, editors, windows, installers
LEFT_OUT = {
    "__phello__",
    "ensurepip",
    "idlelib",
    "lib-dynload",
    "lib2to3",
    "msilib",
    "pydoc_data",
    "sqlite3",
    "site-packages",
    "dist-packages",
    "test",
    "tests",
    "tkinter",
    "turtle.py",
    "turtledemo",
    "venv",
}
LEFT_OUT_EXTENSIONS = re.compile(
    r"(_test|_tkinter|_xx|xx|_ctypes_test|_dbm|_gdbm|_curses|_sqlite3|nis|ossaudiodev|readline)"
)
# found by name when they are needed, so that no program lists them
BY_NAME = ("libgcc_s.so.1", "libnss_dns.so.2", "libnss_files.so.2", "libresolv.so.2")
_NEEDED = re.compile(r"\s*(\S+) => (/\S+) ")
_LOADER = re.compile(r"\s*(/\S*/ld-linux\S*) ")

SCRIPT = """#!/bin/sh
case $0 in */*) f=$0 ;; *) f=$(command -v -- "$0") ;; esac
[ -L "$f" ] && f=$(readlink -f -- "$f")
d=${f%%/*/*}
case $d in /*) [ -x "$d/start/%(name)s" ] ;; *) false ;; esac || d=$(cd -- "${f%%/*}/.." && pwd)
exec "$d/start/%(name)s" --library-path "$d/lib" --argv0 "$d/bin/python3" "$d/lib/python" \\
  %(words)s"$@"
"""

# OpenSSL knows where its own system keeps certificates; the system it is carried to may be another
CERTIFICATES = """

_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)


def _load_default_certs(self, purpose=Purpose.SERVER_AUTH, _own=SSLContext.load_default_certs):
    _own(self, purpose)
    known = get_default_verify_paths()
    bundle = next(filter(os.path.isfile, _BUNDLES), None)
    if known.cafile is None and known.capath is None and bundle is not None:
        self.load_verify_locations(bundle)


SSLContext.load_default_certs = _load_default_certs
"""


class CannotCarry(Exception):
    """What about the Python here can't be carried, as a sentence."""


def carry(
    target: Path,
    name: str,
    *,
    without: Iterable[str] = (),
    extensions_without: tuple[str, ...] = (),
) -> None:
    """Fills `target` with the Python that runs this. `name` is the one that `ps` shows; `without`
    are modules of the standard library that nobody will miss, by file name."""
    lib = target / "lib"
    dynload = lib / VERSION / "lib-dynload"
    dynload.mkdir(parents=True)
    program = Path(os.path.realpath(getattr(sys, "_base_executable", "") or sys.executable))
    put(program, lib / "python")
    extensions = sorted(Path(sysconfig.get_config_var("DESTSHARED")).glob("*.so"))
    for extension in extensions:
        left_out = LEFT_OUT_EXTENSIONS.match(extension.name)
        if not left_out and not extension.name.startswith(extensions_without or ("/",)):
            put(extension, dynload / extension.name)
    put_libraries([program, *dynload.iterdir()], target, name)
    standard = Path(sysconfig.get_path("stdlib"))
    for path in sorted(standard.iterdir()):
        if path.name not in LEFT_OUT.union(without) and not path.name.startswith("config-"):
            copy_modules(path, lib / VERSION / path.name)
    with tempfile.NamedTemporaryFile("w", suffix=".py") as file:
        file.write((standard / "ssl.py").read_text(encoding="utf-8") + CERTIFICATES)
        file.flush()
        compiled(Path(file.name), lib / VERSION / "ssl.pyc", "ssl.py")
    script(target, name, "python3")


def script(target: Path, name: str, program: str, words: str = "") -> None:
    """A program of the directory: Python with the words put before those of the caller."""
    (target / "bin").mkdir(exist_ok=True)
    path = target / "bin" / program
    path.write_text(SCRIPT % {"name": name, "words": f"{words} " if words else ""})
    path.chmod(0o755)


def entry(target: Path, name: str, program: str, module: str, flags: str = "") -> None:
    """A program that is the function `main` of a module; its name is how it calls itself."""
    (target / "lib" / program).write_text(f"from {module} import main\n\nmain()\n")
    script(target, name, program, f'-I {flags} "$d/lib/{program}"'.replace("  ", " "))


def put_libraries(files: Iterable[Path], target: Path, name: str) -> None:
    """The shared libraries that these files need, and the loader.

    What a package has brought itself is found beside it.
    """
    found: dict[str, Path] = {}
    for file in files:
        listed = subprocess.run(["ldd", str(file)], capture_output=True, text=True, check=False)
        for line in listed.stdout.splitlines():
            if needed := _NEEDED.match(line):
                found.setdefault(f"lib/{needed[1]}", Path(needed[2]))
            elif named := _LOADER.match(line):
                found[f"start/{name}"] = Path(named[1])
    if "lib/libc.so.6" not in found or f"start/{name}" not in found:
        raise CannotCarry("The Python here is not linked to glibc, which is carried with it.")
    for library in BY_NAME:
        if (path := found["lib/libc.so.6"].with_name(library)).exists():
            found.setdefault(f"lib/{library}", path)
    for inner, path in found.items():
        if target not in path.parents and not (target / inner).exists():
            put(path, target / inner)


def put(source: Path, target: Path) -> None:
    """A copy of a program or library, without what only debuggers read."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(os.path.realpath(source), target)
    target.chmod(0o755)
    if strip := shutil.which("strip"):
        words = [strip, "--strip-unneeded", str(target)]
        subprocess.run(words, check=False, stderr=subprocess.DEVNULL)


def copy_modules(source: Path, target: Path) -> None:
    """A module or package: its bytecode, and files of other kinds as they are."""
    if source.is_dir():
        if source.name == "__pycache__" or source.name in LEFT_OUT:
            return
        for path in sorted(source.iterdir()):
            copy_modules(path, target / path.name)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.suffix == ".py":
        compiled(source, target.with_suffix(".pyc"), target.name)
    elif source.suffix == ".so" or ".so." in source.name:
        put(source, target)
    elif source.suffix not in {".pyi", ".c", ".h", ".pyx", ".pxd", ".a"}:
        shutil.copyfile(source, target)


def compiled(source: Path, target: Path, shown: str) -> None:
    """Bytecode that is used as it is, whatever the times of files say."""
    py_compile.compile(
        str(source),
        cfile=str(target),
        dfile=shown,
        doraise=True,
        invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
    )


def closure(root: str, extras: Iterable[str], without: set[str]) -> list[Distribution]:
    """What a distribution needs here, all the way down, but for `without` and what only that
    needs; not itself."""
    found: dict[str, Distribution] = {}
    todo = [(root, frozenset(extras))]
    while todo:
        name, wanted = todo.pop()
        for line in distribution(name).requires or ():
            requirement = Requirement(line)
            key = requirement.name.lower().replace("_", "-")
            environments = [{"extra": extra} for extra in ("", *wanted)]
            marker = requirement.marker
            applies = marker is None or any(marker.evaluate(one) for one in environments)
            if applies and key not in found and key not in without:
                found[key] = distribution(requirement.name)
                todo.append((requirement.name, frozenset(requirement.extras)))
    return [found[key] for key in sorted(found)]


def carry_distribution(one: Distribution, target: Path) -> None:
    """An installed distribution, into a site-packages."""
    for file in one.files or ():
        if ".." not in file.parts and "__pycache__" not in file.parts:
            copy_modules(Path(str(one.locate_file(file))), target / file)
