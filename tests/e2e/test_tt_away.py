"""`tt` and a server that is away, killed, slow or full: the command never notices, bytes arrive."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from quarterdeck.tt.pack import zipapp
from tests.e2e.tracing import (
    deliver_rest,
    ended,
    output,
    quiet_env,
    senders,
    spools,
    start,
    trace,
    traces,
)
from tests.e2e.up import Up, running, wait_for

KEPT_MIB = int(os.environ.get("QD_FAULT_TRACE_MIB", "24"))
NUMBERED = "import sys; [sys.stdout.buffer.write(b'%015d\\n' % at) for at in range({})]"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    with running(tmp_path_factory.mktemp("up"), nodes=0) as found:
        yield found


@pytest.fixture
def env(server: Up, tmp_path: Path) -> dict[str, str]:
    return quiet_env(server, tmp_path)


def away(env: dict[str, str], data: Path, **more: str) -> dict[str, str]:
    """The environment of one whose server does not run yet; its sender leaves when told to."""
    return {**env, "QD_DATA": str(data), "TT_LINGER_S": "0", **more}


def come_back(server: Up, data: Path) -> None:
    """The server runs there from now on."""
    data.mkdir(exist_ok=True)
    (data / "ready.json").write_bytes((server.data / "ready.json").read_bytes())


def numbered(lines: int) -> bytes:
    return b"".join(b"%015d\n" % at for at in range(lines))


def same(one: bytes, other: bytes) -> bool:
    return hashlib.sha256(one).digest() == hashlib.sha256(other).digest()


def test_down_from_the_start_changes_nothing_and_the_next_tt_delivers(
    server: Up, env: dict[str, str], tmp_path: Path
) -> None:
    down = away(env, tmp_path / "data")
    done = trace(down, "-n", "late", "-k", "echo out; echo err >&2; exit 5")
    assert (done.returncode, done.stdout) == (5, b"out\n")
    lines = done.stderr.splitlines()
    assert lines[0] == b"err" and len(lines) == 2 and b"delivered later" in lines[1]
    (file,) = wait_for("the spool", lambda: spools(env))
    assert file.stat().st_mode & 0o777 == 0o600
    come_back(server, tmp_path / "data")
    deliver_rest(env)
    found = ended(server, "late")
    assert found["code"] == 5
    assert output(server, found["trace"], "stdout") == b"out\n"
    assert output(server, found["trace"], "stderr") == b"err\n"


def test_what_a_token_may_not_deliver_waits_for_one_that_may(
    server: Up, env: dict[str, str], tmp_path: Path
) -> None:
    data = tmp_path / "data"
    assert trace(away(env, data), "-q", "-n", "held", "echo out").returncode == 0
    wait_for("the spool", lambda: spools(env))
    other = server.json("token", "create", "--kind", "send", "--scope", "next")["token"]
    come_back(server, data)
    ready = json.loads((data / "ready.json").read_bytes())
    (data / "ready.json").write_text(json.dumps(ready | {"token": other}))
    assert trace(env, "-q", "-n", "next", "true").returncode == 0
    wait_for("its sender's end", lambda: not senders(env))
    assert spools(env) and not traces(server, "held")
    come_back(server, data)
    deliver_rest(env)
    assert output(server, ended(server, "held")["trace"], "stdout") == b"out\n"


def test_the_process_that_stays_behind_delivers_when_the_server_comes(
    server: Up, env: dict[str, str], tmp_path: Path
) -> None:
    down = away(env, tmp_path / "data", TT_LINGER_S="60")
    assert trace(down, "-q", "-n", "behind", "echo out").returncode == 0
    wait_for("the spool", lambda: spools(env))
    come_back(server, tmp_path / "data")
    assert output(server, ended(server, "behind")["trace"], "stdout") == b"out\n"
    wait_for("the spool to go", lambda: not spools(env))


def held(file: Path) -> bool:
    """Whether a sender works on a spool."""
    with file.open("rb") as opened:
        try:
            fcntl.flock(opened, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


def test_of_all_that_wait_for_one_server_one_process_stays(
    server: Up, env: dict[str, str], tmp_path: Path
) -> None:
    down = away(env, tmp_path / "data", TT_LINGER_S="60")
    for at in range(3):
        assert trace(down, "-q", "-n", f"stays-{at}", f"echo {at}").returncode == 0
    wait_for("the spools", lambda: len(spools(env)) == 3)
    wait_for("two to leave", lambda: [held(one) for one in spools(env)].count(True) == 1)
    come_back(server, tmp_path / "data")
    for at in range(3):
        found = ended(server, f"stays-{at}")["trace"]
        assert output(server, found, "stdout") == b"%d\n" % at
    wait_for("the spools to go", lambda: not spools(env))


def test_several_deliverers_at_once_deliver_once(
    server: Up, env: dict[str, str], tmp_path: Path
) -> None:
    down = away(env, tmp_path / "data")
    for at in range(4):
        trace(down, "-q", "-n", f"once-{at}", f"echo {at}; seq 20000")
    wait_for("the spools", lambda: len(spools(env)) == 4)
    come_back(server, tmp_path / "data")
    ones = [start(env, "-q", "-n", "deliverer", "true") for _ in range(4)]
    for one in ones:
        one.communicate(timeout=30)
    deliver_rest(env)
    for at in range(4):
        (found,) = traces(server, f"once-{at}")
        expected = f"{at}\n".encode() + b"".join(b"%d\n" % each for each in range(1, 20001))
        assert output(server, found["trace"], "stdout") == expected


def test_a_killed_front_leaves_what_it_had_handed_over_in_the_spool(
    server: Up, env: dict[str, str], tmp_path: Path
) -> None:
    down = away(env, tmp_path / "data")
    one = start(
        down, "-q", "-n", "spooled", "-k", "--die-with", "seq 50000; echo end; read < <(sleep 1000)"
    )
    assert one.stdout is not None and one.stderr is not None
    while one.stdout.readline() != b"end\n":
        pass
    one.kill()
    one.wait()
    one.stdout.close()
    one.stderr.close()
    wait_for("the spool", lambda: spools(env))
    come_back(server, tmp_path / "data")
    deliver_rest(env)
    expected = b"".join(b"%d\n" % each for each in range(1, 50001)) + b"end\n"
    found = output(server, traces(server, "spooled")[0]["trace"], "stdout")
    assert found and expected.startswith(found)  # the pipe between them holds 64 KiB at most


def test_beyond_the_limits_bytes_are_dropped_and_the_trace_says_how_many(
    server: Up, env: dict[str, str], tmp_path: Path
) -> None:
    down = away(env, tmp_path / "data", TT_MEMORY_MIB="1", TT_SPOOL_MIB="2")
    whole = numbered(500_000)
    done = trace(down, "-q", "-n", "limited", "-k", "python3", "-c", NUMBERED.format(500_000))
    assert same(done.stdout, whole)
    (file,) = wait_for("the spool", lambda: spools(env))
    assert file.stat().st_size < (2 << 20) + 8192
    come_back(server, tmp_path / "data")
    deliver_rest(env)
    found = ended(server, "limited")
    kept = found["bytes"]["stdout"]
    assert 1 << 20 < kept < 2 << 20 and found["dropped"] == len(whole) - kept
    assert output(server, found["trace"], "stdout") == whole[:kept]


@pytest.mark.parametrize(("keep", "mib"), [(True, KEPT_MIB), (False, 16)])
def test_bytes_are_exact_across_a_killed_server(
    server: Up, env: dict[str, str], keep: bool, mib: int
) -> None:
    lines = mib << 16
    name = "exact-kept" if keep else "exact-memory"
    words = ["-q", "-n", name, *(["-k"] if keep else []), "python3", "-c", NUMBERED.format(lines)]
    one = start(env, *words)
    assert one.stdout is not None and one.stderr is not None
    shown, length = hashlib.sha256(), 0
    while piece := one.stdout.read(1 << 20):
        shown.update(piece)
        if length < mib << 19 <= length + len(piece):
            server.kill(server.ready["pids"]["server"])
        length += len(piece)
    assert one.wait(30) == 0 and length == mib << 20
    one.stdout.close()
    one.stderr.close()
    found = ended(server, name, 60)
    kept = output(server, found["trace"], "stdout")
    assert len(kept) == length and hashlib.sha256(kept).digest() == shown.digest()
    assert found["code"] == 0 and len(traces(server, name)) == 1
    wait_for("the spool to go", lambda: not spools(env))


def test_a_server_that_never_answers_keeps_nobody(env: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        slow = {**env, "TT_LINGER_S": "0"}
        began = time.monotonic()
        done = trace(slow, "-n", "slow", "--url", url, "--token", "x", "echo out; exit 3")
        assert time.monotonic() - began < 10  # the answer itself would be waited for longer
        assert (done.returncode, done.stdout) == (3, b"out\n")
    wait_for("the spool", lambda: spools(env))


def test_one_that_is_told_to_end_saves_what_it_has(env: dict[str, str], tmp_path: Path) -> None:
    down = away(env, tmp_path / "data", TT_LINGER_S="60")
    before = _named(b"ended-sender")
    trace(down, "-q", "-n", "ended-sender", "echo out")
    wait_for("the spool", lambda: spools(env))
    for pid in _named(b"ended-sender") - before:
        os.kill(pid, signal.SIGTERM)
    wait_for("the end of the sender", lambda: _named(b"ended-sender") == before)
    assert len(spools(env)) == 1


def test_the_zipapp_on_the_oldest_python_traces_as_well(
    server: Up, env: dict[str, str], tmp_path: Path
) -> None:
    old = _oldest_python()
    if old is None:
        pytest.skip("no python3.8 is installed")
    file = tmp_path / "tt.pyz"
    file.write_bytes(zipapp())
    done = subprocess.run(
        [old, file, "-n", "old", "echo $0; exit 3"],
        env=env,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (3, b"bash\n"), done.stderr
    assert ended(server, "old")["code"] == 3


def _oldest_python() -> str | None:
    for found in ("python3.8", "/usr/bin/python3.8", *_pyenv()):
        with contextlib.suppress(OSError):
            if subprocess.run([found, "-c", ""], check=False, capture_output=True).returncode == 0:
                return found
    return None


def _pyenv() -> list[str]:
    return [str(path) for path in Path.home().glob(".pyenv/versions/3.8.*/bin/python3.8")]


def _named(word: bytes) -> set[int]:
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if word in path.read_bytes().split(b"\0") and int(path.parts[2]) != os.getpid():
                found.add(int(path.parts[2]))
    return found
