"""Words of `qd run` and `qd clone`: none is taken and then ignored, and a clone keeps the rest."""

from __future__ import annotations

from typing import Any

import pytest

from quarterdeck.cli import options
from quarterdeck.cli.main import cli
from quarterdeck.errors import Invalid

RETRY = {
    "attempts": 2,
    "delay_s": 7.0,
    "factor": 3.0,
    "max_delay_s": 60.0,
    "retry_on": [75],
    "never_on": [],
    "elsewhere": True,
    "idempotent": False,
}
PICK = {"count": 2, "by": "label", "label": "rank", "max_cpu": 50.0, "max_memory": 0.0}
BEFORE = {"timeout_s": 30.0, "max_failures": "2", "canary": 0, "retry": RETRY, "pick": PICK}


class Server:
    """Answers a preview with the cloned run's request, and keeps what is asked for."""

    def __init__(self) -> None:
        self.asked: dict[str, Any] = {}

    def post(self, path: str, given: dict[str, Any], *_: object) -> dict[str, Any]:
        if path.endswith("/clone/preview"):
            return {"request": BEFORE}
        self.asked = given
        return {"id": "r2", "state": "pending"}


def asked(monkeypatch: pytest.MonkeyPatch, *words: str) -> dict[str, Any]:
    server = Server()
    monkeypatch.setattr(options, "connect", lambda **_: server)
    cli.main(["run", "-t", "all", "--detach", *words, "--", "true"], standalone_mode=False)
    return server.asked


def cloned(monkeypatch: pytest.MonkeyPatch, *words: str) -> dict[str, Any]:
    server = Server()
    monkeypatch.setattr(options, "connect", lambda **_: server)
    cli.main(["clone", "r1", "--detach", *words], standalone_mode=False)
    return server.asked


def test_a_time_of_nothing_is_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("--retry", "1", "--retry-delay", "0", "--retry-max-delay", "0")
    retry = asked(monkeypatch, *words)["retry"]
    assert (retry["delay_s"], retry["max_delay_s"]) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--retry-max-delay", "0"], "say how often"),
        (["--pick", "1", "--max-cpu", "0"], "--max-cpu 0 would fit no node"),
        (["--pick", "1", "--max-memory", "0"], "--max-memory 0 would fit no node"),
        (["--pick", "0"], "--pick 0 picks no node"),
        (["--max-cpu", "10"], "say how many"),
        (["--on-limit", "stop"], "needs a limit"),
        (["--on-timeout", "alert"], "needs a --timeout"),
    ],
)
def test_words_that_would_do_nothing_are_refused(
    words: list[str], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Invalid, match=sentence):
        asked(monkeypatch, *words)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["run", "-t", "all", "--fold", "--detach", "--", "true"], "--detach shows none"),
        (["run", "-t", "all", "--fold-by", "stdout", "--preview", "--", "true"], "--preview shows"),
        (["clone", "r1", "--fold", "--detach"], "--detach shows none"),
        (["clone", "r1", "--fold", "--preview"], "--preview shows none"),
        (["lock", "a", "--json", "--", "true"], "--json is for --list"),
    ],
)
def test_what_shows_nothing_is_refused_beside_how_to_show_it(
    words: list[str], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(options, "connect", lambda **_: Server())
    with pytest.raises(Invalid, match=sentence):
        cli.main(words, standalone_mode=False)


def test_a_clone_with_more_tries_keeps_how_they_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cloned(monkeypatch, "--retry", "3") == {"retry": RETRY | {"attempts": 4}}
    assert cloned(monkeypatch, "--retry-max-delay", "0") == {"retry": RETRY | {"max_delay_s": 0.0}}


def test_a_clone_may_alert_at_the_timeout_that_the_run_had(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cloned(monkeypatch, "--on-timeout", "alert") == {"on_timeout": "alert"}
    assert cloned(monkeypatch, "--on-limit", "stop") == {"on_limit": "stop"}
    with pytest.raises(Invalid, match="needs a --timeout"):
        cloned(monkeypatch, "--on-timeout", "alert", "--timeout", "0")


def test_a_clone_changes_a_part_of_the_pick_or_takes_it_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert cloned(monkeypatch, "--pick", "3") == {"pick": PICK | {"count": 3}}
    figure = cloned(monkeypatch, "--by", "random")
    assert figure == {"pick": PICK | {"by": "random", "label": ""}}
    assert cloned(monkeypatch, "--pick", "0") == {"pick": None}


def test_what_a_clone_is_not_told_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cloned(monkeypatch, "--title", "again") == {"title": "again"}


def test_an_empty_target_of_a_clone_is_not_every_node(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Invalid, match="target is empty"):
        cloned(monkeypatch, "-t", "")
