"""`tt` in front of real commands, with a real server: what goes in and out, codes, signals."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.e2e.tracing import (
    TT,
    ended,
    is_gone,
    output,
    quiet_env,
    sender_of,
    start,
    trace,
    traces,
)
from tests.e2e.up import QD, Up, wait_for


@pytest.fixture
def server(up: Up) -> Up:
    return up


@pytest.fixture
def env(server: Up, tmp_path: Path) -> dict[str, str]:
    return quiet_env(server, tmp_path)


def test_output_code_and_end_are_here_and_there(server: Up, env: dict[str, str]) -> None:
    done = trace(env, "-n", "both", "--id", "web 1", "printf 'out\\0'; printf err >&2; exit 3")
    assert done.returncode == 3
    assert done.stdout == b"out\0"
    assert done.stderr.startswith(b"err")
    found = ended(server, "both")
    assert found["code"] == 3 and found["id"] == "web 1"
    assert f"View URL for task output: {found['url'].split('#')[0]}" in done.stderr.decode()
    assert done.stderr.count(b"View URL") == 1
    assert output(server, found["trace"], "stdout") == b"out\0"
    assert output(server, found["trace"], "stderr") == b"err"


def test_standard_input_goes_through(server: Up, env: dict[str, str]) -> None:
    data = os.urandom(3 << 20)
    done = trace(env, "-q", "-n", "through", "cat", "-", stdin=data)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == data
    assert output(server, ended(server, "through")["trace"], "stdout") == data


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["bash", "-c", "kill -9 $$"], 137),
        (["bash", "-c", "kill -TERM $$"], 143),
        (["exit 200"], 200),
        (["no-such-program", "x"], 127),
        (["/", "x"], 126),
        (["sh", "-c", "exit 2"], 2),
    ],
)
def test_the_code_is_that_of_a_shell(env: dict[str, str], words: list[str], code: int) -> None:
    assert trace(env, "-q", "--no-pty", *words).returncode == code


def test_the_server_is_told_the_signal(server: Up, env: dict[str, str]) -> None:
    assert trace(env, "-n", "killed", "bash", "-c", "kill -9 $$").returncode == 137
    found = ended(server, "killed")
    assert found["signal"] == 9


def test_several_words_keep_their_quoting_and_one_is_text(env: dict[str, str]) -> None:
    assert trace(env, "-q", "printf", "%s|", "a b", "$HOME", "*").stdout == b"a b|$HOME|*|"
    assert trace(env, "-q", "for i in 1 2; do printf $i; done").stdout == b"12"


def test_the_environment_is_not_sent_and_a_title_hides_the_command(
    server: Up, env: dict[str, str]
) -> None:
    secret = "secret-of-this-test"
    trace({**env, "SECRET": secret}, "-n", "masked", "--title", "a deploy", "true", secret)
    found = ended(server, "masked")
    assert (found["title"], found["command"]) == ("a deploy", [])
    assert secret not in server.text("/v1/traces") + server.text(f"/v1/runs/{found['trace']}")


def test_a_pipe_is_copied_and_traced(server: Up, env: dict[str, str]) -> None:
    done = trace(env, "-q", "-n", "copied", "-", stdin=b"a\nno end")
    assert (done.returncode, done.stdout) == (0, b"a\nno end")
    assert output(server, ended(server, "copied")["trace"], "stdout") == b"a\nno end"


def test_traces_are_runs_by_their_origin(server: Up, env: dict[str, str]) -> None:
    trace(env, "-q", "-n", "listed", "true")
    found = ended(server, "listed")["trace"]
    listed = server.json("runs", "--origin", "trace")["items"]
    assert found in [run["id"] for run in listed]
    assert {run["origin"] for run in listed} == {"trace"}
    assert b"trace listed" in server.qd("runs", "--origin", "trace").stdout
    assert b"trace listed" in server.qd("show", found).stdout
    assert not server.json("runs", "--origin", "nobody")["items"]


def test_who_reads_no_more_ends_the_command_as_without_us(env: dict[str, str]) -> None:
    text = f"yes | {TT} -q -n head - | head -1; echo ${{PIPESTATUS[*]}}"
    text += f"; {TT} -q -n head yes y | head -1; echo ${{PIPESTATUS[*]}}"
    done = subprocess.run(
        ["bash", "-c", text], env=env, capture_output=True, timeout=60, check=True
    )
    assert done.stdout.split() == [b"y", b"141", b"141", b"0", b"y", b"141", b"0"]


def test_what_outlives_the_command_goes_on_writing(env: dict[str, str], tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    one = start(
        env, "-q", "-n", "outlived", f"(read x < {gate}; echo late; echo done >&2) & echo early"
    )
    assert one.stdout is not None and one.stderr is not None
    assert one.wait(30) == 0
    assert one.stdout.readline() == b"early\n"
    gate.write_text("go\n")
    assert one.stdout.read() == b"late\n" and one.stderr.read() == b"done\n"
    one.stdout.close()
    one.stderr.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT])
def test_a_signal_to_the_wrapper_reaches_the_whole_group(
    server: Up, env: dict[str, str], number: signal.Signals
) -> None:
    name = f"signal-{number.name}"
    # both end by the signal alone: a shell that waits, and the one that is waited for
    one = start(env, "-n", name, "sh", "-c", "sh -c 'echo $$; exec sleep 1000'; true")
    assert one.stdout is not None and one.stderr is not None
    inner = int(one.stdout.readline())
    # a shell that is about to become something else may swallow a signal
    comm = Path(f"/proc/{inner}/comm")
    wait_for("the shell to become sleep", lambda: comm.read_text() == "sleep\n")
    one.send_signal(number)
    assert one.wait(30) == 128 + number
    wait_for("the end of it", lambda: not Path(f"/proc/{inner}").exists())
    assert ended(server, name)["signal"] == number
    one.stdout.close()
    one.stderr.close()


def test_a_wrapper_that_is_killed_is_lost_soon_and_its_last_words_are_there(
    server: Up, env: dict[str, str]
) -> None:
    one = start(env, "--die-with", "-n", "lost", "echo before; echo $$; read < <(sleep 1000)")
    assert one.stdout is not None and one.stderr is not None
    assert one.stdout.readline() == b"before\n"
    command = int(one.stdout.readline())
    sender = sender_of(one.pid)
    one.kill()
    one.wait()
    wait_for("the end of the command", lambda: not Path(f"/proc/{command}").exists())
    wait_for("the end of the sender", lambda: not Path(f"/proc/{sender}").exists())

    def lost() -> bool:
        found = traces(server, "lost")
        return bool(found and found[0]["lost"])

    wait_for("the trace to be lost", lost, 12)
    assert output(server, traces(server, "lost")[0]["trace"], "stdout").startswith(b"before\n")
    one.stdout.close()
    one.stderr.close()


def test_without_die_with_the_command_goes_on(env: dict[str, str], tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    one = start(
        env, "-q", "-n", "alone", f"exec 2>/dev/null; echo; read x < {gate}; touch {gate}.done"
    )
    assert one.stdout is not None and one.stderr is not None
    one.stdout.readline()
    one.kill()
    one.wait()
    gate.write_text("go\n")
    wait_for("what the command does last", Path(f"{gate}.done").exists)
    one.stdout.close()
    one.stderr.close()


def test_a_killed_sender_does_not_hurt_the_command(env: dict[str, str]) -> None:
    one = subprocess.Popen(
        [TT, "-n", "killed-sender", "cat"],
        env=env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    sender = sender_of(one.pid)
    os.kill(sender, signal.SIGKILL)
    wait_for("its end", lambda: is_gone(sender))
    out, err = one.communicate(b"x" * 300_000, timeout=30)
    assert (one.returncode, out) == (0, b"x" * 300_000)
    assert b"untraced" in err


def test_hard_bytes_arrive_as_they_are(server: Up, env: dict[str, str]) -> None:
    text = "head -c 10485760 /dev/zero | tr '\\0' x; printf '\\n\\377\\0\\303'; printf '\\274 <b>'"
    done = trace(env, "-q", "-n", "hard", text)
    expected = b"x" * 10_485_760 + b"\n\xff\0\xc3\xbc <b>"
    assert done.stdout == expected
    assert output(server, ended(server, "hard")["trace"], "stdout") == expected


def test_output_is_as_fast_as_it_is_read_and_whole(server: Up, env: dict[str, str]) -> None:
    done = trace(env, "-q", "-k", "-n", "much", "seq 3000000; seq 100000 >&2")
    found = ended(server, "much")
    for stream, shown in (("stdout", done.stdout), ("stderr", done.stderr)):
        kept = output(server, found["trace"], stream)
        assert hashlib.sha256(kept).digest() == hashlib.sha256(shown).digest()


def test_two_nodes_under_one_name_are_two_traces(server: Up, env: dict[str, str]) -> None:
    ones = [start(env, "-n", "pair", "--id", each, "echo $0; exit 4") for each in ("a", "b")]
    for one in ones:
        out, _ = one.communicate(timeout=30)
        assert one.returncode == 4 and out == b"bash\n"

    def both() -> bool:
        return {t["id"] for t in traces(server, "pair") if t["state"] == "ended"} == {"a", "b"}

    wait_for("both traces", both)


def test_qd_trace_is_the_same(server: Up, env: dict[str, str]) -> None:
    done = subprocess.run(
        [QD, "trace", "-n", "face", "--", "sh", "-c", "echo hi; exit 5"],
        env=env,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (5, b"hi\n")
    assert ended(server, "face")["code"] == 5


@pytest.mark.parametrize("words", [["--no-such"], [], ["-n", "a/b", "true"]])
def test_wrong_words_run_nothing(env: dict[str, str], words: list[str]) -> None:
    done = trace(env, *words)
    assert done.returncode == 2 and done.stderr.startswith(b"tt: ")


def test_a_bad_token_is_one_line_and_the_code_is_the_commands(
    server: Up, env: dict[str, str]
) -> None:
    token = "qd_send_0000000000000000_" + "0" * 32
    words = ("--url", server.ready["url"], "--token", token, "-n", "bad", "sleep 0.3; exit 6")
    done = trace(env, *words)
    assert done.returncode == 6
    assert len(done.stderr.splitlines()) == 1 and b"token" in done.stderr
    assert not traces(server, "bad")


def test_a_started_stream_may_be_closed(env: dict[str, str]) -> None:
    for closed in ("<&-", ">&-", "2>&-"):
        done = subprocess.run(
            ["bash", "-c", f"{TT} -q -n closed 'echo x; exit 3' {closed}"],
            env=env,
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 3, (closed, done)


def test_an_ignored_hangup_stays_ignored(env: dict[str, str], tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    one = subprocess.Popen(
        ["bash", "-c", f"trap '' HUP; exec {TT} -q -n nohup 'echo; read x < {gate}; exit 9'"],
        env=env,
        stdout=subprocess.PIPE,
    )
    assert one.stdout is not None
    one.stdout.readline()
    one.send_signal(signal.SIGHUP)
    gate.write_text("go\n")
    assert one.wait(30) == 9
    one.stdout.close()
    with contextlib.suppress(ProcessLookupError):
        os.kill(one.pid, 0)
