"""Nodes whose only way out is one HTTPS port: the server's own, nginx's, or that of a proxy."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contracts.connect_proxy import ConnectProxy, in_thread
from tests.e2e import nginx
from tests.e2e.far import agent, port_of, ready, survives_a_cut, works_to_the_byte
from tests.e2e.machine import Machine, another_machine
from tests.e2e.up import QD, Up, running, wait_for


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    with another_machine() as (found, missing):
        if missing:
            pytest.skip(f"a network namespace can't be made here: {missing}")
        yield found


@pytest.fixture(scope="module")
def up(machine: Machine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """Its API is open to everybody, by TLS; its fabric to this machine only."""
    env = {"QD_FABRIC_LISTEN": "127.0.0.1:0"}
    with running(tmp_path_factory.mktemp("open"), nodes=1, env=env, listen="0.0.0.0:0") as found:
        yield found


@pytest.fixture(scope="module")
def hidden(machine: Machine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """All of it is on loopback."""
    with running(tmp_path_factory.mktemp("hidden"), nodes=1) as found:
        yield found


def links(up: Up) -> float:
    for line in up.text("/metrics").splitlines():
        if line.startswith("qd_fabric_links "):
            return float(line.split()[1])
    raise AssertionError("no qd_fabric_links")


def test_where_only_the_api_s_port_is_open_the_fabric_comes_by_it_by_itself(
    up: Up, machine: Machine, tmp_path: Path
) -> None:
    token = up.json("token", "create", "--kind", "join")["token"]
    url = f"https://{machine.host}:{port_of(up)}"
    words = ("--join", url, "--token", token, "--name", "near")
    with agent(machine, tmp_path / "near.log", *words) as log:
        ready(up, "near")
        told = [line for line in log.read_text().splitlines() if "can't be reached" in line]
        assert len(told) == 1 and f"using wss://{machine.host}:{port_of(up)}/fabric" in told[0]
        assert links(up) == 1
        works_to_the_byte(up, "near")
        # the server is killed, and the links that it carries with it
        run = up.detach("near", "--", "echo before; sleep 1; echo after")
        up.kill(up.ready["pids"]["server"])
        assert up.ended(run, within_s=60)["outcome"] == "succeeded"
        assert up.qd("logs", run, "--raw").stdout == b"before\nafter\n"
        assert "Traceback" not in log.read_text()
    wait_for("the link to be given back", lambda: links(up) == 0)


def test_behind_nginx_with_a_certificate_of_an_authority(
    hidden: Up, machine: Machine, tmp_path: Path
) -> None:
    if nginx.missing():
        pytest.skip(nginx.missing())
    token = hidden.json("token", "create", "--kind", "join")["token"]
    assert token.count("_") == 3, "a token of a server without TLS pins nothing"
    port = (hidden.data / "fabric" / "websocket-port").read_text()
    with nginx.before(
        tmp_path / "nginx",
        machine.host,
        api=hidden.ready["url"],
        fabric=f"http://127.0.0.1:{port}",
    ) as proxy:
        join = ("--join", proxy.url, "--token", token, "--fabric", "wss", "--name", "far")
        unknown = machine.popen(
            "agent", "--state", str(tmp_path / "no"), *join, log=tmp_path / "no.log"
        )
        assert unknown.wait(30) == 4
        assert "not to be trusted" in (tmp_path / "no.log").read_text()
        words = (*join, "--server-ca", str(proxy.authority))
        with agent(machine, tmp_path / "far.log", *words) as log:
            ready(hidden, "far")
            works_to_the_byte(hidden, "far")
            survives_a_cut(hidden, machine, "far", tmp_path / "go", proxy)
            assert "Traceback" not in log.read_text()


def test_a_proxy_with_a_password_leads_out_for_joining_and_for_work(
    up: Up, machine: Machine, tmp_path: Path
) -> None:
    token = up.json("token", "create", "--kind", "join")["token"]
    place = f"{machine.beyond}:{port_of(up)}"
    join = ("--join", f"https://{place}", "--token", token, "--name", "proxied")
    proxy = ConnectProxy("fleet:geheim", host=machine.host)
    with in_thread(proxy):
        env = {"HTTPS_PROXY": proxy.url, "NO_PROXY": "example.org"}
        with agent(machine, tmp_path / "proxied.log", *join, env=env) as log:
            ready(up, "proxied")
            works_to_the_byte(up, "proxied")
            assert set(proxy.tunnels) == {place} and len(proxy.tunnels) >= 2
            assert "geheim" not in log.read_text() and "Traceback" not in log.read_text()
        asked = subprocess.run(
            ["ip", "netns", "exec", machine.name, QD, "nodes"],
            env={
                "PATH": "/usr/bin:/bin:/usr/sbin:/sbin",
                "HOME": "/nonexistent",
                "QD_URL": f"https://{place}",
                "QD_TOKEN": up.ready["token"],
                "QD_FINGERPRINT": up.ready["fingerprint"],
                "HTTPS_PROXY": proxy.url,
            },
            capture_output=True,
            timeout=30,
            check=False,
        )
        assert asked.returncode == 0 and b"proxied" in asked.stdout, asked
