"""Watching a run: output and ends of tasks, past first, then live, without gap or repeat.

Theory. A watcher holds a cursor: the version of the run it has seen and, per attempt, the offset
reached in each stream. Everything it is told is "what lies behind the cursor":

* First the live subject is subscribed, then the past is read (cache; archive for sealed attempts),
  then live chunks are spliced on by offset. What overlaps is trimmed; a gap is read from wherever
  the output lies.
* A task's end is told after the last byte of its output, the run's end after all its tasks.
* The cursor travels as the id of each event, so a watcher that lost its connection goes on exactly
  where it was, on any server.
* A slow watcher does not cost memory: what its inbox has no room for is read again as a gap.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator

import msgspec

from quarterdeck.control.changes import Changes, run_topic
from quarterdeck.control.crowd import Crowd
from quarterdeck.control.feed import Feeds, Inbox
from quarterdeck.control.output import Output
from quarterdeck.core.model import STREAMS, Attempt, Run, Task
from quarterdeck.core.run import task_at
from quarterdeck.core.states import AttemptState, RunState, TaskState
from quarterdeck.core.stream import Gap, Segment, Taken, splice
from quarterdeck.core.trace import NODE, ORIGIN
from quarterdeck.core.traced import attempt_of_trace
from quarterdeck.errors import Broken, Invalid, Unavailable
from quarterdeck.fabric.base import Fabric, Message
from quarterdeck.store import run as run_store
from quarterdeck.store.base import Database, Tx
from quarterdeck.wire import subjects
from quarterdeck.wire.codec import Chunk, decode_chunk

CURSOR_ENTRIES = 500
LOOK_AGAIN_S = 2.0
POSITION = re.compile(r"([0-9]{1,7}-[0-9]{1,4}):([0-9]{1,18}),([0-9]{1,18})")


class OutputSeen(msgspec.Struct, frozen=True):
    """New bytes of one stream of one attempt."""

    task: Task
    attempt: str
    chunk: Chunk


class TaskSeen(msgspec.Struct, frozen=True):
    """A task changed; all output of its attempts that have ended was told before."""

    task: Task
    attempt: Attempt | None


class RunEndSeen(msgspec.Struct, frozen=True):
    """The run has ended and everything about it was told."""

    run: Run


class PresentSeen(msgspec.Struct, frozen=True):
    """Everything there is now was told; not `complete` when some of it can't be had now."""

    complete: bool


Seen = OutputSeen | TaskSeen | RunEndSeen | PresentSeen


class Cursor:
    """How far a watcher has come. As text: `version;attempt:stdout,stderr;...` without the run.

    It holds only attempts of which something was seen: the text is made for every event, so what
    it costs must not grow with the run.
    """

    def __init__(self, version: int = 0) -> None:
        self.version = version
        self.positions: dict[str, dict[str, int]] = {}

    def of(self, attempt: str) -> dict[str, int]:
        """The offsets reached in an attempt; `reach` changes them."""
        return self.positions.get(attempt) or dict.fromkeys(STREAMS, 0)

    def reach(self, attempt: str, stream: str, offset: int) -> None:
        """A stream was seen up to `offset`."""
        self.positions.setdefault(attempt, dict.fromkeys(STREAMS, 0))[stream] = offset

    def text(self) -> str | None:
        """None when too many attempts are under way to name them all: the watcher keeps its last
        one, and output that comes again is known by its offset."""
        if len(self.positions) > CURSOR_ENTRIES:
            return None
        parts = [
            f"{a.partition('-')[2]}:{p['stdout']},{p['stderr']}" for a, p in self.positions.items()
        ]
        return ";".join([str(self.version), *parts])

    @classmethod
    def parse(cls, run: str, text: str) -> Cursor:
        """Raises Invalid for what is not a cursor."""
        version, *parts = text.split(";")
        if re.fullmatch(r"[0-9]{1,9}", version) is None:
            raise Invalid("cursor", f"{text[:80]!r} is not the id of an event.")
        cursor = cls(int(version))
        for part in parts:
            found = POSITION.fullmatch(part)
            if found is None:
                raise Invalid("cursor", f"{text[:80]!r} is not the id of an event.")
            cursor.positions[f"{run}-{found[1]}"] = {
                "stdout": int(found[2]),
                "stderr": int(found[3]),
            }
        return cursor


