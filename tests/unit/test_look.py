"""What `qd runs`, `show` and `cancel` say, from answers of a server that is written by hand."""

from __future__ import annotations

import inspect
import io
import sys
from typing import Any

import pytest
from click.testing import CliRunner

from quarterdeck.cli import look
from quarterdeck.cli.main import cli
from quarterdeck.cli.render import table

NOBODY = {"queued": 0, "running": 0, "retrying": 0}


class Answers:
    """A server that gives one answer to everything."""

    def __init__(self, answer: dict[str, Any]) -> None:
        self._answer = answer

    def get(self, path: str, **query: Any) -> dict[str, Any]:
        return self._answer

    def post(self, path: str, **query: Any) -> dict[str, Any]:
        return self._answer


def said(capsys: pytest.CaptureFixture[str], command: Any, answer: Any, **given: Any) -> str:
    inspect.unwrap(command.callback)(server=Answers(answer), as_json=False, **given)
    out = capsys.readouterr()
    return out.out + out.err


@pytest.mark.parametrize("asked", [{"state": "running"}, {"label": "a=b"}, {"before": "r1"}])
def test_a_list_that_is_empty_for_its_filter_does_not_say_that_there_are_no_runs(
    capsys: pytest.CaptureFixture[str], asked: dict[str, str]
) -> None:
    none = {"state": None, "label": None, "before": None}
    text = said(capsys, look.runs, {"items": []}, limit=20, **(none | asked))
    assert "No run matches" in text and "No runs yet" not in text
    assert "No runs yet" in said(capsys, look.runs, {"items": []}, limit=20, **none)


def test_a_length_is_a_figure_only_when_it_is_known() -> None:
    empty = {"bytes": 0, "sha256": "", "dropped": 0}
    ended = {"state": "ended", "outcome": "succeeded", "stdout": empty | {"sha256": "e3b0"}}
    assert look._length({"state": "running", "outcome": None, "stdout": empty}, "stdout") == "-"
    assert look._length(ended, "stdout") == "0 B"
    assert look._length(ended | {"outcome": "lost"}, "stdout") == "0 B"
    assert look._length(ended | {"outcome": "lost", "stdout": empty}, "stdout") == "-"
    assert look._length({}, "stdout") == ""


def test_a_cancel_says_what_is_being_stopped(capsys: pytest.CaptureFixture[str]) -> None:
    made = {"id": "r1", "state": "running", "outcome": None, "counts": NOBODY | {"running": 2}}
    one = said(capsys, look.cancel, made, run_id="r1", node="vm-2")
    assert "its task on vm-2 is being stopped" in one
    assert "2 tasks of it are being stopped" in said(
        capsys, look.cancel, made | {"state": "stopping"}, run_id="r1", node=None
    )
    over = made | {"state": "ended", "outcome": "cancelled"}
    assert said(capsys, look.cancel, over, run_id="r1", node=None) == "run r1 is cancelled\n"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["-t", ""], "The target is empty"),
        (["-t", "all", "--umask", "999"], "three digits from 0 to 7"),
        (["-t", "all", "--max-output", "9" * 40], "too large: at most 1024T"),
        (["-t", "all", "--timeout", "9" * 40], "too long: at most 366d"),
    ],
)
def test_words_that_no_server_takes_get_a_sentence(words: list[str], told: str) -> None:
    done = CliRunner().invoke(
        cli, ["run", *words, "--url", "http://127.0.0.1:1", "--token", "x", "true"]
    )
    assert told in done.output + str(done.exception)


def test_a_list_of_nodes_for_an_empty_target_gets_a_sentence_too() -> None:
    server = ["--url", "http://127.0.0.1:1", "--token", "x"]
    done = CliRunner().invoke(cli, ["nodes", "-t", " ", *server])
    assert "The target is empty" in str(done.exception)


def test_a_command_that_is_not_there_is_told_with_what_is_near() -> None:
    done = CliRunner().invoke(cli, ["runn", "-t", "all"])
    assert done.exit_code == 2 and "No such command 'runn'. Did you mean run?" in done.output
    done = CliRunner().invoke(cli, ["zzzz"])
    assert done.exit_code == 2 and "Did you mean" not in done.output


def test_what_stands_before_a_wrong_amount_is_said_once() -> None:
    done = CliRunner().invoke(cli, ["run", "-t", "all", "--max-parallel", "x", "--", "true"])
    assert "Invalid value for '--max-parallel': 'x' is no amount" in done.output


def test_how_tries_wait_is_told_as_it_was_ordered() -> None:
    retry = {"attempts": 4, "delay_s": 0.5, "factor": 2.0, "max_delay_s": 300.0, "elsewhere": True}
    told = "3 more tries, the first up to 0.5 s later, each wait 2 times as long, 300 s at most"
    assert look._retry(retry) == f"{told}, elsewhere"
    once = retry | {"attempts": 2, "elsewhere": False}
    assert look._retry(once) == "1 more try, the first up to 0.5 s later"


def test_names_and_ids_are_never_broken_over_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(screen, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setenv("COLUMNS", "80")
    headers = ("NODE", "STATE", "TOOK", "ATTEMPT", "WHAT")
    row = ("db1.frankfurt.example.org", "succeeded", "12.0 s", "06gzqmet6jm9zmkg-0-1", "word " * 40)
    table(headers, [row])
    assert row[0] in screen.getvalue() and row[3] in screen.getvalue()


def test_a_task_that_waits_says_for_what() -> None:
    node = {"node": "vm-7", "state": "ready", "draining": False, "problem": "", "last_seen": None}
    task = {"state": "queued", "node_id": "n7"}
    assert "no node fits yet" in look.waits(task | {"node_id": ""}, None)
    assert "last seen" in look.waits(task, node | {"state": "silent"})
    assert "vm-7 drains" in look.waits(task, node | {"draining": True})
    assert "slots" in look.waits(task, node)
    assert look.waits(task | {"state": "running"}, node | {"draining": True}) == ""
