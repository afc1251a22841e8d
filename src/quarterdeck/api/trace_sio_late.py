"""Socket.IO is imported when its first client comes: it brings a client, and with it `requests`,
along, a tenth of the start of a server that most never speak it to.
"""

from __future__ import annotations

import asyncio
import importlib
from typing import TYPE_CHECKING

from quarterdeck.api.front import Door, Receive, Scope, Send, turn_away
from quarterdeck.api.origins import Origins
from quarterdeck.control.main import Server
from quarterdeck.errors import Unavailable

if TYPE_CHECKING:
    from quarterdeck.api.trace_sio import SocketIo

PATH = "/socket.io/"


class LateSocketIo:
    """The application at `/socket.io/`, made for the first who asks for it."""

    def __init__(self, server: Server, origins: Origins) -> None:
        self._server = server
        self._origins = origins
        self._made: SocketIo | None = None
        self._over = False
        self.door = Door((PATH,), self._answer, plain=True)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._made is None:
            # in a thread: the others are answered meanwhile
            late = await asyncio.to_thread(importlib.import_module, "quarterdeck.api.trace_sio")
            if self._over:
                if scope["type"] == "websocket":
                    await receive()
                again = "This server is stopping: connect again in a moment."
                await turn_away(scope, send, Unavailable("stopping", again))
                return
            if self._made is None:
                self._made = late.SocketIo(self._server, self._origins, PATH)
        await self._made.answer(scope, receive, send)

    async def stop(self) -> None:
        """Nobody is connected any more."""
        self._over = True
        if self._made is not None:
            await self._made.stop()
