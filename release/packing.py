"""Archives that are the same, byte for byte, whenever the same tree is packed."""

from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path

MODE_PROGRAM = 0o755
MODE_FILE = 0o644


def tar(source: Path, top: str) -> bytes:
    """A directory as a tar file below the name `top`: sorted, without times and owners."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for path in [source, *sorted(source.rglob("*"))]:
            inner = path.relative_to(source)
            entry = tarfile.TarInfo(str(Path(top) / inner) if str(inner) != "." else top)
            if path.is_symlink():
                entry.type, entry.linkname = tarfile.SYMTYPE, str(path.readlink())
                archive.addfile(entry)
            elif path.is_dir():
                entry.type, entry.mode = tarfile.DIRTYPE, MODE_PROGRAM
                archive.addfile(entry)
            else:
                executable = path.stat().st_mode & 0o100
                entry.mode = MODE_PROGRAM if executable else MODE_FILE
                entry.size = path.stat().st_size
                with path.open("rb") as file:
                    archive.addfile(entry, file)
    return made.getvalue()


def tar_gz(source: Path, top: str) -> bytes:
    """The same, compressed."""
    return gzip.compress(tar(source, top), 9, mtime=0)
