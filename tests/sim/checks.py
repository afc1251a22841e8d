"""What must hold, whatever happens: looked at after every commit, every exec, every removal.

Safety
    S1  An attempt is executed at most once, and never after it was shown as ended.
    S2  An end is final, and the moves that are shown are those of core/states.py.
    S3  The end that is shown is what the process really did: never `succeeded` for what did not.
    S4  `lost` is said only of a shim that was killed; `forgotten` never.
    S5  What was refused, called off or expired before its start is never executed.
    S6  An end is shown only when a log of its length can be read.
    S7  A sealed log is what the process wrote; of a killed shim at least its beginning.
    S8  A node deletes only what was sealed before.
    S9  A fact leaves EV only when it (or a newer one) is recorded, or when some server knows that
        the word of the session it comes from does not count.
    S10 A log is never read a second time unless its node lost bytes.
    S14 Never more tasks of a run are under way than its window has room for, by the record and by
        the processes that live.
    S15 A halted run gets no attempt any more; one with more failures than allowed is halted.
    S16 Tries of a task follow one another: the one before has ended, there are no more than the
        plan says, and none is executed before its time.
    S17 A machine runs no more attempts than its slots (and one for each other server that sends in
        the same instant); the tasks of a pick are on distinct nodes.
Liveness
    L1  After the faults every run ends, every log is sealed, every directory is released.
"""

from __future__ import annotations

import hashlib

from quarterdeck.agent.simulated.machine import SimulatedMachine, Truth
from quarterdeck.core import liveness
from quarterdeck.core.model import STREAMS, Attempt, Reason, Snapshot
from quarterdeck.core.states import ATTEMPT_MOVES, AttemptState, Outcome, Phase
from quarterdeck.store import log as log_store
from quarterdeck.store import run as run_store
from quarterdeck.store.archive import SealedLog
from quarterdeck.telemetry import Event, LogReread
from quarterdeck.wire import subjects
from quarterdeck.wire.codec import decode, decode_chunk
from quarterdeck.wire.run import AttemptSnapshot
from tests.sim.plans import PlanChecks
from tests.sim.world import World

NEVER_STARTED = (Reason.REFUSED, Reason.OFFLINE)


