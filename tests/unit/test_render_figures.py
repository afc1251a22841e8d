"""Times, sizes and endings, as people see them."""

from __future__ import annotations

from datetime import datetime

import pytest

from quarterdeck.cli.render import ago, ending, size, took, until

START = "2031-05-06T07:08:09+00:00"
NOW = datetime.fromisoformat(START).timestamp()


MIB = 1 << 20


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (-5, "0 s ago"),
        (0, "0 s ago"),
        (119.9, "119 s ago"),
        (120, "2 min ago"),
        (7199, "119 min ago"),
        (7200, "2 h ago"),
        (172_799, "47 h ago"),
        (172_800, "2 d ago"),
        (1e9, "11574 d ago"),
    ],
)
def test_an_age_is_a_number_and_a_unit(seconds: float, shown: str) -> None:
    assert ago(START, NOW + seconds) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(3600 * 2 - 0.5, "in 2 h"), (29.5, "in 30 s"), (86_400 * 30 - 1, "in 30 d"), (-5, "5 s ago")],
)
def test_what_is_to_come_is_not_said_to_come_too_early(seconds: float, shown: str) -> None:
    assert until(START, NOW - seconds) == shown


def test_what_never_was_has_no_age() -> None:
    assert ago(None) == ago("") == "never"


@pytest.mark.parametrize(
    ("end", "shown"),
    [
        ("2031-05-06T07:08:09.040Z", "0.0 s"),
        ("2031-05-06T07:08:10.250Z", "1.2 s"),
        ("2031-05-06T07:09:09Z", "1 min 0 s"),
        ("2031-05-06T09:08:08Z", "119 min 59 s"),
        ("2031-05-06T09:08:09Z", "2 h 0 min"),
        ("2031-05-06T09:08:10+02:00", "1.0 s"),
    ],
)
def test_a_time_taken_is_short(end: str, shown: str) -> None:
    assert took(START, end) == shown
    assert took(None, end) == took(START, None) == ""


@pytest.mark.parametrize(
    ("number", "shown"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (MIB, "1.0 MiB"),
        (5 << 30, "5.0 GiB"),
        (3 << 40, "3.0 TiB"),
        (2 << 50, "2048.0 TiB"),
    ],
)
def test_a_size_has_a_unit(number: int, shown: str) -> None:
    assert size(number) == shown


def test_an_ending_names_signal_or_exit_code() -> None:
    assert ending({"outcome": "succeeded", "exit_code": 0}) == "succeeded"
    assert ending({"outcome": "failed", "exit_code": 3}) == "failed, exit 3"
    assert (
        ending({"outcome": "cancelled", "signal": 15, "exit_code": 143}) == "cancelled, signal 15"
    )
    assert ending({"outcome": None, "state": "running"}) == "running"