class Watching:
    """Makes watchers of runs."""

    def __init__(
        self,
        *,
        database: Database,
        fabric: Fabric,
        output: Output,
        changes: Changes,
        crowd: Crowd,
    ) -> None:
        self.crowd = crowd
        self._database = database
        self._fabric = fabric
        self._output = output
        self._changes = changes
        self._feeds = Feeds(fabric)

    async def watch(
        self, run_id: str, cursor: Cursor, *, follow: bool = True, origin: str = "run"
    ) -> AsyncGenerator[Seen]:
        """Everything behind the cursor, which is moved along. Ends after `RunEndSeen`; without
        `follow` as soon as everything there is now was told. `origin` is that of the run."""
        inbox = Inbox(self.crowd)
        is_trace = origin == ORIGIN
        heard = subjects.one_trace(run_id) if is_trace else (subjects.run_output(run_id),)
        try:
            await self._feeds.join(inbox, *heard)
            with self._changes.watch(run_topic(run_id)) as poke:
                inbox.wake = poke
                view = _View(cursor)
                await self._refresh(run_id, view)
                async for seen in self._present(view) if is_trace else self._past(run_id, view):
                    yield seen
                while True:
                    messages, dropped = inbox.take()
                    for message in messages:
                        async for seen in self._chunk(view, message):
                            yield seen
                    for subject in dropped:
                        async for seen in self._dropped(view, subject):
                            yield seen
                    view.missing = False
                    async for seen in self._tasks(view):
                        yield seen
                    if view.finished():
                        yield RunEndSeen(view.run)
                        return
                    if not follow:
                        async for seen in self._present(view):
                            yield seen
                        yield PresentSeen(complete=not (view.missing or view.changed))
                        return
                    # with output waiting, only look whether something was told
                    keys = await poke.wait(0 if inbox.waiting else LOOK_AGAIN_S)
                    if run_topic(run_id) in keys or not (keys or inbox.waiting):
                        await self._refresh(run_id, view)
        finally:
            inbox.close()
            await self._feeds.leave(inbox, *heard)

    async def _refresh(self, run_id: str, view: _View) -> None:
        after = view.read_version

        def read(tx: Tx) -> tuple[Run, list[Task], list[Attempt]]:
            run = run_store.get(tx, run_id)
            if run.version == after:
                return run, [], []
            return (
                run,
                run_store.tasks_of(tx, run_id, changed_after=after),
                run_store.attempts_of(tx, run_id, changed_after=after),
            )

        view.update(*await self._database.read(read))

    async def _past(self, run_id: str, view: _View) -> AsyncIterator[Seen]:
        """What the cache holds of the run; ended attempts are completed where their end is told."""
        try:
            async for kept in self._fabric.replay(subjects.OUT, subjects.run_output(run_id)):
                message = Message(kept.subject, kept.data)
                async for seen in self._chunk(view, message):
                    yield seen
        except Unavailable:
            return

    async def _chunk(self, view: _View, message: Message) -> AsyncIterator[Seen]:
        attempt_id, node = _spoken(message.subject)
        found = view.task_and_attempt(attempt_id)
        if found is None or found[1].node != node:
            return  # nobody's, or a node that speaks for another one
        task, attempt = found
        try:
            chunk = decode_chunk(message.data)
        except Invalid:
            return
        if chunk.offset + len(chunk.data) > await self._output.most(attempt.run):
            return  # more than its order allows: a node that feeds its watchers for ever
        reached = view.cursor.of(attempt.id)[chunk.stream]
        met = splice(reached, chunk.offset, chunk.data)
        if isinstance(met, Gap):
            async for seen in self._fill(view, task, attempt, chunk.stream, met.end):
                yield seen
            reached = view.cursor.of(attempt.id)[chunk.stream]
            if node == NODE:  # what an ephemeral trace said before is not kept any more
                reached = max(chunk.offset, reached)
            met = splice(reached, chunk.offset, chunk.data)
        if isinstance(met, Taken):
            view.cursor.reach(attempt.id, chunk.stream, met.offset + len(met.data))
            taken = Chunk(chunk.stream, met.offset, chunk.time_us, met.data)
            yield OutputSeen(task_at(task, attempt), attempt.id, taken)

    async def _fill(
        self, view: _View, task: Task, attempt: Attempt, stream: str, end: int
    ) -> AsyncIterator[Seen]:
        """Read up to `end`; what can't be had now is tried again with the next chunk or the end."""
        segment = Segment(stream, view.cursor.of(attempt.id)[stream], end, 0)
        try:
            async for chunk in self._output.shown(attempt, segment):
                view.cursor.reach(attempt.id, stream, chunk.offset + len(chunk.data))
                yield OutputSeen(task_at(task, attempt), attempt.id, chunk)
        except (Unavailable, Broken):  # a damaged or lying node ends nobody's stream
            view.missing = True

    async def _tasks(self, view: _View) -> AsyncIterator[Seen]:
        while view.changed:
            task = view.changed[0]
            tries = view.tries.get(task.id, {})
            for attempt in (tries[number] for number in sorted(tries)):
                if attempt.state is not AttemptState.ENDED:
                    continue
                try:
                    async for seen in self._in_order(view, task, attempt):
                        yield seen
                except Unavailable:
                    return
                except Broken:  # what is lost can't be waited for
                    view.missing = True
            view.told()
            yield TaskSeen(task, tries[max(tries)] if tries else None)

    async def _in_order(self, view: _View, task: Task, attempt: Attempt) -> AsyncIterator[Seen]:
        async for chunk in self._output.in_order(attempt, view.cursor.of(attempt.id)):
            view.cursor.reach(attempt.id, chunk.stream, chunk.offset + len(chunk.data))
            yield OutputSeen(task_at(task, attempt), attempt.id, chunk)

    async def _present(self, view: _View) -> AsyncIterator[Seen]:
        """Output of attempts that have not ended, up to now."""
        for attempt in [tries[max(tries)] for tries in view.tries.values()]:
            found = view.task_and_attempt(attempt.id)
            if found is None or found[0].state is TaskState.ENDED:
                continue
            if attempt.node == NODE:
                try:
                    async for seen in self._in_order(view, found[0], attempt):
                        yield seen
                except (Unavailable, Broken):
                    view.missing = True
                continue
            for stream in STREAMS:
                end = await self._output.size(attempt, stream)
                async for seen in self._fill(view, found[0], attempt, stream, end):
                    yield seen

    async def _dropped(self, view: _View, subject: str) -> AsyncIterator[Seen]:
        """Catch up with an attempt whose live chunks did not fit into the inbox."""
        found = view.task_and_attempt(_spoken(subject)[0])
        if found is None:
            return
        task, attempt = found
        for stream in STREAMS:
            end = await self._output.size(attempt, stream)
            async for seen in self._fill(view, task, attempt, stream, end):
                yield seen


