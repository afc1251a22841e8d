"""Deliver what earlier senders could not: files that nobody holds; and who waits to do it.

Of all the senders of a user that wait for one server one stays; the others leave it their files.
"""

from __future__ import annotations

import fcntl
import os
import re

from quarterdeck.tt.buffer import Buffer
from quarterdeck.tt.deliver import Delivery, Told
from quarterdeck.tt.place import Place, place_of
from quarterdeck.tt.spool import Spool, folder, left_behind


class _Quiet(Told):
    """Remembers whether the server was there."""

    def __init__(self) -> None:
        self.delivery: Delivery | None = None
        self.missing = False

    def away(self, why: str) -> None:
        self.missing = True
        if self.delivery is not None:
            self.delivery.given_up.set()


def stay(place: Place) -> int:
    """Be the one that waits for a server, until the descriptor is closed; -1 when one does."""
    name = re.sub(r"[^A-Za-z0-9._-]", "_", place.data or place.url)[-200:]
    try:
        fd = os.open(
            os.path.join(folder(), f"waits-{name}.lock"),
            os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW,
            0o600,
        )
    except OSError:
        return -1
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        return -1
    return fd


def deliver_left(near: Place) -> None:
    """All files of this user, one after the other; those of a server that is away stay, and those
    that it refuses: another token may be allowed to deliver them, until they are too old.

    `near` is the server that just answered: for one and the same, its token is the one in use now.
    """
    missing: set[str] = set()
    for path in left_behind():
        spool = Spool.take(path)
        if spool is not None:
            _deliver(spool, near, missing)


def _deliver(spool: Spool, near: Place, missing: set[str]) -> None:
    begin, place = spool.header.get("begin"), place_of(spool.header.get("place") or {})
    if not isinstance(begin, dict) or "key" not in begin:
        spool.remove()
        return
    if place.name() in missing:
        spool.release()
        return
    if place.url and place.url == near.url:
        place.token, place.fingerprint = near.token, near.fingerprint
    told = _Quiet()
    buffer = Buffer(spool, memory=0, disk=0)
    told.delivery = Delivery(place, begin, buffer, told, alive=False)
    if told.delivery.run():
        spool.remove()
    else:
        spool.release()
    if told.missing:
        missing.add(place.name())
