"""What installs an agent: the unit is one that systemd takes, and no token is where others read."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

from quarterdeck.cli.main import cli
from quarterdeck.core.install import install_line, join_line, settings_text, unit_text

TOKEN = "qd_join_" + "0" * 16 + "_" + "1" * 32 + "_" + "a" * 64
QD = str(Path(sys.executable).with_name("qd"))


def test_the_unit_leaves_tasks_alone_and_comes_back() -> None:
    lines = unit_text(qd=QD, config="/etc/quarterdeck/agent.toml").splitlines()
    for line in (
        f"ExecStart={QD} agent --config /etc/quarterdeck/agent.toml",
        "KillMode=process",
        "Delegate=yes",
        "Restart=always",
        "OOMPolicy=continue",
        "StateDirectory=quarterdeck",
        "WantedBy=multi-user.target",
    ):
        assert line in lines
    assert "qd_join" not in "\n".join(lines)


def test_the_command_prints_the_unit_of_this_installation() -> None:
    printed = CliRunner().invoke(cli, ["service", "unit", "--config", "/x/agent.toml"])
    assert printed.output == unit_text(qd=QD, config="/x/agent.toml")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is missing")
@pytest.mark.parametrize("name", ["plain.toml", "od d%i $HOME.toml"])
def test_systemd_takes_the_unit(tmp_path: Path, name: str) -> None:
    unit = tmp_path / "quarterdeck-agent.service"
    unit.write_text(unit_text(qd=QD, config=str(tmp_path / name)))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    complaints = [line for line in done.stderr.splitlines() if unit.name in line]
    assert (done.returncode, complaints) == (0, []), done


def test_the_line_is_one_pipe_and_the_token_is_no_argument() -> None:
    line = install_line("https://qd.example:7333", TOKEN, "/srv/my wheels/q.whl")
    left, _, right = line.partition(" | ")
    assert left == f"echo {TOKEN}"  # a word of the shell itself: no process
    assert TOKEN not in right
    words = shlex.split(right.replace("$(command -v sudo) ", ""))
    assert words[:2] == ["sh", "-c"] and len(words) == 3
    assert "pip install -q '/srv/my wheels/q.whl' </dev/null" in words[2]
    assert words[2].endswith("service install --join https://qd.example:7333 --token-file -")


def test_a_machine_without_python_fetches_the_agent_of_its_architecture_and_no_other() -> None:
    line = install_line("https://qd.example:7333", TOKEN, agents={"x86_64": "ab" * 32})
    script = shlex.split(line.partition(" | ")[2].replace("$(command -v sudo) ", ""))[2]
    assert TOKEN not in script
    assert "pip install -q quarterdeck" in script
    assert f"x86_64) s={'ab' * 32} ;;" in script
    assert "https://qd.example:7333/download/quarterdeck-agent-linux-$a.tar.gz" in script
    checked = script.index("sha256sum -c")
    assert checked < script.index("tar -xzf") < script.index("qd service install")
    parsed = subprocess.run(["sh", "-n", "-c", script], capture_output=True, check=False)
    assert (parsed.returncode, parsed.stderr) == (0, b"")


def test_what_comes_from_outside_stays_one_word_of_the_shell() -> None:
    evil = "https://x/;touch /tmp/y'"
    line = install_line(evil, TOKEN).partition(" | ")[2].replace("$(command -v sudo) ", "")
    script = shlex.split(line)[2]
    assert evil in shlex.split(script)
    assert shlex.split(join_line(evil, TOKEN))[3] == evil


def test_the_settings_file_is_read_as_it_was_meant() -> None:
    text = settings_text(
        state="/var/lib/q", url="https://x", name="web1", labels={"a.b/c": 'New "York"'}
    )
    assert tomllib.loads(text) == {
        "state": "/var/lib/q",
        "join": "https://x",
        "name": "web1",
        "labels": {"a.b/c": 'New "York"'},
    }
