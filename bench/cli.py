"""P2: the whole process `qd run -t NODE -- true` against `ssh HOST true`."""

from __future__ import annotations

import sys

from bench import rigs
from bench.ssh import Ssh

CLAIM = "P2"
ROUNDS = 30


def measure(up: rigs.Up, ssh: Ssh, rounds: int) -> rigs.Report:
    """Whole processes, by turns."""
    report = rigs.Report("cli", CLAIM, "`qd run -t NODE -- true` at most 0.7 x ssh")
    rigs.floors(report, up.data, rounds)
    took = rigs.by_turns(
        {
            "ours": rigs.shell(up.run("true"), up.env),
            "plain": rigs.shell([*ssh.plain, "true"]),
            "control": rigs.shell([*ssh.control, "true"]),
            "help": rigs.shell([rigs.QD, "--help"], up.env),
            "python": rigs.shell([sys.executable, "-I", "-c", "pass"]),
        },
        rounds,
    )
    ours = report.add("qd run -t NODE -- true", took["ours"], "ms")
    plain = report.add("ssh HOST true", took["plain"], "ms")
    report.add("ssh over a ControlMaster", took["control"], "ms")
    report.add("qd --help", took["help"], "ms")
    report.add("floor: python -I -c pass", took["python"], "ms")
    report.compare("ours / ssh", ours.median / plain.median, 0.7)
    return report


def main(quick: bool) -> rigs.Report:
    with rigs.both() as (up, ssh):
        return measure(up, ssh, 2 if quick else ROUNDS)


if __name__ == "__main__":
    rigs.entry(main)
