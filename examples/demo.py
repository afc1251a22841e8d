"""The demo: three nodes on this machine run a real script, live, and everything is cleaned up.

Started by `./dev demo`. Exits 0 when the whole job went as a user would expect: output of all
nodes live, a table of results, the stored log identical to what the script wrote, a clean stop.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

QD = str(Path(sys.executable).with_name("qd"))
SCRIPT = Path(__file__).with_name("inventory.sh")
READY_WITHIN_S = 60.0


def main() -> int:
    data = Path(tempfile.mkdtemp(prefix="quarterdeck-demo-"))
    up = subprocess.Popen(
        [QD, "up", "--data", str(data), "--listen", "127.0.0.1:0", "--nodes", "3"],
        start_new_session=True,
    )
    try:
        wait_until_ready(data, up)
        qd = [QD]
        environment = {**os.environ, "QD_DATA": str(data)}
        headline("the fleet")
        call([*qd, "nodes"], environment)
        headline("a script on all three nodes, live")
        call([*qd, "run", "-t", "all", "--script", str(SCRIPT), "--", "demo"], environment)
        headline("what is kept")
        call([*qd, "runs"], environment)
        call([*qd, "show", "last"], environment)
        headline("the stored bytes are the written bytes")
        return check_log(qd, environment)
    finally:
        stop(up)
        shutil.rmtree(data, ignore_errors=True)


def wait_until_ready(data: Path, up: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + READY_WITHIN_S
    while not (data / "ready.json").exists():
        if up.poll() is not None:
            sys.exit(f"demo: qd up ended with status {up.returncode} before it was ready.")
        if time.monotonic() > until:
            sys.exit(f"demo: qd up was not ready within {READY_WITHIN_S:.0f} s.")
        time.sleep(0.05)


def headline(text: str) -> None:
    print(f"\n--- {text}", flush=True)


def call(words: list[str], environment: dict[str, str]) -> None:
    print("$ qd " + " ".join(words[1:]), flush=True)
    subprocess.run(words, env=environment, check=True)


def check_log(qd: list[str], environment: dict[str, str]) -> int:
    """Write 5 MB of random bytes on one node; the log must have the hash the node computed."""
    node = subprocess.run(
        [*qd, "nodes", "--json"], env=environment, check=True, capture_output=True
    )
    name = first_node(node.stdout)
    text = "head -c 5000000 /dev/urandom | tee /proc/self/fd/2 | sha256sum"
    words = [*qd, "run", "-t", name, "--title", "5 MB of noise", "--", text]
    seen = subprocess.run(words, env=environment, check=True, capture_output=True)
    stored = subprocess.run(
        [*qd, "logs", "last", "--raw", "--stream", "stderr"],
        env=environment,
        check=True,
        capture_output=True,
    ).stdout
    expected = seen.stdout.split()[0].decode()
    for what, data in (("live", seen.stderr), ("stored", stored)):
        digest = hashlib.sha256(data).hexdigest()
        print(f"{what:>7}: {len(data)} bytes, sha256 {digest[:16]}..., ", end="")
        print("identical" if digest == expected else f"NOT the expected {expected[:16]}...")
        if digest != expected:
            return 1
    return 0


def first_node(document: bytes) -> str:
    return str(json.loads(document)["items"][0]["node"])


def stop(up: subprocess.Popen[bytes]) -> None:
    headline("stop")
    up.send_signal(signal.SIGTERM)
    try:
        up.wait(30)
    except subprocess.TimeoutExpired:
        up.kill()
        up.wait()
        sys.exit("demo: qd up did not stop within 30 s.")
    print(f"qd up ended with status {up.returncode}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
