"""The nats-server that quarterdeck starts: its port, its lock, its end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from quarterdeck.errors import Conflict, Unavailable
from quarterdeck.fabric.embedded import EmbeddedFabric
from tests.contracts.fabric_place import DEADLINE_S
from tests.contracts.fabric_server import Harbour


async def test_a_restart_keeps_the_port_and_a_second_user_is_refused(nats: Harbour) -> None:
    url = nats.server.url
    second = EmbeddedFabric(nats.root / "fabric", nats.authority)
    with pytest.raises(Conflict, match="Another quarterdeck uses"):
        second.prepare()
    await nats.down()
    second.prepare()
    try:
        assert second.url == url
        child = second.spawn()
        await second.wait_ready(DEADLINE_S)
        assert second.url == url
        assert not await second.storage_disabled()
        child.terminate()
        child.wait(DEADLINE_S)
    finally:
        second.close()


async def test_a_port_taken_by_another_program_is_a_conflict(nats: Harbour) -> None:
    port = urlsplit(nats.server.url).port or 0
    other = EmbeddedFabric(nats.root / "second", nats.authority, port=port)
    with pytest.raises(Conflict, match=f"Port {port} .* taken by another program"):
        other.prepare()


async def test_why_the_server_would_not_run_is_told_in_a_sentence(nats: Harbour) -> None:
    bad = EmbeddedFabric(nats.root / "bad", nats.authority, extra={"no_such_key": 1})
    bad.spawn()
    try:
        with pytest.raises(Unavailable, match='unknown field "no_such_key"'):
            await bad.wait_ready(DEADLINE_S)
    finally:
        bad.close()


async def test_the_server_ends_with_its_supervisor(tmp_path: Path) -> None:
    script = textwrap.dedent("""
        import asyncio, sys
        from pathlib import Path
        from quarterdeck.fabric.embedded import EmbeddedFabric
        from quarterdeck.fabric.identity import Authority
        root = Path(sys.argv[1])
        fabric = EmbeddedFabric(root / "fabric", Authority.open(root / "authority"))
        child = fabric.spawn()
        asyncio.run(fabric.wait_ready())
        print(child.pid, flush=True)
        sys.stdin.read()
    """)
    supervisor = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert supervisor.stdout is not None
        pid = int(await asyncio.to_thread(supervisor.stdout.readline))
        watch = os.pidfd_open(pid)
    finally:
        supervisor.send_signal(signal.SIGKILL)
        supervisor.wait(DEADLINE_S)
        for pipe in (supervisor.stdin, supervisor.stdout):
            if pipe is not None:
                pipe.close()
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(watch, ended.set)
    try:
        await asyncio.wait_for(ended.wait(), DEADLINE_S)
    finally:
        loop.remove_reader(watch)
        os.close(watch)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
