"""Ids: sorted by age, read back whole, and safe as a directory, a subject and a word."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from quarterdeck.core.ids import (
    ALPHABET,
    RANDOM_BYTES,
    TOKEN,
    attempt_id,
    made_ms,
    node_id,
    run_id,
    split_attempt,
    task_id,
)
from quarterdeck.errors import Invalid

RUN = "0123456789abcdef"
times = st.integers(0, 2**48 - 1)
chance = st.binary(min_size=RANDOM_BYTES, max_size=RANDOM_BYTES)

thorough = settings(max_examples=300)


@thorough
@given(times, chance, times, chance)
def test_run_ids_sort_by_the_time_they_were_made(
    early: int, one: bytes, late: int, other: bytes
) -> None:
    if early == late:
        return
    assert (run_id(early, one) < run_id(late, other)) == (early < late)


@thorough
@given(times, chance)
def test_a_run_id_is_sixteen_letters_that_hold_time_and_chance(unix_ms: int, random: bytes) -> None:
    made = run_id(unix_ms, random)
    assert re.fullmatch(f"[{ALPHABET}]{{16}}", made)
    number = 0
    for letter in made:
        number = number * 32 + ALPHABET.index(letter)
    assert number >> 32 == unix_ms == made_ms(made)
    assert number & 0xFFFFFFFF == int.from_bytes(random)


def test_more_chance_than_needed_is_cut_and_does_not_touch_the_time() -> None:
    assert run_id(7, b"abcdefgh") == run_id(7, b"abcd")


@thorough
@given(times, chance, st.integers(0, 9_999_999), st.integers(1, 9999))
def test_an_attempt_id_is_taken_apart_as_it_was_put_together(
    unix_ms: int, random: bytes, position: int, number: int
) -> None:
    run = run_id(unix_ms, random)
    made = attempt_id(task_id(run, position), number)
    assert split_attempt(made) == (run, position, number)
    assert TOKEN.fullmatch(made)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "../x",
        "..",
        "/",
        "x" * 100_000,
        f"{RUN}-0",
        f"{RUN}-0-",
        f"{RUN}--1",
        f"{RUN}-0-1-1",
        f"{RUN}-0-1\n",
        f"\n{RUN}-0-1",
        f" {RUN}-0-1",
        f"{RUN}-0-1/",
        f"../{RUN}-0-1",
        f"{RUN}-0-1/../x",
        f"{RUN}-0-1\0",
        f"{RUN}--1-1",
        f"{RUN}-0-+1",
        f"{RUN}-0-1.0",
        f"{RUN}-12345678-1",
        f"{RUN}-0-12345",
        f"{RUN[1:]}-0-1",
        f"{RUN.upper()}-0-1",
        f"{RUN[:15]}é-0-1",
        f"{RUN[:15]}*-0-1",
        f"{RUN[:15]}.-0-1",
    ],
)
def test_what_is_no_attempt_id_is_refused(text: str) -> None:
    with pytest.raises(Invalid, match="not an attempt id") as caught:
        split_attempt(text)
    assert len(caught.value.message) < 500


def test_digits_of_other_scripts_are_refused() -> None:
    with pytest.raises(Invalid):
        split_attempt(f"{RUN}-\u0663-1")


def test_an_attempt_has_one_spelling() -> None:
    with pytest.raises(Invalid):
        split_attempt(f"{RUN}-00-01")


@thorough
@given(st.text(max_size=40))
@example("0123456789abcdef-0-1")
def test_any_text_is_an_attempt_id_or_invalid(text: str) -> None:
    try:
        run, _, _ = split_attempt(text)
    except Invalid:
        return
    assert text.startswith(run + "-")
    assert not set("/\\.\0 \n*>") & set(text)


def test_a_node_id_depends_on_the_key_and_on_nothing_else() -> None:
    assert node_id("UABC") == node_id("UABC") == "n" + node_id("UABC")[1:]
    assert node_id("UABC") != node_id("UABD")


@thorough
@given(st.text(st.characters(codec="utf-8")))
def test_a_node_id_is_a_short_lower_case_token(key: str) -> None:
    assert re.fullmatch(r"n[a-z2-7]{15}", node_id(key))
