"""`qd service unit|install`: the agent as a service of systemd."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
from pathlib import Path

import click

from quarterdeck.cli.admin import token_in
from quarterdeck.cli.render import say
from quarterdeck.core.install import CONFIG, STATE, UNIT, UNIT_PATH, settings_text, unit_text
from quarterdeck.core.label import check_labels
from quarterdeck.errors import Invalid, Unavailable
from quarterdeck.settings import host_name, read_labels
from quarterdeck.settings.environment import proxy_variables


@click.group()
def service() -> None:
    """Run the agent as a service of systemd."""


@service.command("unit")
@click.option("--config", default=CONFIG, metavar="FILE", help=f"Its settings ({CONFIG}).")
def unit(config: str) -> None:
    """Print the unit, to be put where you like; it holds no token."""
    print(unit_text(qd=_qd(), config=config), end="")


@service.command("install")
@click.option("--join", required=True, metavar="URL", help="Enrol with the server at this address.")
@click.option(
    "--token-file", required=True, metavar="FILE", help="A file with the join token (- for stdin)."
)
@click.option("--name", default="", help="Display name (default: the host's name).")
@click.option("--label", multiple=True, metavar="KEY=VALUE", help="A label of this node.")
@click.option("--root", default="/", metavar="DIR", help="Write below this directory instead of /.")
def install(join: str, token_file: str, name: str, label: tuple[str, ...], root: str) -> None:
    """Enrol this machine, write settings and unit of its agent, and start it.

    The token is used once and not kept. Done again it changes the settings; the node stays.
    """
    labels = read_labels(label, "--label")
    check_labels(labels)
    token = token_in(token_file)
    at = Path(root)
    config, state, unit_path = (at / path.lstrip("/") for path in (CONFIG, STATE, UNIT_PATH))
    try:
        state.mkdir(parents=True, exist_ok=True, mode=0o700)
        told = asyncio.run(_enrol(state, join, token.reveal(), name or host_name()))
        settings = settings_text(state=str(state), url=join, name=name, labels=labels)
        for path, text, mode in (
            (config, settings, 0o600),
            (unit_path, unit_text(qd=_qd(), config=str(config)), 0o644),
        ):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            path.chmod(mode)
    except OSError as error:
        raise Unavailable(
            "install", f"{error.filename} can't be written: {error.strerror}; are you root?"
        ) from error
    say(told)
    _start(at, config)


async def _enrol(state: Path, url: str, token: str, name: str) -> str:
    from quarterdeck.agent.ask import Asker
    from quarterdeck.agent.enrol import Member
    from quarterdeck.service import SystemClock
    from quarterdeck.wire.enrol import AWAITS_APPROVAL

    member = Member(state, SystemClock(), Asker("", proxy_variables()))
    try:
        kept = await member.open(server=url, token=token, name=name)
    except Unavailable as error:
        if error.code != AWAITS_APPROVAL:
            raise
        return error.message
    return f"enrolled as {kept.name} ({kept.credentials.node})"


def _start(root: Path, config: Path) -> None:
    systemctl = shutil.which("systemctl")
    if root != Path("/") or systemctl is None or not Path("/run/systemd/system").is_dir():
        say(f"systemd does not run here; start the agent with: {_qd()} agent --config {config}")
        return
    for words in (("daemon-reload",), ("enable", UNIT), ("restart", UNIT)):
        done = subprocess.run([systemctl, *words], capture_output=True, text=True, check=False)
        if done.returncode:
            raise Unavailable(
                "systemctl", f"`systemctl {' '.join(words)}` failed: {done.stderr.strip()}"
            )
    say(f"{UNIT} runs; its log: journalctl -u {UNIT}")


def _qd() -> str:
    found = Path(sys.executable).with_name("qd")
    if not found.exists():
        raise Invalid("install", f"There is no `qd` beside {sys.executable}: install the package.")
    return str(found)
