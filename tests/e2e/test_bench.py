"""The scripts of `./dev bench` measure what they say, here with tiny sizes and no word on time."""

from __future__ import annotations

import importlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench import cli, crowd, dispatch, fleet, idle, lines, rigs, throughput, trace
from bench.ssh import MISSING, Ssh, installed

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def both() -> Iterator[tuple[rigs.Up, Ssh]]:
    """One fleet and one sshd for all of them."""
    if not installed():
        pytest.skip(MISSING)
    with rigs.both() as found:
        yield found


@pytest.mark.parametrize(
    "name",
    sorted(path.stem for path in (ROOT / "bench").glob("*.py") if "CLAIM" in path.read_text()),
)
def test_each_script_says_which_claim_it_measures(name: str) -> None:
    script = importlib.import_module(f"bench.{name}")
    text = script.__doc__ or ""
    assert text
    if script.CLAIM.startswith("P"):  # a goal of docs/performance.md; others measure a part
        assert text.startswith(f"{script.CLAIM}: ")
    assert callable(script.main)


def test_dispatch_and_the_whole_command_are_measured_against_ssh(
    both: tuple[rigs.Up, Ssh],
) -> None:
    up, ssh = both
    for report in (dispatch.measure(up, ssh, 1), cli.measure(up, ssh, 1)):
        assert all(figure.median > 0 for figure in report.figures)
        assert report.ratios[0].goal is not None
        assert report.claim in report.text()


def test_lines_and_throughput_are_measured_against_ssh(both: tuple[rigs.Up, Ssh]) -> None:
    up, ssh = both
    latency = lines.measure(up, ssh, lines=3, turns=1)
    assert {figure.count for figure in latency.figures} == {3}
    speed = throughput.measure(up, ssh, size_mb=1, turns=1)
    assert all(figure.median > 0 for figure in speed.figures)
    assert "server memory" in speed.notes[0]


def test_what_an_idle_agent_costs_is_measured(both: tuple[rigs.Up, Ssh]) -> None:
    up, _ = both
    report = idle.measure(up, watch_s=0.2, settle_s=0.0)
    memory = next(f for f in report.figures if f.what == "agent: resident memory")
    assert 5 < memory.median < 500


def test_what_a_traced_command_costs_is_measured(both: tuple[rigs.Up, Ssh]) -> None:
    up, _ = both
    report = trace.measure(up, rounds=1, lines=3, turns=1)
    counts = {figure.what: figure.count for figure in report.figures}
    assert counts["line: tt to SSE"] == 3 and counts["tt true, its trace begun"] == 1
    peers = {"line: rtail to its web interface", "line: log.io to its web interface"}
    assert peers <= set(counts) or "were not measured" in report.notes[0]
    assert "yardstick" in report.text()


def test_simulated_agents_obey_and_come_back_after_the_fabric_was_killed() -> None:
    with crowd.crowd() as (up, agents):
        report = fleet.measure(up, agents, 20, quick=True)
        assert len(agents.nodes) == 20
        assert agents.told()[0].lost == 5
        done = up_qd(up, "run", "-t", "sim-00007", "--", "sim", "ticks=3", "every=0.01", "exit=3")
    assert done.returncode == 3
    assert b"stdout 0 " in done.stdout
    measured = {figure.what for figure in report.figures}
    assert "20 x true: submit to the answer" in measured


def up_qd(up: rigs.Up, *words: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [rigs.QD, *words], env=up.env, capture_output=True, timeout=30, check=False
    )


def test_a_goal_is_met_from_the_right_side() -> None:
    assert rigs.Ratio("at most", 0.9, 1.0).met
    assert rigs.Ratio("at least", 0.9, 1.0, at_least=True).met is False
    assert rigs.Ratio("no goal", 0.9, None).met is None
