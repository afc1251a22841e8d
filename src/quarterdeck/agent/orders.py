"""Orders from servers: verified, done, answered.

Every request is a signed envelope for this node and this session; anything else is dropped and
told to telemetry. Only a server that signed for an earlier session gets an answer: the new one.
Orders that change attempts are done one after the other; reads of output go beside them.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from functools import partial
from typing import assert_never

from quarterdeck.agent.held import REVOKED, Refusal
from quarterdeck.agent.host import Host
from quarterdeck.agent.run import Attempts
from quarterdeck.agent.shim import files
from quarterdeck.core.model import MAX_ORDER_BYTES
from quarterdeck.core.states import RefusalCode
from quarterdeck.errors import Denied, Invalid, Unavailable
from quarterdeck.fabric.base import Fabric, Message
from quarterdeck.fabric.identity import verify
from quarterdeck.service import Services, guarded, sentence
from quarterdeck.telemetry import AttemptBroken, OrderRejected, Telemetry
from quarterdeck.wire.agentless import AgentlessKept, KeepAgentless
from quarterdeck.wire.codec import decode, encode, open_envelope
from quarterdeck.wire.run import (
    AnswerItem,
    Answers,
    AttemptBusy,
    AttemptRefused,
    AttemptReleased,
    AttemptUnknown,
    OrderItem,
    Orders,
    OutputBytes,
    ReadOutput,
    ReleaseAttempt,
    ReportAttempt,
    RevokeAttempt,
    SignalAttempt,
    StartAttempt,
    StopAttempt,
)

READ_BYTES = 1 << 20
MOST_REFUSED = 10_000
"""Refusals that the disk did not take, remembered for a session: a few MiB."""
READABLE = ("stdout", "stderr", "times")


class OrderDesk:
    """Where requests to this node end up."""

    def __init__(
        self,
        *,
        node: str,
        session: str,
        order_keys: Callable[[], tuple[str, ...]],
        fabric: Fabric,
        host: Host,
        attempts: Attempts,
        services: Services,
        telemetry: Telemetry,
        full: Callable[[], str],
        beat: Callable[[], None],
        keep: Callable[[KeepAgentless], Awaitable[None]] | None = None,
    ) -> None:
        self._node = node
        self._session = session
        self._order_keys = order_keys
        self._fabric = fabric
        self._host = host
        self._attempts = attempts
        self._services = services
        self._telemetry = telemetry
        self._full = full
        self._beat = beat
        self._keep_agentless = keep
        self._turn = asyncio.Lock()
        self._refused: dict[str, Refusal] = {}

    def receive(self, message: Message) -> None:
        """The handler of the node's subscription."""
        self._services.spawn(self._handle(message), "order")

    async def _handle(self, message: Message) -> None:
        try:
            sealed = open_envelope(
                message.data, to=self._node, session=self._session, verify=self._verify
            )
            orders: Orders = decode(sealed.body, Orders)
        except (Invalid, Denied) as error:
            self._telemetry.emit(
                OrderRejected(node=self._node, code=error.code, error=error.message)
            )
            if error.code == "wrong_session":
                await self._tell_session(message)
            return
        items = tuple(
            [await guarded(self._do(item), partial(self._failed, item)) for item in orders.items]
        )
        answer = Answers(node=self._node, session=self._session, items=items)
        await self._answer(message, answer)

    async def _answer(self, message: Message, answer: Answers) -> None:
        """Answer; when the link is down the server asks again at the next beat."""
        with contextlib.suppress(Unavailable):
            if message.reply:
                await self._fabric.publish(message.reply, encode(answer))

    def _failed(self, item: OrderItem, error: Exception) -> AnswerItem:
        """One attempt that can't be dealt with does not void the answers for the others."""
        text = sentence(error)
        self._telemetry.emit(AttemptBroken(attempt=item.attempt, error=text))
        return AttemptBusy(attempt=item.attempt, text=text)

    async def _tell_session(self, message: Message) -> None:
        """A server of ours that missed our start: let it know at once instead of waiting."""
        self._beat()
        await self._answer(message, Answers(node=self._node, session=self._session))

    def _verify(self, data: bytes, signature: bytes) -> bool:
        return any(verify(key, data, signature) for key in self._order_keys())

    async def _do(self, item: OrderItem) -> AnswerItem:
        if isinstance(item, ReadOutput):
            return await self._read(item)
        if isinstance(item, KeepAgentless):
            return await self._keep(item)
        async with self._turn:
            try:
                return await self._change(item)
            except Invalid as error:
                why = _invalid(error)
                return AttemptRefused(attempt=item.attempt, code=why.code, text=why.text)
            except OSError as error:
                return AttemptBusy(attempt=item.attempt, text=f"The node's disk: {error}.")

    async def _keep(self, item: KeepAgentless) -> AnswerItem:
        if self._keep_agentless is None:
            return AttemptUnknown(attempt="")
        try:
            await self._keep_agentless(item)
        except OSError as error:
            return AttemptBusy(attempt="", text=f"The node's disk: {error}.")
        return AgentlessKept(version=item.version)

    async def _change(
        self,
        item: StartAttempt
        | StopAttempt
        | SignalAttempt
        | RevokeAttempt
        | ReleaseAttempt
        | ReportAttempt,
    ) -> AnswerItem:
        attempt = item.attempt
        match item:
            case StartAttempt():
                return await self._start(item)
            case StopAttempt(count=count, signal=number, grace_s=grace_s):
                wanted = files.Stop(
                    count=count,
                    signal=number,
                    reason="cancelled",
                    grace_s=10.0 if grace_s is None else grace_s,
                )
                return await self._attempts.stop(attempt, wanted) or AttemptUnknown(attempt=attempt)
            case SignalAttempt(signals=signals):
                numbered = tuple(files.Signal(s.number, s.signal, s.tree) for s in signals)
                known = await self._attempts.signal(attempt, numbered)
                return known or AttemptUnknown(attempt=attempt)
            case RevokeAttempt():
                return await self._revoke(attempt)
            case ReleaseAttempt():
                if await self._attempts.release(attempt):
                    return AttemptReleased(attempt=attempt)
                return AttemptBusy(attempt=attempt, text="It has not ended.")
            case ReportAttempt():
                return self._attempts.report(attempt) or AttemptUnknown(attempt=attempt)
            case _ as never:
                assert_never(never)

    async def _start(self, item: StartAttempt) -> AnswerItem:
        known = self._attempts.report(item.attempt)
        if known is not None:
            return known
        problem = self._why(item.attempt)
        if problem is None and (text := _problem(item)):
            problem = Refusal(code=RefusalCode.INVALID, text=text)
        if problem is None and (text := self._full()):
            problem = Refusal(code=RefusalCode.DISK, text=text)
        if problem is not None:
            return await self._refuse(item.attempt, problem)
        try:
            return await self._attempts.accept(item.attempt, item.order)
        except Invalid as error:
            return await self._refuse(item.attempt, _invalid(error))
        except OSError as error:
            text = (
                f"The node can't write the order ({error.strerror or error}), so nothing was "
                "started: mend its disk, then run it again."
            )
            return await self._refuse(item.attempt, Refusal(code=RefusalCode.DISK, text=text))

    async def _revoke(self, attempt: str) -> AnswerItem:
        known = self._attempts.report(attempt)
        if known is not None:
            return known
        return await self._refuse(attempt, self._why(attempt) or REVOKED)

    def _why(self, attempt: str) -> Refusal | None:
        """Why it was refused before: the answer may have been lost, and a repeat gets it again."""
        return self._refused.get(attempt) or self._host.buried(attempt)

    async def _refuse(self, attempt: str, why: Refusal) -> AnswerItem:
        """Refuse for ever. On a disk that takes not even a tombstone this session remembers it;
        orders of earlier sessions are not obeyed anyway. Without room to remember nothing is
        refused: the server asks again."""
        if self._host.buried(attempt) is None:
            with contextlib.suppress(OSError):
                await self._host.bury(attempt, why)
        buried = self._host.buried(attempt)
        if buried == why:
            self._refused.pop(attempt, None)
        elif attempt in self._refused or len(self._refused) < MOST_REFUSED:
            self._refused[attempt] = why
        elif buried is None:
            text = "The node's disk takes no note of a refusal; make room on it."
            return AttemptBusy(attempt=attempt, text=text)
        return AttemptRefused(attempt=attempt, code=why.code, text=why.text)

    async def _read(self, item: ReadOutput) -> AnswerItem:
        if item.stream not in READABLE or item.offset < 0:
            return AttemptUnknown(attempt=item.attempt)
        spool = self._host.spool(item.attempt)
        try:
            data = await spool.read(item.stream, item.offset, max(0, min(item.length, READ_BYTES)))
            size = await spool.size(item.stream)
        finally:
            spool.close()
        # looked at after the read: a release in between must not look like an empty file
        held = self._host.look(item.attempt)
        if held is None:
            return AttemptUnknown(attempt=item.attempt)
        return OutputBytes(
            attempt=item.attempt,
            stream=item.stream,
            offset=item.offset,
            data=data,
            size=size,
            final=held.end is not None,
        )


