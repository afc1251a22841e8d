"""Bad input and bad surroundings: one sentence each, the right exit code, nothing lost."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path

import pytest

from tests.e2e.up import QD, Up, running, wait_for


def sentence(done: subprocess.CompletedProcess[bytes]) -> str:
    """What was said, after checking that it is for people."""
    text = done.stderr.decode()
    assert "Traceback" not in text
    assert text.strip()
    return text


def test_an_empty_script_is_refused(up: Up, tmp_path: Path) -> None:
    path = tmp_path / "empty.sh"
    path.write_bytes(b" \n")
    done = up.qd("run", "-t", "all", "--script", str(path))
    assert done.returncode == 2
    assert "is empty" in sentence(done)


def test_an_empty_command_is_refused(up: Up) -> None:
    done = up.qd("run", "-t", "all", "--", "")
    assert (done.returncode, "is empty" in sentence(done)) == (2, True)
    done = up.qd("run", "-t", "all")
    assert (done.returncode, "Nothing to run" in sentence(done)) == (2, True)


def test_a_script_of_50_mb_is_refused_with_the_limit(up: Up, tmp_path: Path) -> None:
    path = tmp_path / "huge.sh"
    path.write_bytes(b"#" * 50_000_000)
    done = up.qd("run", "-t", "all", "--script", str(path))
    assert done.returncode == 2
    assert "at most" in sentence(done)


def test_a_script_of_3_mb_runs(up: Up, tmp_path: Path) -> None:
    path = tmp_path / "large.sh"
    path.write_bytes(b"#" * 3_000_000 + b"\necho ran\n")
    done = up.qd("run", "-t", "all", "--script", str(path))
    assert (done.returncode, done.stdout.count(b"ran")) == (0, 3), done


def test_invalid_utf8_in_the_environment_is_refused(up: Up) -> None:
    done = subprocess.run(
        [QD.encode(), b"run", b"-t", b"all", b"-e", b"KEY=\xff\xfe", b"--", b"true"],
        env=up.env,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 2
    assert "KEY" in sentence(done) and "UTF-8" in sentence(done)


def test_a_program_that_does_not_exist_is_127_with_a_reason(up: Up) -> None:
    done = up.qd("run", "-t", up.node_names()[0], "--", "no-such-program-here", "x")
    assert done.returncode == 127
    assert "no-such-program-here" in sentence(done)


def test_a_directory_that_does_not_exist_is_a_reason(up: Up) -> None:
    done = up.qd("run", "-t", up.node_names()[0], "--cwd", "/no/such/place", "--", "true")
    assert done.returncode == 126
    assert "/no/such/place" in sentence(done)


def test_a_wrong_token_is_denied(up: Up) -> None:
    url = up.ready["url"]
    done = up.qd("nodes", "--url", url, "--token", "qd_api_wrong")
    assert (done.returncode, "token is not valid" in sentence(done)) == (4, True)


def test_an_unknown_run_is_not_found(up: Up) -> None:
    for words in (("show", "zzzz"), ("logs", "zzzz"), ("cancel", "zzzz")):  # watch waits for it
        done = up.qd(*words)
        assert (done.returncode, "no run" in sentence(done)) == (5, True), words


def test_an_ended_run_cannot_be_cancelled(up: Up) -> None:
    up.qd("run", "-t", "all", "--", "true")
    done = up.qd("cancel", "last")
    assert (done.returncode, "already ended" in sentence(done)) == (6, True)


def test_no_server_is_exit_3_and_says_how_to_start_one(tmp_path: Path) -> None:
    env = {**os.environ, "QD_DATA": str(tmp_path)}
    done = subprocess.run([QD, "nodes"], env=env, capture_output=True, check=False)
    assert (done.returncode, "qd up" in sentence(done)) == (3, True)
    words = [QD, "nodes", "--url", "http://127.0.0.1:9", "--token", "x"]
    done = subprocess.run(words, capture_output=True, check=False)
    assert (done.returncode, "Nothing answers" in sentence(done)) == (3, True)


def test_a_data_directory_in_use_is_a_conflict(up: Up) -> None:
    done = up.qd("up", "--listen", "127.0.0.1:0")
    assert (done.returncode, "in use by another `qd up`" in sentence(done)) == (6, True)
    assert up.qd("run", "-t", "all", "--", "true").returncode == 0


def test_a_port_in_use_is_a_conflict(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        words = [QD, "up", "--data", str(tmp_path), "--listen", f"127.0.0.1:{port}"]
        done = subprocess.run(words, capture_output=True, timeout=30, check=False)
    assert (done.returncode, "is in use" in sentence(done)) == (6, True)


def test_an_unusable_data_directory_is_a_sentence(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    words = [QD, "up", "--data", str(blocked / "data"), "--listen", "127.0.0.1:0"]
    done = subprocess.run(words, capture_output=True, timeout=30, check=False)
    assert (done.returncode, "can't be used" in sentence(done)) == (3, True)


def test_an_unknown_setting_suggests_the_right_one(tmp_path: Path) -> None:
    path = tmp_path / "agent.toml"
    path.write_text('stat = "/tmp/x"\n')
    words = [QD, "agent", "--config", str(path)]
    done = subprocess.run(words, capture_output=True, timeout=30, check=False)
    assert (done.returncode, "Did you mean 'state'" in sentence(done)) == (2, True)


@pytest.fixture
def small_disk(tmp_path: Path) -> str:
    """A file system of 192 MiB of its own; needs root."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    words = ["mount", "-t", "tmpfs", "-o", "size=192m", "tmpfs", str(tmp_path)]
    done = subprocess.run(words, capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"mount is not permitted here: {done.stderr.decode().strip()}")
    return str(tmp_path)


