"""Results while they stream: output becomes hashes and a bounded sample, an end becomes a group.

Memory: per task two hash states and the last line, per different result one sample, and of tasks
that are still running at most `MOST_KEPT` bytes together. A sample that did not fit is marked; the
server has all of it.
"""

from __future__ import annotations

from hashlib import sha256

from quarterdeck.core.fold import Group, Result, StreamSum, group_id, grouped

KEEP_BYTES = 64 << 10
MOST_KEPT = 32 << 20
LAST_BYTES = 400
STREAMS = ("stdout", "stderr")


class Sample:
    """What one result looks like; `whole` when nothing of it is missing."""

    __slots__ = ("streams", "whole")

    def __init__(self) -> None:
        self.streams = {stream: bytearray() for stream in STREAMS}
        self.whole = True

    @property
    def size(self) -> int:
        return sum(len(data) for data in self.streams.values())


class _Task:
    """Output of a task that has not ended."""

    __slots__ = ("attempt", "hashes", "last", "node", "sample", "sizes")

    def __init__(self, node: str, attempt: str) -> None:
        self.node = node
        self.attempt = attempt
        self.sizes = dict.fromkeys(STREAMS, 0)
        self.hashes = {stream: sha256() for stream in STREAMS}
        self.sample = Sample()
        self.last = b""


class Gathering:
    """All that was seen of a run. Repeated output is known by its offset."""

    def __init__(
        self, *, by_stdout: bool = False, keep: int = KEEP_BYTES, most_kept: int = MOST_KEPT
    ) -> None:
        self.by_stdout = by_stdout
        self.results: dict[str, Result] = {}
        self.samples: dict[str, Sample] = {}
        self._keep = keep
        self._most_kept = most_kept
        self._kept = 0
        self._tasks: dict[str, _Task] = {}

    def began(self, task: str, node: str) -> None:
        """A task runs; it may never write anything."""
        if task not in self.results and task not in self._tasks:
            self._tasks[task] = _Task(node, "")

    def output(
        self, task: str, node: str, attempt: str, stream: str, offset: int, data: bytes
    ) -> None:
        """Bytes of a stream of a task. A further attempt of it begins anew."""
        if task in self.results:
            return
        known = self._tasks.get(task)
        if known is None or known.attempt != attempt:
            if known is not None:
                self._kept -= known.sample.size
            known = self._tasks[task] = _Task(node, attempt)
        fresh = data[max(0, known.sizes[stream] - offset) :]
        if not fresh:
            return
        known.sizes[stream] = offset + len(data)
        known.hashes[stream].update(fresh)
        known.last = (known.last + fresh)[-LAST_BYTES:]
        self._add(known.sample, stream, fresh)

    def _add(self, sample: Sample, stream: str, data: bytes) -> None:
        kept = sample.streams[stream]
        part = data[: max(0, min(self._keep - len(kept), self._most_kept - self._kept))]
        kept += part
        self._kept += len(part)
        sample.whole = sample.whole and len(part) == len(data)

    def ended(
        self, task: str, node: str, outcome: str, exit_code: int | None, signal: int | None
    ) -> str:
        """The id of the group that a task belongs to, now that it has ended."""
        known = self._tasks.pop(task, None) or _Task(node, "")
        before = self.results.get(task)
        if before is not None:
            return group_id(before, by_stdout=self.by_stdout)
        sums = {
            stream: StreamSum(bytes=size, sha256=known.hashes[stream].hexdigest() if size else "")
            for stream, size in known.sizes.items()
        }
        result = Result(
            task=task,
            node=node,
            outcome=outcome,
            exit_code=exit_code,
            signal=signal,
            stdout=sums["stdout"],
            stderr=sums["stderr"],
        )
        self.results[task] = result
        id = group_id(result, by_stdout=self.by_stdout)
        self._kept -= known.sample.size
        if id not in self.samples or (known.sample.whole and not self.samples[id].whole):
            self.samples[id] = known.sample
        return id

    def groups(self) -> list[Group]:
        """The groups of what has ended, in their order."""
        return grouped(self.results.values(), by_stdout=self.by_stdout)

    def running(self) -> list[tuple[str, bytes]]:
        """Of each task that has not ended its node and its last bytes."""
        return [(known.node, known.last) for known in self._tasks.values()]
