"""P1: from the order to the result of `true`, for a program that is already connected."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import asyncssh

from bench import rigs
from bench.ssh import Ssh
from quarterdeck.client.http import Connection

CLAIM = "P1"
ROUNDS = 100


def measure(up: rigs.Up, ssh: Ssh, rounds: int) -> rigs.Report:
    """Ours, asyncssh on an open connection, ssh over a ControlMaster, and plain ssh, by turns."""
    report = rigs.Report(
        "dispatch", CLAIM, "submit to result of `true` at most 1.0 x ssh over a ControlMaster"
    )
    rigs.floors(report, up.data, rounds)
    with asyncio.Runner() as runner:
        peer = runner.run(_connected(ssh))
        took = rigs.by_turns(
            {
                "ours": _ours(up),
                "asyncssh": lambda: runner.run(_asyncssh(peer)),
                "control": rigs.shell([*ssh.control, "true"]),
                "plain": rigs.shell([*ssh.plain, "true"]),
            },
            rounds,
            warm=min(rounds, 5),
        )
        peer.close()
        runner.run(peer.wait_closed())
    ours = report.add("quarterdeck, warm HTTP client", took["ours"], "ms")
    asyncssh_ = report.add("asyncssh, open connection, in-process", took["asyncssh"], "ms")
    control = report.add("ssh over a ControlMaster", took["control"], "ms")
    plain = report.add("ssh", took["plain"], "ms")
    report.compare("ours / ControlMaster", ours.median / control.median, 1.0)
    report.compare("ours / asyncssh (stretch 1.0)", ours.median / asyncssh_.median, None)
    report.compare("ours / ssh", ours.median / plain.median, None)
    return report


def _ours(up: rigs.Up) -> Callable[[], object]:
    ready = up.ready
    server = Connection(ready["url"], ready["token"])
    node = up.node

    def call() -> None:
        ended = server.post("/v1/runs", {"target": node, "argv": ["true"]}, wait="30s")
        if ended["outcome"] != "succeeded":
            raise SystemExit(f"The run ended {ended['outcome']}.")

    return call


async def _connected(ssh: Ssh) -> asyncssh.SSHClientConnection:
    return await asyncssh.connect(
        "127.0.0.1",
        ssh.port,
        username=ssh.user,
        client_keys=[str(ssh.key)],
        known_hosts=str(ssh.folder / "known_hosts"),
        config=None,
    )


async def _asyncssh(peer: asyncssh.SSHClientConnection) -> None:
    await peer.run("true", check=True)


def main(quick: bool) -> rigs.Report:
    with rigs.both() as (up, ssh):
        return measure(up, ssh, 5 if quick else ROUNDS)


if __name__ == "__main__":
    rigs.entry(main)
