"""Agentless nodes over a real sshd: the same as every node, whatever is killed in between."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.ssh import Ssh
from bench.ssh import sshd as another
from tests.e2e.up import Up, running, wait_for

FAR = "far1"
LINES = 'i=0; while [ $i -lt 20 ]; do i=$((i+1)); echo "line $i"; sleep 0.1; done; exit 7'
EXACT = b"".join(b"line %d\n" % number for number in range(1, 21))


@pytest.fixture(scope="module")
def up(sshd: Ssh | None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    if sshd is None:
        pytest.skip("openssh-server and openssh-client are not installed")
    with running(tmp_path_factory.mktemp("agentless") / "up", nodes=1) as up:
        proxy = up.json("nodes")["items"][0]["id"]
        for name in (FAR, "far2"):
            done = added(up, proxy, sshd, name, "--accept-new", jump=name == "far2")
            assert done.returncode == 0, (done, up.logs())
        yield up


def added(
    up: Up, proxy: str, ssh: Ssh, name: str, *words: str, jump: bool = False, key: str = ""
) -> subprocess.CompletedProcess[bytes]:
    """`qd node add` of this machine; a second one of the same user is another place by name."""
    host = "localhost" if jump else "127.0.0.1"
    words = (*words, "--jump", f"{ssh.user}@127.0.0.1:{ssh.port}") if jump else words
    place = f"{ssh.user}@{host}:{ssh.port}"
    identity = key or str(ssh.key)
    return up.qd(
        "node",
        "add",
        "--ssh",
        place,
        "--via",
        proxy,
        "--name",
        name,
        "--identity",
        identity,
        *words,
    )


def node(up: Up, name: str) -> dict[str, Any]:
    found = [one for one in up.json("nodes")["items"] if one["node"] == name]
    assert len(found) == 1, found
    return dict(found[0])


def ready(up: Up, name: str) -> dict[str, Any]:
    """The node, once it is reached."""

    def look() -> dict[str, Any] | None:
        found = node(up, name)
        return found if found["state"] == "ready" and not found["problem"] else None

    return wait_for(f"{name} to be reached", look)


def far_ends(ssh: Ssh) -> list[int]:
    """The processes of sshd that serve a connection."""
    listener = int((ssh.folder / "pid").read_text())
    return children(listener)


def children(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        return [int(x) for x in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def output(up: Up, run: str, name: str = FAR) -> bytes:
    return up.qd("logs", run, "--raw", "--node", name).stdout


def test_a_run_over_ssh_is_like_any_other(up: Up) -> None:
    far = ready(up, FAR)
    assert far["via"] and far["place"].endswith(f":{far['place'].rpartition(':')[2]}")
    assert far["cpus"] > 0 and far["memory_total"] > 0 and far["disk_free"] > 0
    done = up.qd("run", "-t", "far*", "--", "echo out; echo err >&2; cat; exit 3", stdin=b"")
    assert done.returncode == 1, done
    assert done.stdout.count(b"out") == 2 and done.stderr.count(b"| err") == 2, done
    assert up.qd("run", "-t", FAR, "--", "exit 3").returncode == 3


def test_output_over_ssh_is_exact_and_live(up: Up) -> None:
    ready(up, FAR)
    script = "head -c 3000000 /dev/urandom | tee /tmp/$QD_RUN_ID; echo done >&2"
    run = up.detach(FAR, "--", script)
    assert up.ended(run)["outcome"] == "succeeded"
    written = Path("/tmp", run)
    try:
        assert (
            hashlib.sha256(output(up, run)).digest()
            == hashlib.sha256(written.read_bytes()).digest()
        )
    finally:
        written.unlink()


def test_a_killed_agent_and_a_killed_server_lose_nothing_over_ssh(up: Up) -> None:
    ready(up, FAR)
    run = up.detach(FAR, "--", LINES)
    wait_for("output", lambda: b"line 3\n" in output(up, run))
    for pid in (*up.ready["pids"]["agents"].values(), up.ready["pids"]["server"]):
        up.kill(int(pid))
    found = up.ended(run, 60)
    assert found["outcome"] == "failed" and found["tasks"][0]["exit_code"] == 7, found
    assert output(up, run) == EXACT


def test_a_cut_connection_is_made_again_and_loses_nothing_over_ssh(up: Up, sshd: Ssh) -> None:
    ready(up, FAR)
    run = up.detach("far*", "--", LINES)
    wait_for("output", lambda: b"line 3\n" in output(up, run))
    for pid in far_ends(sshd):
        with contextlib.suppress(ProcessLookupError):  # it went with the one before
            os.kill(pid, signal.SIGKILL)
    found = up.ended(run, 60)
    assert found["counts"]["failed"] == 2, found
    assert [output(up, run, name) for name in (FAR, "far2")] == [EXACT, EXACT]


def test_a_timeout_and_a_cancel_over_ssh_end_the_whole_tree(up: Up, tmp_path: Path) -> None:
    ready(up, FAR)
    tree = f"sleep 987 & echo $! > {tmp_path}/pid; setsid sleep 987 & wait"
    done = up.qd("run", "-t", FAR, "--timeout", "1s", "--", tree)
    assert done.returncode == 124, done
    wait_for("the end of the tree", lambda: not alive(tmp_path / "pid"))
    run = up.detach(FAR, "--", tree)
    wait_for("the start", lambda: alive(tmp_path / "pid"))
    assert up.qd("cancel", run).returncode == 0
    assert up.ended(run)["outcome"] == "cancelled"
    assert not alive(tmp_path / "pid")


def alive(path: Path) -> bool:
    with contextlib.suppress(OSError, ValueError):
        os.kill(int(path.read_text()), 0)
        return True
    return False


def test_a_wrong_key_is_said_over_ssh(up: Up, sshd: Ssh, tmp_path: Path) -> None:
    proxy = node(up, FAR)["via"]
    stranger = tmp_path / "stranger"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", stranger], check=True)
    with another() as ssh:
        done = added(up, proxy, ssh, "locked", "--accept-new", key=str(stranger))
        assert done.returncode == 3 and b"does not let us in" in done.stderr, done
        assert "does not let us in" in node(up, "locked")["problem"]
        assert added(up, proxy, ssh, "locked", "--accept-new").returncode == 0
        assert up.qd("node", "remove", "locked").returncode == 0


def test_a_host_key_that_nobody_knows_or_that_changed_gets_no_orders_over_ssh(up: Up) -> None:
    proxy = node(up, FAR)["via"]
    with another() as ssh:
        done = added(up, proxy, ssh, "strict")
        assert done.returncode == 3 and b"is not known here" in done.stderr, done
        shown = subprocess.run(
            ["ssh-keygen", "-lf", ssh.folder / "host_key.pub"], capture_output=True, check=True
        )
        fingerprint = shown.stdout.decode().split()[1]
        assert fingerprint.encode() in done.stderr
        done = added(up, proxy, ssh, "strict", "--host-key", fingerprint)
        assert done.returncode == 0, done
        wrong = "SHA256:" + "A" * 43
        done = added(up, proxy, ssh, "strict", "--host-key", wrong)
        assert done.returncode == 3 and b"No order is sent there" in done.stderr, done
        assert "is not the one that is known" in node(up, "strict")["problem"]
        accepted = (ssh.folder / "log").read_text().count("Accepted publickey")
        assert accepted == 1, "it logged in where the key was wrong"
        assert up.qd("node", "remove", "strict").returncode == 0
        (listed,) = up.data.glob("agents/*/agentless")
        wait_for("the key to be forgotten", lambda: len(list(listed.iterdir())) == 2)
