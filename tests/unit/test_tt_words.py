"""The words of a command line of tt."""

from __future__ import annotations

import pytest

from quarterdeck.tt.words import Usage, is_id, is_name, parse


def test_options_end_where_the_command_begins() -> None:
    wanted = parse(["-n", "deploy", "-k", "make", "-n", "all"], "tt")
    assert wanted.name == "deploy" and wanted.keep
    assert wanted.command == ["make", "-n", "all"] and not wanted.copy


@pytest.mark.parametrize("words", [["-nx"], ["--name=x"], ["--name", "x"], ["-qkn", "x"]])
def test_a_value_may_stand_apart_or_not(words: list[str]) -> None:
    assert parse([*words, "true"], "tt").name == "x"


def test_short_flags_may_stand_together() -> None:
    wanted = parse(["-qk", "true"], "tt")
    assert wanted.quiet and wanted.keep


def test_a_single_dash_copies_standard_input_but_not_after_two() -> None:
    assert parse(["-n", "x", "-"], "tt").copy
    assert not parse(["-n", "x", "--", "-"], "tt").copy


def test_two_dashes_end_the_options() -> None:
    assert parse(["--", "--pty", "x"], "tt").command == ["--pty", "x"]


@pytest.mark.parametrize(
    "words",
    [[], ["-n"], ["-n", "x"], ["-n", "a b", "true"], ["-n", ".x", "true"], ["--what", "true"],
     ["-n", "x" * 101, "true"], ["--id", "a\nb", "true"], ["--keep=1", "true"], ["-n", "x\n", "y"]],
)  # fmt: skip
def test_what_cannot_be_used_is_told_before_anything_runs(words: list[str]) -> None:
    with pytest.raises(Usage, match="tt: "):
        parse(words, "tt")


def test_a_wrong_name_in_the_environment_does_not_keep_the_command_from_running(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TASK_TRACER_NAME", "a b")
    wanted = parse(["true"], "tt")
    assert len(wanted.name) == 14 and wanted.name.isdigit()
    assert "TASK_TRACER_NAME" in wanted.warning


def test_the_environment_names_a_trace_that_the_words_do_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TASK_TRACER_NAME", "nightly")
    assert parse(["true"], "tt").name == "nightly"
    assert parse(["-n", "other", "true"], "tt").name == "other"


def test_names_are_plain_and_ids_are_one_line() -> None:
    assert is_name("A.b_c-1") and is_name("x" * 100)
    assert not any(map(is_name, ("", "-a", "_a", "ä", "a/b", "a\n")))
    assert is_id("web 1 (ü)") and not any(map(is_id, ("", "a\tb", "x" * 256, "\x9b", "\udcff")))
