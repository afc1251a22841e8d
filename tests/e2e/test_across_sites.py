"""A site of its own: its nodes reach a leaf node, and only that reaches out, by one HTTPS port."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e import nginx
from tests.e2e.far import agent, ready, works_to_the_byte
from tests.e2e.machine import Machine, another_machine
from tests.e2e.up import Up, running, wait_for


@pytest.fixture(scope="module")
def site() -> Iterator[Machine]:
    with another_machine() as (found, missing):
        if missing:
            pytest.skip(f"a network namespace can't be made here: {missing}")
        yield found


@pytest.fixture(scope="module")
def up(site: Machine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """All of it is on loopback: a site comes in by nginx."""
    with running(tmp_path_factory.mktemp("hub"), nodes=0) as found:
        yield found


def leaf(up: Up, site: Machine, proxy: nginx.Nginx, root: Path) -> subprocess.Popen[bytes]:
    token = up.json("token", "create", "--kind", "leaf")["token"]
    words = ("--leaf-of", proxy.url, "--server-ca", str(proxy.authority))
    process = site.popen(
        *("fabric", *words, "--token", token, "--data", str(root / "leaf")),
        *("--listen", "0.0.0.0:4222"),
        log=root / "leaf.log",
    )
    said = root / "leaf.log"

    def ready() -> bool:
        assert process.poll() is None, said.read_text()
        return "leaf node is ready" in said.read_text()

    wait_for("the leaf node", ready)
    return process


def test_a_site_behind_a_leaf_node_works_is_cut_off_and_tells_later(
    up: Up, site: Machine, tmp_path: Path
) -> None:
    if nginx.missing():
        pytest.skip(nginx.missing())
    with nginx.before(tmp_path / "nginx", site.host, api=up.ready["url"]) as proxy:
        running_leaf = leaf(up, site, proxy, tmp_path)
        token = up.json("token", "create", "--kind", "join")["token"]
        join = ("--join", proxy.url, "--token", token, "--server-ca", str(proxy.authority))
        where = ("--fabric", "tls://127.0.0.1:4222")
        try:
            with (
                agent(site, tmp_path / "a.log", *join, *where, "--name", "a") as log,
                agent(site, tmp_path / "b.log", *join, *where, "--name", "b"),
            ):
                ready(up, "a")
                ready(up, "b")
                works_to_the_byte(up, "a")
                loses_nothing_while_cut_off(up, site, proxy, tmp_path)
                survives_the_end_of_the_leaf(up, site, proxy, tmp_path, running_leaf)
                removal_cuts_off(up, "b", tmp_path / "b.log")
                assert up.qd("run", "-t", "a", "--", "true").returncode == 0
                assert "Traceback" not in log.read_text()
                assert "Traceback" not in (tmp_path / "leaf.log").read_text()
        finally:
            stop_leaf(tmp_path)


def loses_nothing_while_cut_off(up: Up, site: Machine, proxy: nginx.Nginx, root: Path) -> None:
    """Both nodes work on; the one ends its task while nobody outside hears it."""
    script = f"echo before; until [ -e {root}/go ]; do sleep 0.1; done; echo after; touch {root}/$0"
    runs = [up.detach(name, "--", "/bin/sh", "-c", script, name) for name in ("a", "b")]
    for run in runs:
        started(up, run)
    site.pull()
    (root / "go").touch()
    wait_for("both to end over there", lambda: (root / "a").exists() and (root / "b").exists())
    proxy.stop()  # so what stood by the cable is gone when it is plugged in again
    proxy.start()
    assert {up.api(f"/v1/runs/{run}")["state"] for run in runs} == {"running"}
    site.plug()
    for run in runs:
        assert up.ended(run, within_s=60)["outcome"] == "succeeded"
        assert up.qd("logs", run, "--raw").stdout == b"before\nafter\n"
    ready(up, "a")


def started(up: Up, run: str) -> None:
    wait_for("the task", lambda: up.api(f"/v1/runs/{run}")["state"] == "running")


def survives_the_end_of_the_leaf(
    up: Up, site: Machine, proxy: nginx.Nginx, root: Path, first: subprocess.Popen[bytes]
) -> None:
    run = up.detach("a", "--", "echo one; sleep 2; echo two")
    started(up, run)
    first.kill()
    first.wait(10)
    (root / "leaf.log").write_text("")
    words = ("--leaf-of", proxy.url, "--server-ca", str(proxy.authority))
    LEAVES.append(
        site.popen(
            *("fabric", *words, "--data", str(root / "leaf"), "--listen", "0.0.0.0:4222"),
            log=root / "leaf.log",
        )
    )
    assert up.ended(run, within_s=60)["outcome"] == "succeeded"
    assert up.qd("logs", run, "--raw").stdout == b"one\ntwo\n"


LEAVES: list[subprocess.Popen[bytes]] = []


def stop_leaf(root: Path) -> None:
    for process in LEAVES:
        process.terminate()
        assert process.wait(30) == 0, (root / "leaf.log").read_text()
    LEAVES.clear()


def removal_cuts_off(up: Up, name: str, log: Path) -> None:
    known = len(log.read_text())
    assert up.qd("node", "remove", name).returncode == 0
    wait_for(f"{name} to be cut off", lambda: "lost" in log.read_text()[known:], within_s=4)
    wait_for(f"{name} to be refused", lambda: "does not admit" in log.read_text(), within_s=15)
