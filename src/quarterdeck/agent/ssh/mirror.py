"""What the far side has told of its attempts: looked at here without waiting."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from quarterdeck.agent.held import Held, Refusal, Terms
from quarterdeck.agent.shim import files
from quarterdeck.wire.run import FactsMessage, LoadMessage


class State(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt as it was last told; `taken` by a shim, or by the claim that starts one."""

    accepted_at: float
    started: files.Started | None = None
    stop: files.Stop | None = None
    overdue: bool = False
    end: files.Exit | None = None
    signals: tuple[files.Signal, ...] = ()
    signalled: int = 0
    gone_at: float | None = None
    broken: str | None = None
    facts: int = 1
    taken: bool = True
    terms: Terms = Terms()
    sizes: dict[str, int] = {}
    acked: dict[str, int] = {}

    def held(self, attempt: str) -> Held:
        return Held(
            attempt=attempt,
            accepted_at=self.accepted_at,
            started=self.started,
            stop=self.stop,
            overdue=self.overdue,
            end=self.end,
            signals=self.signals,
            signalled=self.signalled,
            gone_at=self.gone_at,
            broken=self.broken,
            facts=self.facts,
        )


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """How busy the far machine is."""

    load: LoadMessage
    free: int


class Hello(Figures, frozen=True, kw_only=True):
    """What the far end says first."""

    facts: FactsMessage
    hostname: str
    states: dict[str, State | None]
    tombstones: dict[str, Refusal]


class Mirror:
    """All attempts of the far side, and who wants to hear of their changes."""

    def __init__(self) -> None:
        self.states: dict[str, State] = {}
        self.tombstones: dict[str, Refusal] = {}
        self._watchers: dict[object, tuple[str, Callable[[], None]]] = {}

    def fill(self, hello: Hello) -> None:
        self.states = {id: state for id, state in hello.states.items() if state is not None}
        self.tombstones = dict(hello.tombstones)

    def take(self, attempt: str, raw: Any) -> None:
        """A state was told. Raises ValidationError for what is none."""
        if raw is None:
            self.states.pop(attempt, None)
        else:
            self.states[attempt] = msgspec.convert(raw, State)
        for watched, changed in list(self._watchers.values()):
            if watched == attempt:
                changed()

    def watch(self, key: object, attempt: str, changed: Callable[[], None]) -> None:
        self._watchers[key] = (attempt, changed)

    def forget(self, key: object) -> None:
        self._watchers.pop(key, None)
