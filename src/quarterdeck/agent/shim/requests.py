"""What the agent asks of a running attempt: stops and signals, read when a SIGUSR1 says so.

Both are files that only grow in count, so that a request is never done twice and none is missed:
a stop with a higher count is a new one, signals are numbered.
"""

from __future__ import annotations

import os

from quarterdeck.agent.shim import disk, files


class Requests:
    """The requests of one attempt, and how far they were met."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._asked = True  # one may have been written before we could hear of it
        self._stops = 0
        self._signals: tuple[files.Signal, ...] = ()
        self._signalled = 0
        self._noted = 0

    def ask(self) -> None:
        """Something was written: look at the next chance."""
        self._asked = True

    def hear(self) -> files.Stop | None:
        """Read what is new; a stop that was not seen before."""
        if not self._asked:
            return None
        self._asked = False
        try:
            self._signals = files.read_signals(self._folder)
            stop = files.read_stop(self._folder)
        except (ValueError, OSError):
            return None  # written atomically, so never half; the agent asks again
        if stop is None or stop.count <= self._stops:
            return None
        self._stops = stop.count
        return stop

    def signals(self) -> list[files.Signal]:
        """The signals that are to be sent now, each of them once."""
        due = [one for one in self._signals if one.number > self._signalled]
        self._signalled = max((one.number for one in due), default=self._signalled)
        return due

    def note(self) -> bool:
        """Record how many signals were sent; False when the disk does not take it now."""
        if self._noted == self._signalled:
            return True
        try:
            disk.write_json(os.path.join(self._folder, "signalled"), {"count": self._signalled})
        except OSError:
            return False
        self._noted = self._signalled
        return True
