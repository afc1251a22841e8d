"""Who failed often from one address waits: a little at first, then longer each time.

The first `FREE` failures cost nothing, so that a mistyped token is simply given again; each further
one closes the door for twice as long, up to `MAX_WAIT_S`. What lies `FORGET_S` back is forgotten.
Times are monotonic seconds of one process: each server brakes for itself.
"""

from __future__ import annotations

import ipaddress

import msgspec

FREE = 3
FIRST_WAIT_S = 1.0
MAX_WAIT_S = 60.0
FORGET_S = 600.0
MAX_ADDRESSES = 4096
V6_PREFIX = 64


class _Failures(msgspec.Struct, frozen=True):
    times: int
    last: float


class Brake:
    """The failures of the last `MAX_ADDRESSES` addresses that failed; older ones are forgotten."""

    def __init__(self) -> None:
        self._known: dict[str, _Failures] = {}

    def wait_s(self, address: str, now: float) -> float:
        """How long `address` has to wait from now on; 0 when it may try."""
        found = self._known.get(place(address))
        if found is None or now - found.last >= FORGET_S:
            return 0.0
        return max(0.0, found.last + _pause_s(found.times) - now)

    def failed(self, address: str, now: float) -> None:
        """One more failure; the address is the last to be forgotten."""
        key = place(address)
        found = self._known.pop(key, None)
        times = found.times if found is not None and now - found.last < FORGET_S else 0
        self._known[key] = _Failures(times + 1, now)
        while len(self._known) > MAX_ADDRESSES:
            del self._known[next(iter(self._known))]

    def passed(self, address: str) -> None:
        """Somebody there succeeded: the failures before were mistakes."""
        self._known.pop(place(address), None)

    def __len__(self) -> int:
        return len(self._known)


def place(address: str) -> str:
    """What counts as one address: of IPv6 a whole /64, which one machine may have to itself."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address[:64]
    if found.version == 4:
        return str(found)
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ipaddress.ip_network((found, V6_PREFIX), strict=False))


def _pause_s(times: int) -> float:
    if times <= FREE:
        return 0.0
    return float(min(MAX_WAIT_S, FIRST_WAIT_S * 2.0 ** min(times - FREE - 1, 16)))
