"""What a process has started, found through /proc; nothing where there is none."""

from __future__ import annotations

import os


def below(root: int) -> list[int]:
    """The descendants of a process, children before their children."""
    children: dict[int, list[int]] = {}
    try:
        names = os.listdir("/proc")
    except OSError:
        return []
    for name in names:
        if name.isdigit():
            parent = _parent(name)
            if parent:
                children.setdefault(parent, []).append(int(name))
    found: list[int] = []
    level = children.get(root, [])
    while level:
        found += level
        level = [child for one in level for child in children.get(one, [])]
    return found


def _parent(name: str) -> int:
    try:
        with open(f"/proc/{name}/stat", "rb") as file:
            # the name, in parentheses, may itself hold parentheses and spaces
            return int(file.read(4096).rpartition(b")")[2].split()[1])
    except (OSError, IndexError, ValueError):
        return 0  # ended meanwhile


def close_all_but(keep: set[int]) -> None:
    """Close every descriptor of this process except the named ones."""
    try:
        open_now = [int(name) for name in os.listdir("/proc/self/fd")]
    except OSError:
        open_now = list(range(1024))
    for fd in open_now:
        if fd not in keep:
            try:
                os.close(fd)
            except OSError:
                pass  # the descriptor of the listing itself