def _invalid(error: Invalid) -> Refusal:
    return Refusal(code=RefusalCode.INVALID, text=error.message)


def _problem(item: StartAttempt) -> str:
    """What is wrong with an order, as a sentence; empty when nothing is."""
    order = item.order
    if order.leftovers not in ("keep", "kill"):
        return f"`leftovers` is {order.leftovers!r}; it can be `keep` or `kill`."
    if bool(order.argv) == bool(order.script):
        return "The order needs exactly one of a script and an argv."
    if len(order.script) + len(order.stdin) > MAX_ORDER_BYTES:
        return f"Script and stdin together are larger than {MAX_ORDER_BYTES} bytes."
    texts = [*order.argv, *order.args, *order.env, *order.env.values()]
    texts += [order.cwd or "", order.user or "", order.pty.term if order.pty else ""]
    if any("\0" in text for text in texts):
        return "An argument, variable, directory, user or terminal holds a NUL character."
    if order.pty is not None and not (0 <= order.pty.rows < 65536 > order.pty.columns >= 0):
        return f"A terminal can't have {order.pty.rows} rows of {order.pty.columns} columns."
    if order.umask is not None and not 0 <= order.umask <= 0o777:
        return f"`umask` is {order.umask:o} (octal); it can be 000 to 777."
    if any(not key or "=" in key for key in order.env):
        return "The name of an environment variable is empty or holds `=`."
    return ""
