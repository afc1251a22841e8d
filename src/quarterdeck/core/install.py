"""The texts that bring an agent onto a machine: a line for a shell, its settings, its unit.

No token is in them that others could read: it goes through a pipe, once, and what is kept is the
node's own key.
"""

from __future__ import annotations

import json
import shlex

HOME = "/opt/quarterdeck"
CONFIG = "/etc/quarterdeck/agent.toml"
STATE = "/var/lib/quarterdeck/agent"
UNIT = "quarterdeck-agent.service"
UNIT_PATH = f"/etc/systemd/system/{UNIT}"
DEFAULT_PACKAGE = "quarterdeck"


def join_line(url: str, token: str) -> str:
    """What runs an agent in the foreground."""
    return f"qd agent --join {shlex.quote(url)} --token {token}"


def install_line(url: str, token: str, package: str = DEFAULT_PACKAGE) -> str:
    """What installs the package, enrols the machine and starts the agent as a service: for any
    POSIX shell, as root or with sudo. The token is no argument of any process."""
    steps = " && ".join(
        (
            f"python3 -m venv {HOME}",
            f"{HOME}/bin/pip install -q {shlex.quote(package)} </dev/null",
            f"{HOME}/bin/qd service install --join {shlex.quote(url)} --token-file -",
        )
    )
    return f"echo {token} | $(command -v sudo) sh -c {shlex.quote(steps)}"


def settings_text(*, state: str, url: str, name: str, labels: dict[str, str]) -> str:
    """The settings file of an agent that has enrolled."""
    # a JSON string is also one of TOML
    lines = [f"state = {json.dumps(state)}", f"join = {json.dumps(url)}"]
    if name:
        lines.append(f"name = {json.dumps(name)}")
    if labels:
        pairs = (f"{json.dumps(key)} = {json.dumps(text)}" for key, text in sorted(labels.items()))
        lines += ["", "[labels]", *pairs]
    return "\n".join(lines) + "\n"


def unit_text(*, qd: str, config: str) -> str:
    """A systemd unit for the agent.

    A stop ends the agent alone: tasks run on under their shims and are taken up at the next start
    (KillMode). A task that is out of memory takes nobody along (OOMPolicy). The agent may make
    cgroups of its own for tasks (Delegate).
    """
    return f"""[Unit]
Description=quarterdeck agent
After=network-online.target
Wants=network-online.target
StartLimitIntervalSec=0

[Service]
ExecStart={_word(qd)} agent --config {_word(config)}
Restart=always
RestartSec=2
KillMode=process
Delegate=yes
OOMPolicy=continue
TasksMax=infinity
StateDirectory=quarterdeck
StateDirectoryMode=0700

[Install]
WantedBy=multi-user.target
"""


def _word(path: str) -> str:
    """A word of a command line as systemd reads it."""
    escaped = path.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"' if escaped != path or " " in path else path