def _spoken(subject: str) -> tuple[str, str]:
    """(attempt, node) of a subject of output. The servers alone speak for traces."""
    if subject.startswith("out."):
        return subjects.attempt_of(subject), subjects.node_of(subject)
    return attempt_of_trace(subjects.trace_of(subject)), NODE


class _View:
    """What a watcher knows of its run."""

    def __init__(self, cursor: Cursor) -> None:
        self.cursor = cursor
        self.read_version = -1
        self.missing = False
        self.changed: deque[Task] = deque()
        self.tries: dict[str, dict[int, Attempt]] = {}
        self._attempts: dict[str, Attempt] = {}
        self._tasks: dict[str, Task] = {}
        self._run: Run | None = None

    @property
    def run(self) -> Run:
        assert self._run is not None
        return self._run

    def update(self, run: Run, tasks: list[Task], attempts: list[Attempt]) -> None:
        self._run = run
        self.read_version = run.version
        news = [task for task in tasks if task.changed > self.cursor.version]
        waiting = {task.id: task for task in [*self.changed, *news]}
        self.changed = deque(sorted(waiting.values(), key=lambda task: task.changed))
        for task in tasks:
            self._tasks[task.id] = task
        for attempt in attempts:
            self._attempts[attempt.id] = attempt
            self.tries.setdefault(attempt.task, {})[attempt.number] = attempt

    def task_and_attempt(self, attempt_id: str) -> tuple[Task, Attempt] | None:
        attempt = self._attempts.get(attempt_id)
        if attempt is None or attempt.task not in self._tasks:
            return None
        return self._tasks[attempt.task], attempt

    def told(self) -> None:
        """The first changed task is about to be told: move the cursor when it was the last one of
        its version."""
        task = self.changed.popleft()
        if not self.changed or self.changed[0].changed > task.changed:
            self.cursor.version = task.changed

    def finished(self) -> bool:
        return self.run.state is RunState.ENDED and not self.changed
