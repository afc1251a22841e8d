"""`MemoryFabric`: one principal's link to a `MemoryCore`."""

from __future__ import annotations

import itertools
from collections.abc import Callable

from quarterdeck.fabric.memory.connection import MemoryConnection
from quarterdeck.fabric.memory.core import URL, MemoryCore
from quarterdeck.fabric.memory.rights import Rights
from quarterdeck.fabric.nats.fabric import LinkedFabric
from quarterdeck.fabric.nats.link import Options, Spawn


class MemoryFabric(LinkedFabric):
    """`role` is `node` or `server`, with the rights that nats-server would give it.

    `spawn` and `on_error` as in `LinkedFabric`. The chance for pauses is the core's.
    """

    def __init__(
        self,
        core: MemoryCore,
        who: str,
        role: str,
        *,
        spawn: Spawn,
        on_error: Callable[[str], None] | None = None,
        options: Options | None = None,
    ) -> None:
        options = options or Options()
        Rights(who, role)  # an unknown role is told here and not at each dial
        self._connection: MemoryConnection | None = None

        def connect(
            lost: Callable[[str], None], complain: Callable[[str], None]
        ) -> MemoryConnection:
            made = MemoryConnection(core, who, role, options, lost, complain)
            self._connection = made
            return made

        numbers = itertools.count(1)
        super().__init__(
            [URL],
            who,
            connect=connect,
            spawn=spawn,
            on_error=on_error,
            random=core.random,
            options=options,
            token=lambda: f"{next(numbers):x}-{int(core.random() * 2**53):x}",
        )

    def crash(self) -> None:
        """The process of this principal is gone: what has not arrived vanishes, nothing is told.

        `stop` afterwards only tidies up.
        """
        self._link.abandon()
        if self._connection is not None:
            self._connection.crash()
        self._outbox.close()
