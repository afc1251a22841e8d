"""`qd doctor` names what is wrong and what to do, whatever is down, and never with a traceback."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from quarterdeck.agent.shim import last_words
from quarterdeck.cli import checks
from quarterdeck.fabric.identity import Identity
from quarterdeck.service import SystemClock
from quarterdeck.store.access import Principal
from quarterdeck.telemetry import FabricTrouble, NodeCloned, NodeSession
from quarterdeck.wire.enrol import Enrolment, signed_part
from tests.contracts.fabric_server import Harbour, harbour
from tests.http.http_host import API, HttpHost, answering, listening
from tests.integration.server_host import JOIN, HandNode

QD = str(Path(sys.executable).with_name("qd"))
LIMIT_S = 30.0


class Doctor:
    """What one call found."""

    def __init__(self, done: subprocess.CompletedProcess[bytes]) -> None:
        self.code = done.returncode
        self.text = done.stdout.decode() + done.stderr.decode()
        self.findings: list[dict[str, str]] = []
        if done.stdout.startswith(b"{"):
            self.findings = json.loads(done.stdout)["findings"]
        assert "Traceback" not in self.text

    def of(self, what: str, level: str) -> str:
        """The texts of one level about one thing."""
        return " ".join(
            f["text"] for f in self.findings if f["what"] == what and f["level"] == level
        )


def call(tmp: Path, *words: str, **env: str) -> Doctor:
    given = {
        **{key: value for key, value in os.environ.items() if not key.startswith("QD_")},
        "XDG_CONFIG_HOME": str(tmp / "config"),
        **env,
    }
    return Doctor(
        subprocess.run(
            [QD, "doctor", "--json", *words],
            env=given,
            capture_output=True,
            timeout=LIMIT_S,
            check=False,
        )
    )


async def ask(host: HttpHost, tmp: Path) -> Doctor:
    url = f"http://127.0.0.1:{host.port}"
    return await asyncio.to_thread(call, tmp, "--url", url, "--token", API)


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Harbour]:
    async with harbour(tmp_path) as running:
        yield running


async def test_a_healthy_server_is_ok_in_every_line(place: Harbour) -> None:
    async with answering(place.root, place.server.url) as host:
        found = await ask(host, place.root)
    assert found.code == 0, found.text
    assert {finding["level"] for finding in found.findings} == {"ok"}
    asked = {"settings", "server", "clock", "fabric", "stream", "database", "backlog", "nodes"}
    assert asked == {finding["what"] for finding in found.findings}


async def test_a_token_of_less_is_told_what_it_may_not_see_and_the_rest_is_checked(
    place: Harbour,
) -> None:
    root = Principal("root", "api", "*")
    sees = {"settings", "server", "token"}
    cases: list[tuple[str, str, set[str], str]] = [
        ("api", "team", sees | {"nodes"}, "qd token create --namespace '*'"),
        ("watch", "*", sees, "qd token create --kind api"),
    ]
    async with answering(place.root, place.server.url) as host:
        url = f"http://127.0.0.1:{host.port}"
        for kind, namespace, seen, needs in cases:
            _, token = await host.server.tokens.create(kind, by=root, namespace=namespace)
            found = await asyncio.to_thread(
                call, place.root, "--url", url, "--token", token, "--data", str(place.root)
            )
            assert found.code == 0, found.text
            assert {finding["what"] for finding in found.findings} == seen, found.text
            assert found.of("server", "ok") == "ready."
            assert needs in found.of("token", "warn")
        void = await asyncio.to_thread(call, place.root, "--url", url, "--token", API + "0")
    assert void.code == 1 and "token" in void.of("server", "fail")


async def test_nodes_that_are_not_well_are_named(place: Harbour) -> None:
    async with answering(place.root, place.server.url) as host:
        key = Identity.open(place.root / "away.nk")
        part = signed_part(key.public_key, "away", JOIN)
        await host.server.enrolments.enrol(
            Enrolment(public_key=key.public_key, name="away", signature=key.sign(part), token=JOIN)
        )
        node = HandNode(place, host.server, "twin")
        await node.join()
        await host.ears.until(NodeSession)
        for number, session in enumerate(("session-2", "session-1")):
            node.session = session
            await node.beat()
            await host.ears.until(*((NodeSession, 2) if number == 0 else (NodeCloned, 1)))
        found = await ask(host, place.root)
        await node.fabric.stop()
    assert found.code == 1
    assert "away: gone" in found.of("nodes", "warn")
    assert "twin: quarantined" in found.of("nodes", "fail")


async def test_a_lost_fabric_and_a_low_disk_fail_with_advice(place: Harbour) -> None:
    async with answering(place.root, place.server.url, min_free_mib=1 << 40) as host:
        place.kill()
        await host.ears.until(FabricTrouble)
        found = await ask(host, place.root)
    assert found.code == 1
    assert "nats-server" in found.of("fabric", "fail")
    assert "MiB free" in found.of("disk", "fail")
    assert found.of("database", "ok")


async def test_a_server_that_starts_is_told_from_one_that_is_down(tmp_path: Path) -> None:
    async with listening(tmp_path, "nats://127.0.0.1:1") as (host, _):
        await host.ears.until(FabricTrouble)
        found = await ask(host, tmp_path)
        assert "waits for the fabric" in found.of("server", "fail")
    found = await asyncio.to_thread(
        call, tmp_path, "--url", f"http://127.0.0.1:{host.port}", "--token", API
    )
    assert found.code == 1 and "Nothing answers" in found.of("server", "fail")


async def test_without_a_server_the_data_directory_is_looked_at(place: Harbour) -> None:
    async with answering(place.root, place.server.url):
        pass
    log = place.root / "log"
    log.mkdir()
    line = {"event": "LoopFailed", "level": "warning", "error": "It is broken."}
    (log / "server.log").write_text(json.dumps(line) + "\n")
    (place.root / "server" / "server.toml").write_text('dtaa = "x"\n')
    place.root.chmod(0o755)
    found = await asyncio.to_thread(call, place.root, "--data", str(place.root))
    assert found.code == 1
    assert "qd up" in found.of("server", "fail")
    assert "Did you mean 'data'" in found.of("settings", "fail")
    assert "chmod 700" in found.of("data", "warn")
    assert "It is broken." in found.of("log", "warn")
    assert "sound" in found.of("database", "ok")
    (place.root / "server" / "quarterdeck.sqlite3").write_bytes(b"not a database" * 1000)
    found = await asyncio.to_thread(call, place.root, "--data", str(place.root))
    assert "backup" in found.of("database", "fail")


@pytest.mark.parametrize(
    "last",
    [
        {"event": "FabricConnected", "level": "info"},
        {"event": "FabricTrouble", "level": "warning", "error": "user authentication revoked"},
        {"event": "LogReread", "level": "warning", "timestamp": "2001-01-01T00:00:00Z"},
    ],
)
def test_what_a_process_has_got_over_is_no_warning(tmp_path: Path, last: dict[str, str]) -> None:
    log = tmp_path / "log" / "agent-web1.log"
    log.parent.mkdir()
    away = {"event": "ServerLost", "level": "warning", "error": "The server is starting."}
    log.write_text(json.dumps(away) + "\n")
    assert [f.level for f in checks.logs(tmp_path, SystemClock().now())] == ["warn"]
    log.write_text(json.dumps(away) + "\n" + json.dumps(last) + "\n")
    assert not list(checks.logs(tmp_path, SystemClock().now()))


def test_the_room_is_held_against_the_limit_of_the_server_settings(tmp_path: Path) -> None:
    assert "(the limit is 64)" in call(tmp_path, "--data", str(tmp_path)).text
    (tmp_path / "server").mkdir()
    (tmp_path / "server" / "server.toml").write_text(f"min_free_mib = {1 << 40}\n")
    found = call(tmp_path, "--data", str(tmp_path))
    assert "new runs are refused" in found.of("disk", "fail")
    found = call(tmp_path, "--data", str(tmp_path), QD_MIN_FREE_MIB="1")
    assert "(the limit is 1)" in found.text, "the variable is what a server started here obeys"


def test_a_defect_that_a_shim_wrote_down_is_told(tmp_path: Path) -> None:
    attempt = tmp_path / "agents" / "web1" / "attempts" / "abc-1.0.1"
    attempt.mkdir(parents=True)
    assert not call(tmp_path, "--data", str(tmp_path)).of("shim", "warn")
    last_words.note_crash(str(attempt), "Trace of calls\n  a line\nKeyError: 'stdin'\n")
    found = call(tmp_path, "--data", str(tmp_path)).of("shim", "warn")
    assert "abc-1.0.1" in found and "KeyError: 'stdin'" in found and str(attempt) in found


@pytest.mark.parametrize("words", [("--data", "/nowhere/at/all"), ("--url", "x"), ("--url", "h:")])
def test_odd_places_get_a_sentence(tmp_path: Path, words: tuple[str, ...]) -> None:
    found = call(tmp_path, *words)
    assert found.code == 1 and found.of("server", "fail")


def test_words_for_people_are_one_line_each(tmp_path: Path) -> None:
    done: Any = subprocess.run(
        [QD, "doctor", "--data", str(tmp_path)], capture_output=True, timeout=LIMIT_S, check=False
    )
    lines = done.stdout.decode().splitlines()
    assert done.returncode == 1 and not done.stderr
    assert all(line.split()[0] in ("ok", "warn", "fail") for line in lines)
