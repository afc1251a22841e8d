"""What kept traces say: pieces in the database and the archive until the trace is archived whole.

The commit of a piece is the acknowledgement of the sender. A large piece is an object of the
archive that is durable before the row that names it; what a crash leaves without a row goes when
the trace is archived. Watchers hear of a piece after its commit.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import msgspec

from quarterdeck.control.step import write_guarded
from quarterdeck.core.model import STREAMS
from quarterdeck.core.stream import Mark
from quarterdeck.core.trace import Frame, News, Positions, Trace, limited, news, with_drops
from quarterdeck.errors import NotFound, Unavailable
from quarterdeck.fabric.base import Fabric
from quarterdeck.service import entropy
from quarterdeck.store import piece as piece_store
from quarterdeck.store import trace as trace_store
from quarterdeck.store.archive import Archive
from quarterdeck.store.base import Database, StaleWrite, Tx
from quarterdeck.store.piece import Piece
from quarterdeck.wire import subjects
from quarterdeck.wire.codec import Chunk, encode_chunk
from quarterdeck.wire.marks import encode_marks
from quarterdeck.wire.trace import encode_drop, joined

INLINE_BYTES = 64 << 10
TRIES = 8


class Keeping:
    """Takes what senders of kept traces send, at most `most_bytes` of each."""

    def __init__(
        self, *, database: Database, fabric: Fabric, archive: Archive, most_bytes: int
    ) -> None:
        self._database = database
        self._fabric = fabric
        self._archive = archive
        self._most_bytes = most_bytes

    async def take(self, trace: Trace, frames: Sequence[Frame]) -> tuple[News, Trace]:
        """Commit what is new; what was new, and the trace after it. Raises Conflict for a gap."""
        for _ in range(TRIES):
            found = news(frames, trace.acked, gaps=False, known=trace.dropped)
            if not found.frames and not found.dropped:
                return found, trace
            kept, over = limited(found, trace, self._most_bytes)
            after = await self._keep(trace, kept, over)
            if after is not None:
                await self._tell(after, kept)
                return found, after
            trace = await self._database.read(partial(trace_store.get, trace_id=trace.id))
        raise Unavailable(
            "trace_busy", "This trace is sent by several at once: send the rest in a moment."
        )

    async def _keep(self, trace: Trace, kept: News, over: Positions) -> Trace | None:
        """The trace after the commit; None when it was changed meanwhile."""
        length = {s: sum(len(f.data) for f in kept.frames if f.stream == s) for s in STREAMS}
        pieces = [await self._piece(trace, stream, kept) for stream in STREAMS if length[stream]]

        def write(tx: Tx) -> Trace | None:
            present = trace_store.get(tx, trace.id)
            if present.acked != trace.acked or present.sealed:
                return None
            changed = msgspec.structs.replace(
                present,
                bytes=_sum(present.bytes, Positions(**length)),
                over=_sum(present.over, over),
                dropped=with_drops(present.dropped, kept.dropped),
            )
            saved = trace_store.save(tx, present, changed)
            piece_store.add(tx, pieces)
            return saved

        # objects of a write that broke otherwise stay: it may have been recorded all the same
        try:
            saved = await write_guarded(self._database, write)
        except (StaleWrite, NotFound):
            await self._drop(pieces)
            raise
        if saved is None:
            await self._drop(pieces)
        return saved

    async def _piece(self, trace: Trace, stream: str, kept: News) -> Piece:
        own = [frame for frame in kept.frames if frame.stream == stream]
        data = b"".join(frame.data for frame in own)
        marks = [Mark(stream, frame.offset, frame.time_us) for frame in joined(own)]
        piece = Piece(
            trace=trace.id,
            stream=stream,
            start=own[0].offset,
            length=len(data),
            times=encode_marks(marks),
        )
        if len(data) <= INLINE_BYTES:
            return msgspec.structs.replace(piece, inline=data)
        key = f"{pieces_prefix(trace.id)}/{stream}-{piece.start}-{entropy(6).hex()}"
        await self._archive.put(key, data)
        return msgspec.structs.replace(piece, object=key)

    async def _drop(self, pieces: Sequence[Piece]) -> None:
        for piece in pieces:
            if piece.object is not None:
                await self._archive.delete(piece.object)

    async def _tell(self, trace: Trace, kept: News) -> None:
        """To whoever watches now; who misses it reads the pieces."""
        subject = subjects.trace(trace.namespace, trace.name, trace.sender, trace.id, live=True)
        said = [encode_drop(one, 0) for one in kept.dropped]
        said += [
            encode_chunk(Chunk(one.stream, one.offset, one.time_us, one.data))
            for one in joined(kept.frames)
        ]
        try:
            for message in said:
                await self._fabric.publish(subject, message)
        except Unavailable:
            return


def pieces_prefix(trace_id: str) -> str:
    """Below which the pieces of a trace lie in the archive."""
    return f"{trace_id}/pieces"


def _sum(one: Positions, other: Positions) -> Positions:
    return Positions(stdout=one.stdout + other.stdout, stderr=one.stderr + other.stderr)
