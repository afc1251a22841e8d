"""Requests and answers over one connection to a far end, and what it tells by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

from quarterdeck.agent.ssh import frames
from quarterdeck.errors import Broken, Conflict, Invalid, QuarterdeckError, Unavailable
from quarterdeck.service import guarded

KINDS: dict[str, type[QuarterdeckError]] = {
    kind.__name__: kind for kind in (Broken, Conflict, Invalid, Unavailable)
}


class Wire(Protocol):
    """A far end that was started: its streams, and the way to leave it."""

    async def readexactly(self, n: int) -> bytes: ...

    async def write(self, data: bytes) -> None: ...

    async def close(self) -> str:
        """Leave; what the far end had to say on stderr at last. May be called twice."""
        ...


class Channel:
    """`told` gets every message that says something of the far side, answers too, in order.

    `lost` is done with a sentence once the connection has ended, for whatever reason.
    """

    def __init__(self, wire: Wire, told: Callable[[dict[str, Any]], None]) -> None:
        self._wire = wire
        self._told = told
        self._number = 0
        self._waiting: dict[int, asyncio.Future[tuple[dict[str, Any], bytes]]] = {}
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def ask(self, do: str, **fields: object) -> Any:
        """The value of the answer. Raises what the far end raised, or Unavailable."""
        answer, _ = await self._ask({"do": do, **fields})
        return answer["value"]

    async def read(self, attempt: str, name: str, offset: int, length: int) -> bytes:
        """Bytes of a file."""
        asked = {"name": name, "offset": offset, "length": length}
        _, data = await self._ask({"do": "read", "attempt": attempt, **asked})
        return data

    async def tell(self, do: str, **fields: object) -> None:
        """A request that nobody waits for; one that is lost is no harm."""
        if not self.lost.done():
            await guarded(self._wire.write(frames.pack({"do": do, **fields})), lambda _: None)

    async def listen(self) -> None:
        """Take messages until the connection ends; `lost` says why."""
        why = await guarded(self._listen(), lambda error: f"{type(error).__name__}: {error}")
        self.end(why)

    def end(self, why: str) -> None:
        """Nothing comes any more: whoever waits hears so."""
        if self.lost.done():
            return
        self.lost.set_result(why)
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(self._gone())
        self._waiting.clear()

    async def close(self) -> str:
        """Leave the far end; its last words."""
        self.end("The connection was closed.")
        return await self._wire.close()

    async def _listen(self) -> str:
        while True:
            try:
                head, data = await frames.read(self._wire)
            except EOFError:
                return "The connection has ended."
            self._told(head)
            future = self._waiting.pop(head.get("id", 0), None)
            if future is not None and not future.done():
                future.set_result((head, data))

    async def _ask(self, head: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
        if self.lost.done():
            raise self._gone()
        self._number += 1
        number = self._number
        future: asyncio.Future[tuple[dict[str, Any], bytes]]
        future = self._waiting[number] = asyncio.get_running_loop().create_future()
        try:
            await guarded(self._wire.write(frames.pack({"id": number, **head})), self._broken)
            answer, data = await future
        finally:
            self._waiting.pop(number, None)
        if "error" in answer:
            raise failure(answer)
        return answer, data

    def _broken(self, error: Exception) -> None:
        self.end(f"The connection has ended ({error}).")

    def _gone(self) -> Unavailable:
        return Unavailable("ssh_lost", self.lost.result())


def failure(answer: dict[str, Any]) -> Exception:
    """The error that a message tells of."""
    text = str(answer.get("text", ""))[:1000]
    if answer["error"] == "OSError":
        number = answer.get("errno")
        return OSError(number if isinstance(number, int) else 5, text)
    kind = KINDS.get(str(answer["error"]), Broken)
    return kind(str(answer.get("code", "far"))[:64], text)
