"""The texts that bring an agent onto a machine: a line for a shell, its settings, its unit.

No token is in them that others could read: it goes through a pipe, once, and what is kept is the
node's own key.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from posixpath import dirname

HOME = "/opt/quarterdeck"
CONFIG = "/etc/quarterdeck/agent.toml"
STATE = "/var/lib/quarterdeck/agent"
UNIT = "quarterdeck-agent.service"
UNIT_PATH = f"/etc/systemd/system/{UNIT}"
DEFAULT_PACKAGE = "quarterdeck"
_HAS_PYTHON = (
    'python3 -c "import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))" '
    "2>/dev/null </dev/null"
)


def join_line(url: str, token: str) -> str:
    """What runs an agent in the foreground."""
    return f"qd agent --join {shlex.quote(url)} --token {token}"


def install_line(
    url: str,
    token: str,
    package: str = DEFAULT_PACKAGE,
    agents: Mapping[str, str] | None = None,
) -> str:
    """What installs the package, enrols the machine and starts the agent as a service: for any
    POSIX shell, as root or with sudo. The token is no argument of any process.

    `agents` are the architectures for which the server at `url` gives the agent away, and the
    SHA-256 of each: a machine without a Python for the package takes that. The line came to its
    reader through the API, so a certificate that the machine doesn't know yet is no danger.
    """
    steps = f"python3 -m venv {HOME} && {HOME}/bin/pip install -q {shlex.quote(package)} </dev/null"
    if agents:
        steps = f"if {_HAS_PYTHON}; then {steps}; else {_fetch(url, agents)}; fi"
    steps += f" && {HOME}/bin/qd service install --join {shlex.quote(url)} --token-file -"
    return f"echo {token} | $(command -v sudo) sh -c {shlex.quote(steps)}"


def _fetch(url: str, agents: Mapping[str, str]) -> str:
    """Steps that unpack the agent of this architecture, if it is the one that was meant."""
    sums = " ".join(f"{arch}) s={digest} ;;" for arch, digest in sorted(agents.items()))
    here = shlex.quote(f"{url}/download/quarterdeck-agent-linux-")
    return (
        f"a=$(uname -m); case $a in {sums} *) s= ;; esac; f=$(mktemp) && "
        f"{{ curl -fskLo $f {here}$a.tar.gz || "
        f"wget -qO $f --no-check-certificate {here}$a.tar.gz; }} && "
        f'echo "$s  $f" | sha256sum -c - >/dev/null && mkdir -p {dirname(HOME)} && '
        f"tar -xzf $f -C {dirname(HOME)} && rm $f"
    )


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
