"""Output is exact to the byte, whatever it is and however much (X19)."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import pytest

from tests.e2e.up import Up

MIB = 1 << 20
TEXT = """
import hashlib, sys
digest = hashlib.sha256()
line = 0
size = 0
while size < {size}:
    block = b"".join(b"%d the quick brown fox jumps over the lazy dog\\n" % n
                     for n in range(line, line + 10000))
    line += 10000
    size += len(block)
    digest.update(block)
    sys.stdout.buffer.write(block)
sys.stdout.flush()
sys.stderr.write("%d %s" % (size, digest.hexdigest()))
"""


def node(up: Up) -> str:
    return up.node_names()[0]


def stored(up: Up, run: str, stream: str) -> bytes:
    done = up.qd("logs", run, "--raw", "--stream", stream, within_s=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.timeout(240)
def test_200_mb_of_text_come_back_identical(up: Up) -> None:
    script = TEXT.format(size=200_000_000)
    run = up.detach(node(up), "--", sys.executable, "-c", script)
    shown = up.ended(run, within_s=180)
    assert shown["outcome"] == "succeeded", shown
    size, digest = stored(up, run, "stderr").decode().split()
    found = stored(up, run, "stdout")
    assert len(found) == int(size)
    assert hashlib.sha256(found).hexdigest() == digest
    assert shown["tasks"][0]["attempts"][0]["stdout"]["sha256"] == digest


@pytest.mark.parametrize(
    ("what", "data"),
    [
        ("10 MiB without a newline", b"x" * (10 * MIB)),
        ("every byte there is", bytes(range(256)) * 5000),
        ("nothing but NULs", b"\0" * 300_000),
        ("one byte", b"\xff"),
        ("no newline at the end", b"a\nb"),
        ("carriage returns and escapes", b"\r\x1b[2J\x1b]0;t\x07\r\n" * 1000),
        ("UTF-8 cut in the middle", ("ä€🎈" * 100_000).encode()[:-1]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_any_bytes_come_back_identical_live_and_later(
    up: Up, tmp_path: Path, what: str, data: bytes
) -> None:
    path = tmp_path / "data"
    path.write_bytes(data)
    done = up.qd("run", "-t", node(up), "--", f"cat {path}; cat {path} >&2")
    assert (done.returncode, done.stdout == data) == (0, True), what
    assert done.stderr == data
    run = up.json("runs", "-n", "1")["items"][0]["id"]
    for stream in ("stdout", "stderr"):
        assert stored(up, run, stream) == data


def test_random_binary_on_all_nodes_at_once(up: Up) -> None:
    text = "head -c 3000000 /dev/urandom | tee /proc/self/fd/2 | sha256sum"
    run = up.detach("all", "--", text)
    assert up.ended(run, within_s=60)["outcome"] == "succeeded"
    for name in up.node_names():
        digest = up.qd("logs", run, "--raw", "--node", name, "--stream", "stdout").stdout
        noise = up.qd("logs", run, "--raw", "--node", name, "--stream", "stderr").stdout
        assert hashlib.sha256(noise).hexdigest() == digest.split()[0].decode()


def test_output_past_the_limit_is_dropped_and_counted(up: Up) -> None:
    run = up.detach(node(up), "--max-output", "1k", "--", "head -c 5000 /dev/zero")
    attempt = up.ended(run)["tasks"][0]["attempts"][0]
    assert attempt["stdout"]["bytes"] == 1024
    assert attempt["stdout"]["dropped"] == 5000 - 1024
    assert stored(up, run, "stdout") == b"\0" * 1024
