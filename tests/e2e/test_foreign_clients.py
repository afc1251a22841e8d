"""The real clients of other tools send to a real server: rtail, log.io, logger, rsyslog."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.clients.npm import NODE, installed
from tests.e2e.up import Up, running, wait_for

CLIENTS = Path(__file__).parents[1] / "clients" / "foreign"
EVERY = "rtail=127.0.0.1:0,logio=127.0.0.1:0,logio4=127.0.0.1:0,syslog=127.0.0.1:0"
ANNOUNCED = 'qd_foreign_messages_total{protocol="logio"} 2.0'
RSYSLOG = "/usr/sbin/rsyslogd"
RSYSLOG_SETTINGS = """
module(load="imuxsock" SysSock.Use="off")
input(type="imuxsock" Socket="{root}/log")
action(type="omfwd" Target="127.0.0.1" Port="{port}" Protocol="tcp" TCP_Framing="{framing}")
"""


@pytest.fixture(scope="module")
def hearing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    with running(tmp_path_factory.mktemp("up"), nodes=0, env={"QD_INGEST": EVERY}) as found:
        yield found


@pytest.fixture(scope="module")
def modules() -> Path:
    return installed(CLIENTS)


def port(up: Up, protocol: str) -> str:
    """Where a protocol is heard."""
    found: str = up.ready["ingest"][protocol]
    return found.rpartition(":")[2]


def traces(up: Up, name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = up.api("/v1/traces", name=name)["items"]
    return found


def says(up: Up, name: str, wanted: bytes, *, sender: str = "") -> dict[str, Any]:
    """The trace of a name, once it has said exactly this."""

    def look() -> dict[str, Any] | None:
        for one in traces(up, name):
            if sender in ("", one["id"]) and up.qd("logs", one["trace"]).stdout == wanted:
                return one
        return None

    return wait_for(f"{wanted!r} of {name}", look)


def environment(home: Path) -> dict[str, str]:
    """Clients of npm keep their settings at home, and ask for updates unless told not to."""
    return {**os.environ, "HOME": str(home), "NO_UPDATE_NOTIFIER": "1", "NODE_OPTIONS": ""}


def test_the_client_of_rtail_sends_lines_json_and_dates(
    hearing: Up, modules: Path, tmp_path: Path
) -> None:
    said = b'plain \xe2\x82\xac <b>\n{a: 1, "b": [2]}\n'
    client = [NODE, str(modules / "rtail/cli/rtail-client.js"), "--id", "shop/web", "--mute"]
    done = subprocess.run(
        [*client, "--port", port(hearing, "rtail")],
        input=said,
        env=environment(tmp_path),
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done
    trace = says(hearing, "shop-web", b'plain \xe2\x82\xac <b>\n{"a":1,"b":[2]}\n')
    assert trace["id"] == "127.0.0.1" and "shop/web" in trace["title"]


@contextlib.contextmanager
def harvester(up: Up, modules: Path, home: Path, log: Path) -> Iterator[None]:
    """The harvester of log.io watches a file while the block runs."""
    (home / ".log.io").mkdir()
    server = {"host": "127.0.0.1", "port": int(port(up, "logio"))}
    settings = {"nodeName": "web1", "logStreams": {"access": [str(log)]}, "server": server}
    text = f"exports.config = {json.dumps(settings)}"
    (home / ".log.io" / "harvester.conf").write_text(text)
    started = subprocess.Popen(
        [NODE, str(modules / "log.io/bin/log.io-harvester")],
        env=environment(home),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        started.kill()
        started.wait()


def test_the_harvester_of_log_io_is_heard_until_it_is_killed(
    hearing: Up, modules: Path, tmp_path: Path
) -> None:
    log = tmp_path / "access.log"
    log.touch()
    with harvester(hearing, modules, tmp_path, log):
        wait_for("its announcement", lambda: ANNOUNCED in hearing.text("/metrics"))
        with log.open("a") as file:
            file.write("GET /a|b 200\n")
        says(hearing, "access", b"GET /a|b 200\n", sender="web1")
        with log.open("a") as file:
            file.write("GET /c 404\n")
        says(hearing, "access", b"GET /a|b 200\nGET /c 404\n", sender="web1")
    wait_for("the end", lambda: traces(hearing, "access")[0]["state"] == "ended")
    (ended,) = traces(hearing, "access")
    assert (ended["code"], ended["lost"]) == (None, False)


@pytest.mark.parametrize("how", ["--udp", "--tcp", "--tcp --octet-count", "--udp --rfc3164"])
def test_logger_is_heard(hearing: Up, how: str) -> None:
    if shutil.which("logger") is None:
        pytest.skip("logger (bsdutils) is not installed")
    tag = "job" + how.replace(" ", "").replace("-", "")
    place = ["--server", "127.0.0.1", "--port", port(hearing, "syslog")]
    done = subprocess.run(
        ["logger", *place, *how.split(), "--tag", tag, "disk is [nearly] full: 99 %"],
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done
    trace = says(hearing, tag, b"disk is [nearly] full: 99 %\n")
    assert trace["id"] == socket.gethostname().partition(".")[0] or "." in trace["id"]


@pytest.mark.parametrize("framing", ["octet-counted", "traditional"])
def test_rsyslog_forwards_over_tcp(hearing: Up, tmp_path: Path, framing: str) -> None:
    if not Path(RSYSLOG).exists():
        pytest.skip("rsyslog is not installed")
    settings = tmp_path / "rsyslog.conf"
    settings.write_text(
        RSYSLOG_SETTINGS.format(root=tmp_path, port=port(hearing, "syslog"), framing=framing)
    )
    started = subprocess.Popen(
        [RSYSLOG, "-n", "-f", str(settings), "-i", str(tmp_path / "pid")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for("rsyslog", (tmp_path / "log").exists)
        tag = "far-" + framing
        for text in ("one", "two <three>"):
            words = ["logger", "--socket", str(tmp_path / "log"), "--tag", tag, text]
            subprocess.run(words, check=True, timeout=30)
        says(hearing, tag, b"one\ntwo <three>\n")
    finally:
        started.terminate()
        started.wait()
