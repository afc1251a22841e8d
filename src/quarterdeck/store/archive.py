"""The archive of finished output: compressed objects that can be read from any byte.

A stream is cut into pieces of 1 MiB, each an independent zstd frame. The layout (lengths of the
frames) lies in the database row, so reading byte N costs one range request and one frame. Small
logs are kept inside the row itself: most commands print little.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import shutil
from pathlib import Path

import msgspec
import obstore
import obstore.exceptions
import zstandard
from obstore.store import LocalStore

from quarterdeck.errors import Broken, Unavailable

PIECE = 1 << 20
LEVEL = 2  # of lines and sources 5 % more or fewer bytes than level 3, in two thirds of its time
INLINE_BYTES = 64 << 10
MARKS = "times"


class StreamLayout(msgspec.Struct, frozen=True, kw_only=True):
    """One stream: raw length, hash of the raw bytes, compressed length of each frame."""

    bytes: int = 0
    sha256: str = hashlib.sha256(b"").hexdigest()
    frames: tuple[int, ...] = ()


class SealedLog(msgspec.Struct, frozen=True, kw_only=True):
    """Where the archived output of an attempt is: in `inline` (by stream) or under `object`."""

    attempt: str
    object: str | None = None
    inline: dict[str, bytes] = {}
    layout: dict[str, StreamLayout] = {}


class FrameWriter:
    """Compresses one stream into a file, piece by piece; knows its length and hash so far."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("wb")
        self._hash = hashlib.sha256()
        self._rest = bytearray()
        self._frames: list[int] = []
        self._compressor = zstandard.ZstdCompressor(level=LEVEL)
        self.bytes = 0

    def feed(self, data: bytes) -> None:
        """Blocking: call it in a thread."""
        self.bytes += len(data)
        self._hash.update(data)
        self._rest += data
        while len(self._rest) >= PIECE:
            self._frame(bytes(self._rest[:PIECE]))
            del self._rest[:PIECE]

    def finish(self) -> StreamLayout:
        """Write the last piece; the layout of the whole."""
        if self._rest:
            self._frame(bytes(self._rest))
            self._rest.clear()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        return StreamLayout(
            bytes=self.bytes, sha256=self._hash.hexdigest(), frames=tuple(self._frames)
        )

    def discard(self) -> None:
        self._file.close()
        self.path.unlink(missing_ok=True)

    def _frame(self, piece: bytes) -> None:
        frame = self._compressor.compress(piece)
        self._file.write(frame)
        self._frames.append(len(frame))


class Archive:
    """Objects under a directory, which several servers may share (obstore also speaks S3).

    `work` is this server's own directory for what is not finished; it is emptied at the start.
    """

    def __init__(self, directory: Path, work: Path) -> None:
        self.work = work
        self._directory = directory / "logs"
        try:
            for path in (self.work, self._directory):
                path.mkdir(parents=True, exist_ok=True, mode=0o700)
            for leftover in self.work.iterdir():
                leftover.unlink()
        except OSError as error:
            raise Unavailable(
                "archive",
                f"The archive directory {directory} can't be used: {error.strerror or error}. See "
                "that it is there, belongs to the server's user and can be written.",
            ) from error
        self._store = LocalStore(self._directory)

    async def put(self, key: str, content: Path | bytes) -> None:
        """Store a file, or bytes, under a key, replacing what an earlier, unfinished sealing left
        there."""
        await obstore.put_async(self._store, key, content)
        await asyncio.to_thread(self._sync, self._directory / key)

    async def delete(self, key: str) -> None:
        """Remove an object; nothing happens when there is none."""
        with contextlib.suppress(FileNotFoundError):
            await obstore.delete_async(self._store, key)

    async def delete_below(self, prefix: str) -> None:
        """Remove all objects below a prefix, its directory, and what a server that was killed
        while it wrote there left of an object (no listing names that)."""
        async for found in obstore.list(self._store, prefix=prefix):
            for one in found:
                await self.delete(one["path"])
        await asyncio.to_thread(shutil.rmtree, self._directory / prefix, ignore_errors=True)

    async def part(self, key: str, start: int, length: int) -> bytes:
        """Bytes of an object as they were put. Raises Broken."""
        return await self._range(key, start, length)

    def _sync(self, path: Path) -> None:
        """Make an object and its names durable: after this the node deletes its own copy."""
        for part in (path, path.parent, path.parent.parent, self._directory):
            fd = os.open(part, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)

    async def read(self, log: SealedLog, stream: str, offset: int, length: int) -> bytes:
        """Up to `length` raw bytes of a stream from `offset`; fewer at the end only."""
        layout = log.layout.get(stream)
        if layout is None or offset >= layout.bytes or length <= 0:
            return b""
        end = min(offset + length, layout.bytes)
        first, last = offset // PIECE, (end - 1) // PIECE
        start = sum(layout.frames[:first])
        sizes = layout.frames[first : last + 1]
        packed = await self._packed(log, stream, start, sum(sizes))
        raw = bytearray()
        position = 0
        for size in sizes:
            frame = packed[position : position + size]
            try:
                raw += zstandard.ZstdDecompressor().decompress(frame, max_output_size=PIECE)
            except zstandard.ZstdError as error:
                raise Broken(
                    "archive",
                    f"The archived {stream} of {log.attempt} is damaged ({error}): restore the "
                    "archive from a backup; other logs are not affected.",
                ) from error
            position += size
        return bytes(raw[offset - first * PIECE : end - first * PIECE])

    async def _packed(self, log: SealedLog, stream: str, start: int, length: int) -> bytes:
        if log.object is None:
            return log.inline[stream][start : start + length]
        return await self._range(object_key(log.object, stream), start, length)

    async def _range(self, key: str, start: int, length: int) -> bytes:
        try:
            data = await obstore.get_range_async(self._store, key, start=start, length=length)
        except FileNotFoundError as error:
            raise Broken(
                "archive",
                f"The archived object {key} is missing: see that all servers have the same "
                "`archive` directory, or restore it from a backup.",
            ) from error
        except obstore.exceptions.BaseError as error:
            raise Broken(
                "archive",
                f"The archived object {key} can't be read ({error}): look at the disk of the "
                "archive, then ask again.",
            ) from error
        return bytes(data)


def object_key(prefix: str, stream: str) -> str:
    """The key of one stream of an archived attempt."""
    return f"{prefix}/{stream}.zst"
