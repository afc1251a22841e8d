"""tt as one file for any Python from 3.8 on: a zip archive that Python runs."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

_SHEBANG = b"#!/usr/bin/env python3\n"
_START = "from quarterdeck.tt.main import main\n\nmain()\n"
_MOMENT = (2020, 1, 1, 0, 0, 0)  # the same bytes from the same sources
_PACKAGE = '"""quarterdeck: the part that is tt."""\n'


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
            entry = zipfile.ZipInfo(name, _MOMENT)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, text)
    return _SHEBANG + packed.getvalue()