@pytest.mark.timeout(180)
def test_a_full_disk_refuses_new_runs_and_running_ones_finish_when_there_is_room(
    small_disk: str,
) -> None:
    disk = Path(small_disk)
    try:
        with running(disk / "up", nodes=1) as up:
            run = up.detach("all", "--", "for i in $(seq 1 60); do echo line $i; sleep 0.1; done")
            wait_for("first line", lambda: b"line 1" in up.qd("logs", run).stdout)
            filler = disk / "filler"
            fill(filler)
            done = up.qd("run", "-t", "all", "--", "true")
            assert done.returncode == 3
            assert "free" in sentence(done)
            filler.unlink()
            assert up.ended(run, within_s=60)["outcome"] == "succeeded"
            logged = up.qd("logs", run, "--raw", "--stream", "stdout")
            assert logged.stdout == b"".join(b"line %d\n" % i for i in range(1, 61))
            wait_for(
                "new runs are taken again",
                lambda: up.qd("run", "-t", "all", "--", "true").returncode == 0,
                60,
            )
    finally:
        subprocess.run(["umount", "-l", small_disk], check=True)


def fill(path: Path) -> None:
    """Write until nothing more fits."""
    with path.open("wb", buffering=0) as file:
        try:
            while file.write(b"\0" * 65536):
                pass
        except OSError:
            return


def test_a_read_only_data_directory_is_a_sentence(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("a read-only mount needs root")
    words = ["mount", "-t", "tmpfs", "-o", "ro,size=1m", "tmpfs", str(tmp_path)]
    if subprocess.run(words, capture_output=True, check=False).returncode:
        pytest.skip("mount is not permitted here")
    try:
        words = [QD, "up", "--data", str(tmp_path / "up"), "--listen", "127.0.0.1:0"]
        done = subprocess.run(words, capture_output=True, timeout=30, check=False)
    finally:
        subprocess.run(["umount", "-l", str(tmp_path)], check=True)
    assert (done.returncode, "Read-only" in sentence(done)) == (3, True)


def test_a_reader_that_leaves_early_is_no_error(up: Up) -> None:
    run = up.detach(up.node_names()[0], "--", "seq 1 200000")
    up.ended(run)
    text = f"{QD} logs {run} | head -n 2"
    done = subprocess.run(["sh", "-c", text], env=up.env, capture_output=True, check=False)
    assert done.stdout == b"1\n2\n"
    assert b"Traceback" not in done.stderr and b"Exception" not in done.stderr


def test_an_agent_in_use_is_a_conflict(up: Up) -> None:
    state = up.data / "agents" / up.node_names()[0]
    words = [QD, "agent", "--config", str(state / "agent.toml")]
    done = subprocess.run(words, capture_output=True, timeout=30, check=False)
    assert (done.returncode, "in use by another agent" in sentence(done)) == (6, True)
