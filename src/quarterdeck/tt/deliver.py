"""Deliver one trace: begin, segments, end; again from the begin whenever the server was away.

Everything may be sent twice: the begin by its key, segments by their offsets, the end as it is. So
every failure has one answer, a new connection and the same key.
"""

from __future__ import annotations

import os
import threading
import time

from quarterdeck.tt.talk import Away, Forgotten, Link, Refused, open_link
from quarterdeck.tt.text import encode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from quarterdeck.tt.buffer import Buffer
    from quarterdeck.tt.place import Place

_MOST_BODY = 4 << 20
_BEAT_S = 1.0  # the server wants to hear something every 2 s
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 3.0
_DENIED = (401, 403)
_LATER = (0, 408, 425, 429)


class Told:
    """What a delivery says of itself; here nobody listens."""

    def connecting(self) -> None:
        """A connection is about to be made."""

    def connected(self) -> None:
        """The server is there."""

    def begun(self, url: str) -> None:
        """The trace can be watched at a URL."""

    def away(self, why: str) -> None:
        """The server is not there now."""

    def refused(self, why: str) -> None:
        """It never will be."""


class Delivery:
    """Of one buffer to one place. `alive`: whether the server is to hear of us when nothing is to
    be sent. `given_up` may be set from another thread."""

    def __init__(
        self, place: Place, begin: dict[str, Any], buffer: Buffer, told: Told, *, alive: bool
    ) -> None:
        self._place = place
        self._begin = begin
        self._buffer = buffer
        self._told = told
        self._alive = alive
        self._trace = ""
        self._url_told = False
        self.given_up = threading.Event()

    def run(self) -> bool:
        """Until everything is delivered (True), or never will be, or was given up."""
        pause_s = _FIRST_PAUSE_S
        while not self.given_up.is_set():
            began = time.monotonic()
            try:
                return self._session()
            except Forgotten:
                continue
            except Refused as error:
                self._told.refused(str(error))
                return False
            except Away as error:
                if time.monotonic() - began > 2 * _LONGEST_PAUSE_S and self._url_told:
                    pause_s = _FIRST_PAUSE_S  # it was there for a while: look again at once
                if pause_s > _FIRST_PAUSE_S or not self._url_told:
                    self._told.away(str(error))
            # as many senders as there are must not come at the same moment
            self.given_up.wait(pause_s * (0.5 + os.urandom(1)[0] / 256))
            pause_s = min(_LONGEST_PAUSE_S, pause_s * 2)
        return False

    def _session(self) -> bool:
        self._told.connecting()
        if not self._place.refresh():
            raise Away("no server runs there")
        link = open_link(self._place)
        try:
            self._told.connected()
            self._begin_on(link)
            while not self.given_up.is_set():
                data = self._buffer.peek(_MOST_BODY, _BEAT_S)
                if not data and self._buffer.drained():
                    return self._end_on(link)
                if data or self._alive:
                    self._call(link, f"/v1/traces/{self._trace}/segments", data)
                self._buffer.pop(len(data))
            return False
        finally:
            link.close()

    def _begin_on(self, link: Link) -> None:
        self._trace = ""
        path = "/v1/traces"
        if self._place.namespace:
            path += f"?namespace={self._place.namespace}"
        found = self._call(link, path, encode(self._begin).encode())
        acked = found.get("acked") or {}
        self._trace = str(found.get("trace", ""))
        self._buffer.skip({0: int(acked.get("stdout", 0)), 1: int(acked.get("stderr", 0))})
        if not self._url_told:
            self._url_told = True
            self._told.begun(str(found.get("url", "")))

    def _end_on(self, link: Link) -> bool:
        """A front that was killed said nothing: the server finds out by not hearing of us."""
        if self._buffer.end:
            code, number, at_us, *kept = (int(word) for word in self._buffer.end.split())
            said = {
                "code": None if number else code,
                "signal": number or None,
                "ended_at": at_us / 1e6,
                "stdout": kept[0],
                "stderr": kept[1],
            }
            self._call(link, f"/v1/traces/{self._trace}/end", encode(said).encode())
        return True

    def _call(self, link: Link, path: str, body: bytes) -> dict[str, Any]:
        kind = "application/octet-stream" if path.endswith("/segments") else "application/json"
        headers = {"Content-Type": kind, "Trace-Key": str(self._begin["key"])}
        status, found = link.ask("POST", path, body, headers)
        if status in (200, 201):
            return found
        why = str(found.get("detail") or found.get("title") or f"it answered {status}")
        if found.get("code") == "trace_not_found" and self._trace:
            raise Forgotten(why)
        if status >= 500 or status in _LATER:
            raise Away(why)
        if status in _DENIED:
            raise Refused(f"the token is not accepted: {why}")
        raise Refused(why)
