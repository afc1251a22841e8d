"""Identifiers: made from a time and random bytes of the caller, sorted by age, safe as a token.

A run id is 16 characters of Crockford's base32: 48 bits of milliseconds, 32 random bits. Task and
attempt ids say where they belong: `<run>-<position>` and `<run>-<position>-<number>`, so an order,
a directory on a node and a fabric subject can be traced to their run by eye.
"""

from __future__ import annotations

import hashlib
import re
from base64 import b32encode

from quarterdeck.errors import Invalid

ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
VALUES = {letter: value for value, letter in enumerate(ALPHABET)}
RANDOM_BYTES = 4
NODE_NAME = re.compile(r"[A-Za-z0-9_.-]{1,255}")
TOKEN = re.compile(r"[A-Za-z0-9_-]{1,64}")
ATTEMPT = re.compile(r"([0-9a-z]{16})-(0|[1-9][0-9]{0,6})-([1-9][0-9]{0,3})")


def run_id(unix_ms: int, entropy: bytes) -> str:
    """A new run id from milliseconds since 1970 and `RANDOM_BYTES` random bytes."""
    number = (unix_ms << 8 * RANDOM_BYTES) | int.from_bytes(entropy[:RANDOM_BYTES])
    return "".join(ALPHABET[(number >> shift) & 31] for shift in range(75, -1, -5))


def made_ms(run: str) -> int:
    """The milliseconds since 1970 that a run id was made from, by the clock of its server."""
    number = 0
    for letter in run:
        number = number << 5 | VALUES.get(letter, 0)
    return number >> 8 * RANDOM_BYTES


def task_id(run: str, position: int) -> str:
    """The task of `run` on the node at `position` of its resolved targets."""
    return f"{run}-{position}"


def attempt_id(task: str, number: int) -> str:
    """The `number`th try (from 1) of a task."""
    return f"{task}-{number}"


def split_attempt(attempt: str) -> tuple[str, int, int]:
    """(run id, position, number) of an attempt id. Raises Invalid for anything else."""
    found = ATTEMPT.fullmatch(attempt)
    if found is None:
        raise Invalid("attempt_id", f"{attempt[:80]!r} is not an attempt id (RUN-POSITION-NUMBER).")
    return found[1], int(found[2]), int(found[3])


def check_name(name: str) -> str:
    """A display name of a node: safe in tables, prefixes and expressions. Raises Invalid."""
    if NODE_NAME.fullmatch(name) is None:
        raise Invalid(
            "node_name",
            f"{name[:80]!r} can't be the name of a node: use 1 to 255 letters, digits, - _ .",
        )
    return name


def node_id(public_key: str) -> str:
    """The id of the node that owns a public key: an id can never belong to another key."""
    digest = hashlib.sha256(public_key.encode()).digest()
    return "n" + b32encode(digest).decode().lower()[:15]
