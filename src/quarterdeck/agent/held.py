"""What a machine says of its attempts, in records of the standard library alone: they are also made
where nothing else is installed (agent/ssh)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from quarterdeck.agent.shim import files
from quarterdeck.core.states import Phase, RefusalCode

Request = files.Stop | tuple[files.Signal, ...]
"""What is asked of a running attempt. Of signals it is always all that there were."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Held:
    """What the directory of one attempt says. `broken` is set when a file can't be read."""

    attempt: str
    accepted_at: float
    started: files.Started | None = None
    stop: files.Stop | None = None
    overdue: bool = False
    alerted: bool = False
    end: files.Exit | None = None
    signals: tuple[files.Signal, ...] = ()
    signalled: int = 0
    gone_at: float | None = None
    broken: str | None = None
    facts: int = 1

    @property
    def revision(self) -> int:
        """How many facts there are, readable or not: it must never go back."""
        counts = (self.stop.count if self.stop else 0, len(self.signals), self.signalled)
        return self.facts + sum(max(count - 1, 0) for count in counts)

    @property
    def phase(self) -> Phase:
        if self.end is not None:
            return Phase.ENDED
        if self.stop is not None or self.overdue:
            return Phase.STOPPING
        return Phase.ACCEPTED if self.started is None else Phase.RUNNING


@dataclass(frozen=True, kw_only=True, slots=True)
class Terms:
    """What an order says about its time: whether it ends when its node hears no server for long
    (`lost_after`), and how long its start may take (0: no limit)."""

    leashed: bool = False
    start_timeout_s: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Refusal:
    """Why an attempt never starts here: the words of the first answer serve for each repeat."""

    code: RefusalCode
    text: str

    @classmethod
    def read(cls, words: Mapping[str, object]) -> Refusal:
        """What `dataclasses.asdict` made of one. Raises KeyError and TypeError."""
        return cls(code=RefusalCode(str(words["code"])), text=str(words["text"]))


REVOKED = Refusal(code=RefusalCode.REVOKED, text="It was called off before it began.")
"""What a tombstone without words says: that of a release, of a revoke, or of an older agent."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Remains:
    """What a shim that was killed left: its output, and how many processes could not be killed."""

    streams: Mapping[str, files.StreamEnd]
    survivors: int
    rebooted: bool
