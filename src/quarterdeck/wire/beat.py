"""What a heartbeat may say: figures that are numbers, words that are short and steer no terminal.

Everybody is shown what a node says of itself, so one that says nonsense is refused as a whole: its
figures would stand in the answer about the whole fleet, and a NaN in JSON is a null.
"""

from __future__ import annotations

import re

import msgspec

from quarterdeck.core.ids import TOKEN, check_name
from quarterdeck.core.label import check_labels
from quarterdeck.errors import Invalid
from quarterdeck.wire.run import Heartbeat

MOST = 1e6  # processors at work, or percent
LATEST = 253_402_300_800.0  # the year 10,000
WHOLE = 1 << 53  # what JSON carries exactly
MAX_WORD = 512
MAX_FULL = 2048
MAX_ADDRESSES = 1024
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def check_names(beat: Heartbeat) -> None:
    """Raises Invalid for what no node may call itself."""
    if TOKEN.fullmatch(beat.session) is None:
        raise Invalid("session", f"{beat.session[:80]!r} names no session.")
    check_name(beat.name)
    check_labels(beat.labels)


def check_figures(beat: Heartbeat) -> None:
    """Raises Invalid for a figure that is none; every beat is looked at."""
    load, facts = beat.load, beat.facts
    for name, figure, most in (
        ("at", beat.at, LATEST),
        ("cpu_percent", load.cpu_percent, MOST),
        ("load1", load.load1, MOST),
        ("memory_total", load.memory_total, WHOLE),
        ("memory_used", load.memory_used, WHOLE),
        ("disk_total", load.disk_total, WHOLE),
        ("disk_free", load.disk_free, WHOLE),
        ("attempts", load.attempts, MOST),
        ("attempt_count", beat.attempt_count, MOST),
        ("cpus", facts.cpus, MOST),
        ("slots", facts.slots, WHOLE),
    ):
        if not -most <= figure <= most:  # also for what is no number
            raise Invalid("figure", f"A beat says that {name} is {figure}.")


def check_words(beat: Heartbeat) -> None:
    """Raises Invalid for facts that nobody can be shown."""
    words = msgspec.structs.asdict(beat.facts)
    addresses = words.pop("addresses")
    if len(addresses) > MAX_ADDRESSES:
        raise Invalid("fact", f"A beat names {len(addresses)} addresses.")
    for name, word in words.items():
        if isinstance(word, str):
            _check_word(name, word, MAX_WORD)
    for address in addresses:
        _check_word("addresses", address, MAX_WORD)
    _check_word("full", beat.full, MAX_FULL)


def _check_word(name: str, word: str, longest: int) -> None:
    if len(word) > longest:
        raise Invalid("fact", f"In a beat {name} has {len(word)} characters; at most {longest}.")
    if CONTROL.search(word) is not None:
        raise Invalid("fact", f"In a beat {name} holds control characters: {word[:80]!r}.")
