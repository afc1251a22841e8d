"""The host of an agent that runs on its machine itself."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from quarterdeck.agent.figures import facts
from quarterdeck.agent.machine import Machine
from quarterdeck.agent.shim import files
from quarterdeck.core.ids import split_attempt
from quarterdeck.settings import ATTEMPT_MARK, host_name
from quarterdeck.wire.run import FactsMessage, LoadMessage, OrderMessage


class RealHost(Machine):
    """This machine, with its state directory. `environ` is what commands inherit."""

    def __init__(self, state: Path, environ: Mapping[str, str]) -> None:
        super().__init__(state, ATTEMPT_MARK)
        self._environ = environ

    async def accept(self, attempt: str, order: OrderMessage) -> None:
        environ = {**self._environ, **own_environ(attempt, order)}
        await self.write_order(attempt, files.order_json(shim_order(attempt, order, environ)))

    def facts(self) -> FactsMessage:
        return FactsMessage(
            **facts(), hostname=host_name(), version=metadata.version("quarterdeck")
        )

    def load(self) -> LoadMessage:
        return LoadMessage(**self.figures())


def own_environ(attempt: str, order: OrderMessage) -> dict[str, str]:
    """The variables of an order, and those by which a command knows that it is one."""
    return {**order.env, "QD_RUN_ID": split_attempt(attempt)[0], ATTEMPT_MARK: attempt}


def shim_order(attempt: str, order: OrderMessage, environ: Mapping[str, str]) -> files.Order:
    """Wire to what the shim reads."""
    return files.Order(
        attempt=attempt,
        run=split_attempt(attempt)[0],
        argv=order.argv or None,
        script=None if order.argv else order.script,
        args=order.args,
        environ=environ,
        cwd=order.cwd,
        stdin=order.stdin or None,
        timeout_s=order.timeout_s,
        grace_s=order.grace_s,
        max_output=order.max_output,
        leftovers=order.leftovers,
        lost_after_s=order.lost_after_s,
    )
