"""`qd watch NAME` and `curl -N` against a real server: what people see of a name of traces."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.contracts.fabric_server import harbour
from tests.http.http_host import API, HttpHost, answering
from tests.http.trace_sender import Sender

QD = str(Path(sys.executable).with_name("qd"))
DEADLINE_S = 60.0
EVIL = b"\x1b]0;title\x07\x1b[2J\x1b[31mred\x1b[0m \x9b5n \x00 <b>\n"


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[HttpHost]:
    async with harbour(tmp_path) as place, answering(place.root, place.server.url) as host:
        yield host


async def started(host: HttpHost, *words: str) -> asyncio.subprocess.Process:
    given = {"QD_URL": f"http://127.0.0.1:{host.port}", "QD_TOKEN": API}
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(
        *words,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=pipe,
        stderr=pipe,
        env={**os.environ, **given},
    )


async def ended(process: asyncio.subprocess.Process) -> tuple[int | None, bytes, bytes]:
    async with asyncio.timeout(DEADLINE_S):
        out, err = await process.communicate()
    return process.returncode, out, err


async def watched_by(host: HttpHost, number: int) -> None:
    """So many watch now."""
    crowd = host.server.trace_watching.crowd
    enough = asyncio.Event()
    enter = crowd.enter

    def entered() -> None:
        enter()
        if crowd.watching >= number:
            enough.set()

    crowd.enter = entered  # type: ignore[method-assign]
    if crowd.watching < number:
        async with asyncio.timeout(DEADLINE_S):
            await enough.wait()


async def test_qd_watch_waits_for_a_first_sender_and_leaves_with_the_worst_code(
    host: HttpHost,
) -> None:
    text = await started(host, QD, "watch", "deploy")
    lines = await started(host, QD, "watch", "deploy", "--json")
    one = await started(host, QD, "watch", "deploy", "--node", "web-1")
    await watched_by(host, 3)
    first, second = (Sender(host.port, id=id, command=["make", id]) for id in ("web-1", "db-1"))
    await first.begin()
    await second.begin()
    await first.say(b"hello\nwor")
    await second.say(b"oops\n", "stderr")
    await first.say(b"ld")
    await first.end(code=2)
    await second.end(signal=9)
    code, out, err = await ended(text)
    assert (code, out) == (137, b"web-1 | hello\nweb-1 | world\n")
    assert b"db-1  | oops\n" in err and b"qd: web-1: make web-1\n" in err
    assert err.startswith(b"qd: nobody traces as deploy yet: waiting (Ctrl-C leaves).\n")
    assert b"qd: web-1: failed, exit 2\n" in err and b"qd: db-1: failed, signal 9\n" in err
    code, out, err = await ended(lines)
    events = [json.loads(line) for line in out.splitlines()]
    assert code == 137 and err == b""
    own = [e["type"] for e in events if first.trace in (e.get("run"), e.get("id"))]
    assert own == ["run", "output", "output", "task"]
    assert events[-1]["type"] == "ended" and events[-1]["counts"] == {"failed": 2}
    code, out, err = await ended(one)
    assert (code, out) == (2, b"web-1 | hello\nweb-1 | world\n") and b"db-1" not in err
    assert err.startswith(b"qd: no sender web-1 traces as deploy yet: waiting")


async def test_qd_watch_ends_with_its_token_and_takes_the_id_of_a_trace(host: HttpHost) -> None:
    sender = Sender(host.port)
    await sender.begin()
    await sender.say(b"by id\n")
    process = await started(host, QD, "watch", "deploy", "--forever")
    await watched_by(host, 1)
    for cut in list(host.server.streaming._open.values()):  # as if the token were revoked
        for end in list(cut.values()):
            end()
    code, _, err = await ended(process)
    assert code == 4 and b"ask for a new one" in err
    await sender.end(code=0)
    by_id = await started(host, QD, "watch", sender.trace)
    code, out, _ = await ended(by_id)
    assert (code, out) == (0, b"by id\n")


async def test_a_terminal_is_coloured_by_a_trace_and_not_steered(host: HttpHost) -> None:
    sender = Sender(host.port)
    await sender.begin()
    await sender.say(EVIL)
    await sender.end(code=0)
    process = await started(host, "script", "-qec", f"{QD} watch deploy", "/dev/null")
    code, out, _ = await ended(process)
    assert code == 0
    assert b"\x1b[31mred\x1b[0m" in out and b"<b>" in out
    assert b"\x1b]0" not in out and b"\x1b[2J" not in out and b"\x00" not in out


async def test_curl_follows_a_name(host: HttpHost) -> None:
    assert shutil.which("curl"), "install curl"
    url = f"http://127.0.0.1:{host.port}/v1/trace/deploy/stream?access_token={API}"
    process = await started(host, "curl", "-sN", url)
    await watched_by(host, 1)
    sender = Sender(host.port)
    await sender.begin()
    await sender.say(b"live\n")
    assert process.stdout is not None
    async with asyncio.timeout(DEADLINE_S):
        while b'"live\\n"' not in await process.stdout.readline():
            pass
    await sender.end(code=0)
    code, out, _ = await ended(process)
    assert code == 0 and b'"type":"ended"' in out