class Checks:
    """Hooks itself into a world."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._shown: dict[str, Attempt] = {}
        self._executed: dict[str, int] = {}
        self._unstarted: set[str] = set()
        self.sealed = 0
        self._plans = PlanChecks(world)
        world.store.on_commit = self._committed
        world.listeners.append(self._heard)
        for machine in world.machines.values():
            machine.on_exec = self._exec
            machine.on_remove = self._removed

    def watch_facts(self) -> None:
        """S9; call when the streams are there."""
        stream = self._world.core._router.jetstream.streams[subjects.EV]
        remove = stream.remove

        def removed(sequence: int) -> None:
            entry = stream.entries.get(sequence)
            if entry is not None:
                self._fact_left(entry.data)
            remove(sequence)

        stream.remove = removed  # type: ignore[method-assign]

    def _exec(self, attempt: str) -> None:
        world = self._world
        self._executed[attempt] = self._executed.get(attempt, 0) + 1
        world.note(f"exec {attempt}")
        self._plans.executed(attempt)
        world.check(self._executed[attempt] == 1, f"S1: {attempt} was executed a second time.")
        shown = self._shown.get(attempt)
        world.check(
            shown is not None and shown.state is not AttemptState.ENDED,
            f"S1: {attempt} was executed after it was shown as ended.",
        )

    def _removed(self, attempt: str) -> None:
        found = self._world.store.look(lambda tx: run_store.attempts_by_id(tx, [attempt]))
        self._world.check(
            attempt in found and found[attempt].sealed,
            f"S8: the node deleted {attempt} before its log was sealed.",
        )

    def _heard(self, _who: str, event: Event) -> None:
        if isinstance(event, LogReread) and not self._world.cache_damaged:
            self._world.check(
                self._truth(event.attempt).shim_killed,
                f"S10: the {event.stream} of {event.attempt} was put together wrong at first.",
            )

    def _fact_left(self, data: bytes) -> None:
        fact: AttemptSnapshot = decode(data, AttemptSnapshot)
        found = self._world.store.look(lambda tx: run_store.attempts_by_id(tx, [fact.attempt]))
        attempt = found.get(fact.attempt)
        known = None if attempt is None else attempt.snapshot
        if attempt is not None and self._unbelieved(attempt.node, fact.session):
            return
        self._world.check(
            known is not None and (known.phase is Phase.ENDED or known.revision >= fact.revision),
            f"S9: fact {fact.revision} of {fact.attempt} left EV before it was recorded.",
        )

    def _unbelieved(self, node: str, session: str) -> bool:
        for server in self._world.live_servers():
            sessions = server.fleet._sessions.get(node)
            if sessions is not None and not liveness.believed(sessions, session):
                return True
        return False

    def _committed(self, ids: list[str]) -> None:
        self._plans.committed(ids)
        for attempt in self._world.store.look(
            lambda tx: run_store.attempts_by_id(tx, ids)
        ).values():
            before = self._shown.get(attempt.id)
            self._shown[attempt.id] = attempt
            self._look(before, attempt)

    def _look(self, before: Attempt | None, attempt: Attempt) -> None:
        world = self._world
        if before is None or before.state is not attempt.state:
            world.note(f"shown {attempt.id} {attempt.state} {attempt.outcome or ''}")
        if before is not None:
            self._final(before, attempt)
        newly_ended = before is None or before.state is not AttemptState.ENDED
        if attempt.state is AttemptState.ENDED and newly_ended:
            self._ended(attempt)
        if attempt.sealed and not (before is not None and before.sealed):
            self._sealed(attempt)

    def _final(self, before: Attempt, after: Attempt) -> None:
        world = self._world
        moved = before.state is not after.state
        world.check(
            not moved or after.state in ATTEMPT_MOVES[before.state],
            f"S2: {after.id} went from {before.state} to {after.state}.",
        )
        if before.state is AttemptState.ENDED:
            assert before.snapshot is not None
            same = after.snapshot is not None and (
                after.outcome,
                after.snapshot.reason,
                after.snapshot.exit_code,
                after.snapshot.signal,
            ) == (
                before.outcome,
                before.snapshot.reason,
                before.snapshot.exit_code,
                before.snapshot.signal,
            )
            world.check(same, f"S2: the end of {after.id} changed after it was shown.")

    def _ended(self, attempt: Attempt) -> None:
        world, truth, told = self._world, self._truth(attempt.id), attempt.snapshot
        assert told is not None
        name = f"{attempt.id} ({attempt.outcome}, {told.reason}, code {told.exit_code})"
        if attempt.outcome is Outcome.SUCCEEDED:
            good = truth.execs == 1 and truth.exited and truth.code == 0
            world.check(good, f"S3: {name} did not succeed: {vars_of(truth)}.")
        if told.exit_code is not None or told.signal is not None:
            same = truth.exited and (truth.code, truth.signal) == (told.exit_code, told.signal)
            world.check(same, f"S3: {name} ended otherwise: {vars_of(truth)}.")
        if told.reason is None:
            world.check(truth.exited, f"S3: {name} has not ended.")
        if attempt.outcome is Outcome.LOST and told.reason is not Reason.LOST_AFTER:
            world.check(truth.shim_killed, f"S4: {name}, but its shim was not killed.")
        world.check(told.reason is not Reason.FORGOTTEN, f"S4: {name} was never deleted.")
        if told.reason in NEVER_STARTED or told.started_at is None:
            self._unstarted.add(attempt.id)
            world.check(truth.execs == 0, f"S5: {name} is said to be unstarted, but it ran.")
        if not attempt.sealed:
            self._readable(attempt, told)

    def _readable(self, attempt: Attempt, told: Snapshot) -> None:
        stream = self._world.core._router.jetstream.streams[subjects.OUT]
        subject = subjects.output(attempt.node, attempt.run, attempt.id)
        chunks = [decode_chunk(entry.data) for entry in stream.select(subject, 1)]
        for name, end in (("stdout", told.stdout), ("stderr", told.stderr)):
            reached = 0
            for chunk in sorted((c for c in chunks if c.stream == name), key=lambda c: c.offset):
                if chunk.offset <= reached:
                    reached = max(reached, chunk.offset + len(chunk.data))
            self._world.check(
                reached >= end.bytes,
                f"S6: {attempt.id} is shown as ended, but {name} can be read only to byte "
                f"{reached} of {end.bytes}.",
            )

    def _sealed(self, attempt: Attempt) -> None:
        self.sealed += 1
        found = self._world.store.look(lambda tx: log_store.load(tx, [attempt.id]))
        log = found.get(attempt.id, SealedLog(attempt=attempt.id))
        truth = self._truth(attempt.id)
        for stream in STREAMS:
            layout = log.layout.get(stream)
            size = 0 if layout is None else layout.bytes
            digest = hashlib.sha256(b"").hexdigest() if layout is None else layout.sha256
            wrote = bytes(truth.written[stream])
            if not truth.shim_killed:
                self._world.check(
                    size == len(wrote),
                    f"S7: the sealed {stream} of {attempt.id} has {size} bytes, written were "
                    f"{len(wrote)}.",
                )
            self._world.check(
                digest == hashlib.sha256(wrote[:size]).hexdigest(),
                f"S7: the sealed {stream} of {attempt.id} is not what was written.",
            )

    def _truth(self, attempt: str) -> Truth:
        placed = bool(self._shown[attempt].node)
        return self._machine(attempt).truth_of(attempt) if placed else Truth()

    def _machine(self, attempt: str) -> SimulatedMachine:
        return self._world.machines[self._shown[attempt].node]

    def at_end(self) -> None:
        """What only the whole shows."""
        for attempt in self._unstarted:
            self._world.check(
                self._executed.get(attempt, 0) == 0, f"S5: {attempt} ran after it was called off."
            )

    def left_over(self) -> list[str]:
        """Why it is not quiet yet; empty when all has ended (L1)."""
        world = self._world
        left = [
            f"{a.id} is {a.state}, wanted {a.wanted}, sealed {a.sealed}, released {a.released}"
            for a in self._shown.values()
            if not (a.state is AttemptState.ENDED and a.sealed and a.released)
        ]
        for machine in world.machines.values():
            left += [f"{machine.name} still has {attempt}" for attempt in machine.directories]
        if world.core.held(subjects.EV):
            left.append("EV still holds facts")
        runs = world.store.look(lambda tx: run_store.page(tx, run_store.RunFilter(limit=1000)))
        left += [f"run {run.id} is {run.state}" for run in runs if run.outcome is None]
        for run in runs:
            if run.outcome is not None and run.counts.ended != run.counts.total:
                left.append(f"run {run.id} has ended with counts {run.counts}")
        return left


def vars_of(truth: Truth) -> str:
    """What really happened, in short."""
    return (
        f"{truth.execs} execs, exited {truth.exited}, code {truth.code}, signal {truth.signal}, "
        f"shim killed {truth.shim_killed}"
    )
