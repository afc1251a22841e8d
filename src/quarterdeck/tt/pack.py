"""tt as one file for any Python from 3.8 on: a zip archive that Python runs.

Beside each source lies what this Python compiles it to. Another one sees by its first bytes that it
is not for it, and takes the source. It is not compared with the source (what is, is compared by a
time that depends on the time zone), and it is written as marshal did before it knew references,
which depend on what else is in the memory of who writes it.
"""

from __future__ import annotations

import importlib.util
import io
import marshal
import zipfile
from functools import cache
from pathlib import Path

_SHEBANG = b"#!/usr/bin/env python3\n"
_START = "from quarterdeck.tt.main import main\n\nmain()\n"
_MOMENT = (2020, 1, 1, 0, 0, 0)  # the same bytes from the same sources
_UNCHECKED = (1).to_bytes(4, "little")
_WITHOUT_REFERENCES = 2
_PACKAGE = '"""quarterdeck: the part that is tt."""\n'


@cache
def zipapp() -> bytes:
    """The bytes of the file; it is to be executable."""
    folder = Path(__file__).parent
    files = {"__main__.py": _START, "quarterdeck/__init__.py": _PACKAGE}
    for path in sorted(folder.glob("*.py")):
        if path.name != Path(__file__).name:
            files[f"quarterdeck/tt/{path.name}"] = path.read_text(encoding="utf-8")
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, text in files.items():
            if name != "__main__.py":
                archive.writestr(_entry(name + "c"), _compiled(name, text))
            archive.writestr(_entry(name), text)
    return _SHEBANG + packed.getvalue()


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, _MOMENT)
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.external_attr = 0o644 << 16
    return entry


def _compiled(name: str, text: str) -> bytes:
    source = text.encode()
    code = compile(source, name, "exec", dont_inherit=True, optimize=0)
    digest = importlib.util.source_hash(source)
    head = importlib.util.MAGIC_NUMBER + _UNCHECKED + digest
    return head + marshal.dumps(code, _WITHOUT_REFERENCES)
