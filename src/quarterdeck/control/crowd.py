"""How many may watch at once, and how many bytes may wait for all of them together."""

from __future__ import annotations

from quarterdeck.errors import Unavailable

WAITING_BYTES = 256 << 20


class Crowd:
    """Counts of one server. What has no room is dropped by its inbox and read again later."""

    def __init__(self, most: int, *, most_bytes: int = WAITING_BYTES) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self.watching = 0
        self.waiting_bytes = 0

    def check(self) -> None:
        """Raises Unavailable when nobody more may watch here now."""
        if self.watching >= self._most:
            raise Unavailable(
                "too_many_streams",
                f"{self.watching} live streams are open here, which is as many as `max_streams` "
                "allows: close some, or try again later.",
            )

    def enter(self) -> None:
        """Count one more. Raises Unavailable."""
        self.check()
        self.watching += 1

    def leave(self) -> None:
        self.watching -= 1

    def has_room(self, size: int) -> bool:
        return self.waiting_bytes + size <= self._most_bytes

    def keep(self, size: int) -> None:
        """Count bytes that wait from now on."""
        self.waiting_bytes += size

    def give_back(self, size: int) -> None:
        self.waiting_bytes -= size
