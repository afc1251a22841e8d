"""What was read from the record a moment ago may be used again, so that who asks many times a
second does not wait for the record each time.

Theory. A value is used until `most_s` after its reading began. Once `RENEW_FROM` of that time has
passed, whoever uses it has it read again beside, so who keeps asking never waits. Whoever commits a
change on this server calls `forget` afterwards: what was read before is used no more, and a reading
that is still under way is kept for nobody. Changes of other servers are told by the fabric
(control/changes.py) and forgotten in the same way; should that message be lost, `most_s` bounds how
late it is noticed.

Only for what is right to use that late, and never for what decides a write: that is guarded by
versions.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from quarterdeck.errors import QuarterdeckError, Unavailable
from quarterdeck.service import Clock, Services

T = TypeVar("T")

MOST_S = 0.8
RENEW_FROM = 0.75
MOST_KEPT = 10_000


class _Kept(Generic[T]):
    __slots__ = ("at", "renewing", "value")

    def __init__(self, value: T, at: float) -> None:
        self.value = value
        self.at = at
        self.renewing = False


class Recent(Generic[T]):
    """Values by key, each at most `most_s` old; `worth` says which are kept at all."""

    def __init__(
        self,
        what: str,
        *,
        clock: Clock,
        services: Services,
        worth: Callable[[T], bool] = lambda _: True,
        most_s: float = MOST_S,
    ) -> None:
        self._what = what
        self._clock = clock
        self._services = services
        self._worth = worth
        self._most_s = most_s
        self._values: dict[str, _Kept[T]] = {}
        self._reading: dict[str, object] = {}

    async def get(self, key: str, read: Callable[[], Awaitable[T]]) -> T:
        """What `read` answered lately, or answers now. Raises what it raises."""
        kept = self._values.get(key)
        if kept is None:
            return await self._read(key, read)
        age = self._clock.monotonic() - kept.at
        if age >= self._most_s:
            del self._values[key]
            return await self._read(key, read)
        if age >= self._most_s * RENEW_FROM and not kept.renewing:
            kept.renewing = True
            self._services.spawn(self._renew(key, read), f"renew {self._what}")
        return kept.value

    def forget(self, *keys: str) -> None:
        """These have changed."""
        for key in keys:
            self._values.pop(key, None)
            self._reading.pop(key, None)

    def forget_all(self) -> None:
        """Any of them may have changed."""
        self._values.clear()
        self._reading.clear()

    async def _read(self, key: str, read: Callable[[], Awaitable[T]]) -> T:
        began = self._clock.monotonic()
        mark = self._reading[key] = object()
        try:
            value = await read()
            if self._reading.get(key) is mark and self._worth(value):
                self._keep(key, _Kept(value, began))
            return value
        finally:
            if self._reading.get(key) is mark:
                del self._reading[key]

    async def _renew(self, key: str, read: Callable[[], Awaitable[T]]) -> None:
        try:
            await self._read(key, read)
        except Unavailable:
            return  # what is known stays good for its time
        except QuarterdeckError:
            self.forget(key)  # whoever asks next is told why

    def _keep(self, key: str, kept: _Kept[T]) -> None:
        self._values.pop(key, None)
        while len(self._values) >= MOST_KEPT:
            del self._values[next(iter(self._values))]
        self._values[key] = kept
