"""What a node says of itself: nonsense is refused, and what was taken in steers no terminal."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from quarterdeck.cli.node import _row, described
from quarterdeck.errors import Invalid
from quarterdeck.wire.beat import check_figures, check_names, check_words
from quarterdeck.wire.run import FactsMessage, Heartbeat, LoadMessage

NAN, INF = float("nan"), float("inf")
BEAT = Heartbeat(
    node="n1",
    session="s1",
    number=1,
    name="web1",
    at=1.8e9,
    facts=FactsMessage(os="linux", kernel="6.1", addresses=("10.0.0.1",), cpus=4),
    load=LoadMessage(cpu_percent=12.5, load1=0.5, memory_total=1 << 40),
)
NODE: dict[str, Any] = {
    "id": "n1",
    "node": "web1",
    "own_name": "web1",
    "state": "ready",
    "draining": False,
    "approved": True,
    "enrolled_at": "2026-01-02T03:04:05Z",
    "last_seen": "2026-01-02T03:04:05Z",
    "labels": {"role": "web"},
    "own_labels": {},
    "server_labels": {},
    "version": "1",
    "clock_offset_s": 0.0,
    "os": "linux",
    "kernel": "6.1",
    "arch": "x86_64",
    "cpus": 4,
    "addresses": ["10.0.0.1"],
    "cpu_percent": 1.0,
    "load1": 0.1,
    "memory_total": 1,
    "memory_used": 1,
    "disk_total": 1,
    "disk_free": 1,
    "attempts": 0,
    "unknown_attempts": [],
    "problem": "",
}


def looked_at(beat: Heartbeat) -> None:
    check_figures(beat)
    check_words(beat)


def test_a_beat_of_a_healthy_node_is_taken() -> None:
    check_names(BEAT)
    looked_at(BEAT)


@pytest.mark.parametrize(
    "lie",
    [
        *({"at": at} for at in (NAN, INF, -INF, 1e300)),
        *({"load": LoadMessage(cpu_percent=figure)} for figure in (NAN, INF, 1e9)),
        *({"load": LoadMessage(load1=figure)} for figure in (NAN, -INF, -1e9)),
        {"load": LoadMessage(memory_total=1 << 63)},
        {"facts": FactsMessage(cpus=-(1 << 40))},
        {"facts": FactsMessage(kernel="6.1\x1b]0;gotcha\x07")},
        {"facts": FactsMessage(os="linux\nstate     ready")},
        {"facts": FactsMessage(arch="x" * 5000)},
        {"facts": FactsMessage(addresses=("10.0.0.1", "\x9b2J"))},
        {"facts": FactsMessage(addresses=("a",) * 5000)},
        {"full": "\x1b[2J"},
    ],
)
def test_figures_and_words_that_nobody_can_be_shown_are_refused(lie: dict[str, Any]) -> None:
    with pytest.raises(Invalid):
        looked_at(msgspec.structs.replace(BEAT, **lie))


@pytest.mark.parametrize("key", ["cpu_percent", "load1", "clock_offset_s"])
def test_a_figure_that_is_missing_shows_as_a_question_mark(key: str) -> None:
    node = {**NODE, key: None}
    assert any("?" in cell for cell in _row(node))
    assert described(node)


@pytest.mark.parametrize("key", ["os", "kernel", "arch", "version", "problem", "own_name"])
def test_what_a_node_says_of_itself_steers_no_terminal_and_forges_no_line(key: str) -> None:
    lines = described({**NODE, key: "\x1b]0;gotcha\x07evil\x1b[2J\r\nstate     ready"})
    assert len([line for line in lines if line.startswith("state ")]) == 1
    assert not any(c in line for line in lines for c in "\x1b\x07\r\n")
