"""Whether a disk has room for new work: servers and agents say it in the same words."""

from __future__ import annotations

MIB = 1 << 20


def room(free_bytes: int, min_free_mib: int, where: str) -> str:
    """Empty when the disk of `where` has room, else a sentence for a person."""
    if free_bytes >= min_free_mib * MIB:
        return ""
    return (
        f"The disk of {where} has only {free_bytes // MIB} MiB free (needs {min_free_mib}); "
        "new work is refused until space is freed."
    )
