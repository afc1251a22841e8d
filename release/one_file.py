"""tt in one file for machines without Python: a few lines of shell, then a tar.gz.

    head (shell) ──► CACHE/tt-CONTENT/ ──► the Python that is carried ──► quarterdeck.tt

The first start unpacks; every later one goes straight to the directory, which is named after the
content. Directories are tried in turn until one can be written and run from. Where none can, the
command runs all the same, untraced: head.sh.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import quarterdeck
from release.carried import VERSION, carry, compiled, copy_modules, entry
from release.packing import tar_gz

HEAD = Path(__file__).with_name("head.sh")
# of the standard library, what no part of tt comes near
WITHOUT = (
    "asyncio",
    "concurrent",
    "ctypes",
    "cProfile.py",
    "curses",
    "dbm",
    "distutils",
    "doctest.py",
    "mailbox.py",
    "multiprocessing",
    "pdb.py",
    "pickletools.py",
    "pydoc.py",
    "tomllib",
    "unittest",
    "wsgiref",
    "xml",
    "xmlrpc",
)
EXTENSIONS_WITHOUT = ("_asyncio", "_ctypes", "_decimal", "_elementtree", "_multi", "pyexpat")


def build(target: Path) -> bytes:
    """Fills `target` with the directory; the bytes of the file that unpacks to it."""
    carry(target, "tt", without=WITHOUT, extensions_without=EXTENSIONS_WITHOUT)
    source = Path(quarterdeck.__file__).parent
    inner = target / "lib" / VERSION / "quarterdeck"
    inner.mkdir()
    compiled(source / "__init__.py", inner / "__init__.pyc", "quarterdeck/__init__.py")
    copy_modules(source / "tt", inner / "tt")
    entry(target, "tt", "tt", "quarterdeck.tt.main", "-S")
    return with_head(tar_gz(target, "unpacked"))


def with_head(packed: bytes) -> bytes:
    """The head, told where the archive begins and the name of its content, and the archive."""
    content = hashlib.sha256(packed).hexdigest()[:16]
    head = HEAD.read_text(encoding="ascii").replace("@CONTENT@", content)
    start = f"{len(head) - len('@START@') + 7 + 1:07d}"
    return head.replace("@START@", start).encode() + packed
