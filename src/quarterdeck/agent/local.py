"""The host of an agent that runs on its machine itself."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from quarterdeck.agent.account import look_up
from quarterdeck.agent.figures import facts
from quarterdeck.agent.machine import Machine
from quarterdeck.agent.shim import files
from quarterdeck.core.ids import split_attempt
from quarterdeck.errors import Invalid
from quarterdeck.settings import host_name
from quarterdeck.settings.environment import ATTEMPT_MARK
from quarterdeck.wire.run import FactsMessage, LoadMessage, OrderMessage


class RealHost(Machine):
    """This machine, with its state directory. `environ` is what commands inherit."""

    def __init__(self, state: Path, environ: Mapping[str, str]) -> None:
        super().__init__(state, ATTEMPT_MARK)
        self._environ = environ

    async def accept(self, attempt: str, order: OrderMessage) -> None:
        account, of_user = None, dict[str, str]()
        if order.user is not None:
            account, of_user = await look_up(order.user)
        environ = {**self._environ, **of_user, **own_environ(attempt, order)}
        wanted = shim_order(attempt, order, environ, account)
        await self.write_order(attempt, files.order_json(wanted))

    def facts(self) -> FactsMessage:
        return FactsMessage(
            **facts(), hostname=host_name(), version=metadata.version("quarterdeck")
        )

    def load(self) -> LoadMessage:
        return LoadMessage(**self.figures())


def own_environ(attempt: str, order: OrderMessage) -> dict[str, str]:
    """The variables of an order, and those by which a command knows that it is one."""
    terminal = {} if order.pty is None else {"TERM": order.pty.term}
    named = {"QD_RUN_ID": split_attempt(attempt)[0], ATTEMPT_MARK: attempt}
    return {**terminal, **order.env, **named}


def shim_order(
    attempt: str,
    order: OrderMessage,
    environ: Mapping[str, str],
    account: files.Account | None = None,
) -> files.Order:
    """Wire to what the shim reads. Raises Invalid when the order names a user and nobody has looked
    it up: it must not be run as another."""
    if order.user is not None and account is None:
        raise Invalid("user", f"This node can't run anything as another user ({order.user!r}).")
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
        account=account,
        pty=None if order.pty is None else (order.pty.rows, order.pty.columns),
        umask=order.umask,
        start_timeout_s=order.start_timeout_s,
        on_timeout=order.on_timeout,
    )
