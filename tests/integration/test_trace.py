"""Traces on real servers: two of them, a fabric that restarts, many at once, limits."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Mapping
from functools import partial

import pytest

from quarterdeck.control.main import Server
from quarterdeck.control.trace import archiver
from quarterdeck.control.trace.service import Begun, NewTrace
from quarterdeck.core.states import RunState
from quarterdeck.core.trace import End, Frame, Positions, Trace, TraceState
from quarterdeck.core.traced import attempt_of
from quarterdeck.errors import Conflict, Denied, NotFound, Unavailable
from quarterdeck.store import piece as piece_store
from quarterdeck.store import trace as trace_store
from quarterdeck.store.access import Principal
from quarterdeck.telemetry import LogSealed, SealFailed
from quarterdeck.telemetry.trace import TraceForgotten, TraceLost, TracesExpired
from tests.contracts.fabric_server import Harbour
from tests.integration.server_host import DEADLINE_S, Ears, serving

BY = Principal("token", "api", "*")


@contextlib.asynccontextmanager
async def two(place: Harbour) -> AsyncIterator[tuple[tuple[Server, Ears], tuple[Server, Ears]]]:
    async with serving(place, "one") as one, serving(place, "two") as other:
        yield one, other


async def begin(server: Server, *, kept: bool = False, key: str = "", sender: str = "a") -> Begun:
    new = NewTrace(
        name="deploy",
        sender=sender,
        key=key or secrets.token_hex(16),
        namespace="default",
        kept=kept,
    )
    return await server.traces.begin(new, by=BY)


async def say(server: Server, trace: Trace, offset: int, data: bytes) -> Positions:
    present = await server.traces.get(trace.id)
    acked = await server.traces.take(present, [Frame("stdout", offset, offset, data)])
    return acked.positions


async def output(server: Server, trace: Trace) -> bytes:
    """All that can be read of its stdout."""
    attempt = attempt_of(await server.traces.get(trace.id))
    first, size = await server.output.begin(attempt, "stdout"), 0
    size = await server.output.size(attempt, "stdout")
    pieces = server.output.pieces(attempt, "stdout", first, size)
    return b"".join([piece async for piece in pieces])


async def over(server: Server, trace: Trace) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while (await server.runs.get(trace.id)).state is not RunState.ENDED:
            pass


@pytest.mark.parametrize("kept", [True, False])
async def test_a_trace_goes_on_at_any_server(place: Harbour, kept: bool) -> None:
    async with two(place) as ((one, _), (other, _)):
        trace = (await begin(one, kept=kept)).trace
        assert await say(one, trace, 0, b"abc") == Positions(stdout=3)
        assert await say(other, trace, 3, b"def") == Positions(stdout=6)
        assert await say(one, trace, 6, b"ghi") == Positions(stdout=9)
        assert await say(other, trace, 4, b"efghi!") == Positions(stdout=10)
        again = await begin(other, kept=kept, key=trace.key)
        assert (again.made, again.acked) == (False, Positions(stdout=10))
        assert await output(one, trace) == await output(other, trace) == b"abcdefghi!"
        present = await other.traces.get(trace.id)
        await other.traces.end(present, End(code=0), said=Positions(stdout=10))
        await over(one, trace)
        assert await output(one, trace) == b"abcdefghi!"
        await say(one, trace, 0, b"too late")
        assert await output(one, trace) == b"abcdefghi!"


async def test_a_kept_trace_is_taken_by_two_servers_at_once_without_a_hole(place: Harbour) -> None:
    async with two(place) as ((one, _), (other, ears)):
        trace = (await begin(one, kept=True)).trace
        said = secrets.token_bytes(300_000)

        async def send(server: Server) -> None:
            at = 0
            while at < len(said):
                with contextlib.suppress(Unavailable):
                    at = (await say(server, trace, at, said[at : at + 7001])).stdout

        await asyncio.gather(send(one), send(other))
        assert await output(one, trace) == said
        await one.traces.end(await one.traces.get(trace.id), End(code=0))
        await over(other, trace)
        assert await output(other, trace) == said
        del ears


async def test_the_end_of_a_kept_trace_waits_for_all_of_it(place: Harbour) -> None:
    async with serving(place) as (server, ears):
        trace = (await begin(server, kept=True)).trace
        await say(server, trace, 0, b"abc")
        with pytest.raises(Conflict, match="send the rest") as refused:
            await server.traces.end(trace, End(code=0), said=Positions(stdout=5))
        assert refused.value.detail["acked"] == {"stdout": 3, "stderr": 0}
        with pytest.raises(Conflict, match="send what lies between"):
            await say(server, trace, 4, b"e")
        await say(server, trace, 3, b"de")
        await server.traces.end(trace, End(code=0), said=Positions(stdout=5))
        await ears.until(LogSealed)
        assert await output(server, trace) == b"abcde"


async def test_a_restarted_fabric_forgets_what_was_said_and_the_trace_goes_on(
    place: Harbour,
) -> None:
    async with serving(place) as (server, ears):
        trace = (await begin(server)).trace
        kept = (await begin(server, kept=True, sender="b")).trace
        await say(server, trace, 0, b"before")
        await say(server, kept, 0, b"before")
        server.traces.heard()  # the beat that would write it down does not come any more
        place.kill()
        with pytest.raises(Unavailable):
            await say(server, trace, 6, b"!")
        assert await say(server, kept, 6, b" after") == Positions(stdout=12)
        await place.up()
        told = await ears.until(TraceForgotten)
        assert (told.namespace, told.traces) == ("default", 1)
        assert await say(server, trace, 6, b" after") == Positions(stdout=12)
        found = await server.traces.get(trace.id)
        assert found.forgotten == Positions(stdout=6)
        assert await output(server, trace) == b" after"
        assert await output(server, kept) == b"before after"


async def test_two_hundred_traces_at_once_are_told_apart(place: Harbour) -> None:
    async with serving(place) as (server, ears):

        async def one(number: int) -> tuple[Trace, bytes]:
            trace = (await begin(server, kept=number % 2 == 0, sender=f"s{number % 7}")).trace
            said = b"".join(b"%d:%d\n" % (number, line) for line in range(20))
            for at in range(0, len(said), 50):
                await say(server, trace, at, said[at : at + 50])
            await server.traces.end(trace, End(code=0), said=Positions(stdout=len(said)))
            return trace, said

        told = await asyncio.gather(*(one(number) for number in range(200)))
        for trace, said in told:
            assert await output(server, trace) == said
        await ears.until(LogSealed, 100)
        for trace, said in told[:10]:
            assert await output(server, trace) == said


async def test_a_full_window_has_the_latest_and_says_where_it_begins(place: Harbour) -> None:
    async with serving(place) as (server, _):
        server.tracing.windows._window_bytes = 1 << 20
        trace = (await begin(server)).trace
        said = secrets.token_bytes(3 << 20)
        for at in range(0, len(said), 1 << 18):
            reached = await say(server, trace, at, said[at : at + (1 << 18)])
        assert reached == Positions(stdout=len(said))
        left = await output(server, trace)
        assert 0.7 * (1 << 20) < len(left) <= 1 << 20
        assert said.endswith(left)


async def test_more_than_is_kept_of_a_trace_is_counted(place: Harbour) -> None:
    async with serving(place) as (server, ears):
        server.traces._keeping._most_bytes = 100_000
        trace = (await begin(server, kept=True)).trace
        said = secrets.token_bytes(150_000)
        assert await say(server, trace, 0, said) == Positions(stdout=150_000)
        assert await say(server, trace, 150_000, b"more") == Positions(stdout=150_004)
        await server.traces.end(trace, End(code=0), said=Positions(stdout=150_004))
        await ears.until(LogSealed)
        assert await output(server, trace) == said[:100_000]
        _, _, (attempt,) = await server.runs.detail(trace.id)
        assert attempt.snapshot is not None
        stdout = attempt.snapshot.stdout
        assert (stdout.bytes, stdout.dropped) == (100_000, 50_004)


async def test_what_is_over_is_forgotten_after_the_window(place: Harbour) -> None:
    async with serving(place) as (server, ears):
        ended, kept = (await begin(server)).trace, (await begin(server, kept=True)).trace
        going = (await begin(server)).trace
        await say(server, ended, 0, b"abc")
        for trace in (ended, kept):
            await server.traces.end(trace, End(code=0))
        await ears.until(LogSealed)
        server.tracing._archiver._window_s = 0.0
        await ears.until(TracesExpired)
        with pytest.raises(NotFound):
            await server.traces.get(ended.id)
        with pytest.raises(NotFound):
            await server.runs.get(ended.id)
        assert (await server.traces.get(going.id)).state is TraceState.OPEN
        assert (await server.traces.get(kept.id)).sealed
        again = await begin(server, key=ended.key)
        assert again.made and again.trace.id != ended.id
        assert await say(server, again.trace, 3, b"def") == Positions(stdout=6)


async def test_traces_whose_pieces_are_gone_hold_up_no_other(
    place: Harbour, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archiver, "LISTED", 2)
    async with serving(place) as (server, ears):
        broken = [(await begin(server, kept=True)).trace for _ in range(3)]
        for trace in broken:
            await say(server, trace, 0, b"abc")
            await server.database.write(partial(piece_store.drop, trace_id=trace.id))
            await server.traces.end(trace, End(code=0))
        await ears.until(SealFailed, 3)
        whole = (await begin(server, kept=True)).trace
        await server.traces.end(whole, End(code=0))
        await ears.until(LogSealed)
        assert (await server.traces.get(whole.id)).sealed


async def test_what_a_fabric_forgot_is_written_down_once_the_database_is_back(
    place: Harbour, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(place) as (server, ears):
        trace = (await begin(server)).trace
        await say(server, trace, 0, b"before")
        windows = server.tracing.windows
        write, away = windows._forget, asyncio.Event()

        async def forget(namespace: str, reached: Mapping[str, Positions]) -> None:
            if not away.is_set():
                away.set()
                raise Unavailable("away", "The database is away.")
            await write(namespace, reached)

        monkeypatch.setattr(windows, "_forget", forget)
        place.kill()
        await place.up()
        await ears.until(TraceForgotten)
        assert away.is_set()
        assert (await server.traces.get(trace.id)).forgotten == Positions(stdout=6)


async def test_those_who_come_back_keep_no_beat_of_others_from_being_written(
    place: Harbour, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(place) as (server, _):
        lost, other = (await begin(server)).trace, (await begin(server)).trace
        await server.traces.lose(lost.id)
        server.traces._gone.clear()
        held = asyncio.Event()

        async def heard_again(_: str) -> None:
            held.set()
            await asyncio.Event().wait()

        monkeypatch.setattr(server.traces, "heard_again", heard_again)
        server.traces.alive(lost.id)
        async with asyncio.timeout(DEADLINE_S):
            await held.wait()
            before = await server.database.read(partial(trace_store.beat_of, trace_id=other.id))
            server.traces.alive(other.id)
            while before == await server.database.read(
                partial(trace_store.beat_of, trace_id=other.id)
            ):
                pass


async def test_another_server_finds_the_lost_when_the_first_one_is_gone(place: Harbour) -> None:
    async with serving(place, "two") as (other, ears):
        async with serving(place, "one") as (one, _):
            trace = (await begin(one)).trace
            await say(one, trace, 0, b"abc")
        await ears.until(TraceLost)
        assert (await other.traces.get(trace.id)).lost
        assert await output(other, trace) == b"abc"


async def test_only_who_began_a_trace_goes_on_with_it(place: Harbour) -> None:
    async with serving(place) as (server, _):
        trace = (await begin(server)).trace
        with pytest.raises(Denied, match="Trace-Key"):
            await server.traces.upload(trace.id, "f" * 32, by=BY)
        with pytest.raises(NotFound):
            await server.traces.upload(trace.id, trace.key, by=Principal("t", "send", "other"))
        with pytest.raises(NotFound):
            await server.traces.upload("nosuch", trace.key, by=BY)
