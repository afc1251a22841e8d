"""JetStream in memory: the part of nats-server's API under `$JS.` that quarterdeck uses."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import islice
from typing import Any

import msgspec

from quarterdeck.fabric.memory.consumer import Consumer, Post
from quarterdeck.fabric.memory.stream import DEFAULT_WINDOW_NS, Full, Stream
from quarterdeck.service import caught

_NO_STREAM = (404, 10059, "stream not found")
_SUBJECTS_PER_PAGE = 100_000
_NO_CONSUMER = (404, 10014, "consumer not found")
_NAME_IN_USE = (400, 10058, "stream name already in use with a different configuration")
_BAD_JSON = (400, 10025, "invalid JSON")
_BAD_WINDOW = (500, 10052, "duplicates window can not be negative")
_BAD_REPLICAS = (500, 10074, "replicas > 1 not supported in non-clustered mode")
_BAD_ACK_WAIT = (400, 10004, "consumer ack wait must be positive")


class JetStream:
    """`post` gives a message to whoever listens to a subject; `listened` says whether somebody
    does."""

    def __init__(self, post: Post, listened: Callable[[str], bool]) -> None:
        self._post = post
        self._listened = listened
        self.streams: dict[str, Stream] = {}
        self._consumers: dict[tuple[str, str], Consumer] = {}

    def stream_of(self, subject: str) -> Stream | None:
        return next((one for one in self.streams.values() if one.covers(subject)), None)

    def store(self, stream: Stream, subject: str, headers: bytes, data: bytes) -> bytes:
        """The answer for the publisher."""
        now = asyncio.get_running_loop().time()
        name = stream.config["name"]
        try:
            sequence, known = stream.store(subject, headers, data, now)
        except Full as full:
            return msgspec.json.encode(
                {"stream": name, "seq": 0, **_error(full.status, full.code, full.words)}
            )
        for (of, _), consumer in self._consumers.items():
            if of == name:
                consumer.serve()
        answer: dict[str, Any] = {"stream": name, "seq": sequence}
        return msgspec.json.encode({**answer, "duplicate": True} if known else answer)

    def crash(self) -> None:
        for consumer in self._consumers.values():
            consumer.crash()

    def restarted(self) -> None:
        now = asyncio.get_running_loop().time()
        self.streams = {n: one for n, one in self.streams.items() if not one.in_memory}
        for stream in self.streams.values():
            stream.restarted(now)
        for consumer in self._consumers.values():
            consumer.restarted()

    def handle(self, subject: str, reply: str, data: bytes) -> bool:
        """Work on a message to `$JS.`; False when nothing listens to this subject."""
        match subject.split("."):
            case ["$JS", "ACK", stream, consumer, _, sequence, *_]:
                if (found := self._consumers.get((stream, consumer))) is not None:
                    found.settle(int(sequence), data)
            case ["$JS", "API", "CONSUMER", "MSG", "NEXT", stream, consumer]:
                if (found := self._consumers.get((stream, consumer))) is None:
                    return False
                found.pull(reply, _body(data) or {})
            case ["$JS", "API", "DIRECT", "GET", name]:
                stream_ = self.streams.get(name)
                if stream_ is None or not stream_.config.get("allow_direct"):
                    return False
                self._direct_get(stream_, reply, _body(data))
            case ["$JS", "API", *call]:
                answer = self._call(call, data)
                self._post(reply, msgspec.json.encode(answer))
            case _:
                return False
        return True

    def _call(self, call: list[str], data: bytes) -> dict[str, Any]:
        body = _body(data) if data else {}
        if body is None:
            return _error(*_BAD_JSON)
        match call:
            case ["INFO"]:
                return {"streams": len(self.streams), "consumers": len(self._consumers)}
            case ["STREAM", "CREATE", name]:
                return self._create(name, body)
            case ["STREAM", verb, name]:
                stream = self.streams.get(name)
                if stream is None:
                    return _error(*_NO_STREAM)
                stream.expire(asyncio.get_running_loop().time())
                return self._change(stream, verb, body)
            case ["CONSUMER", "DURABLE", "CREATE", stream, name]:
                return self._create_consumer(stream, name, body.get("config", {}))
            case ["CONSUMER", "INFO", stream, name]:
                found = self._consumers.get((stream, name))
                return _error(*_NO_CONSUMER) if found is None else {"config": found.config}
        return _error(*_BAD_JSON)

    def _create(self, name: str, body: dict[str, Any]) -> dict[str, Any]:
        config = _completed(body)
        if (wrong := _wrong(config)) is not None:
            return _error(*wrong)
        present = self.streams.get(name)
        if present is not None and present.config != config:
            return _error(*_NAME_IN_USE)
        return _info(self.streams.setdefault(name, Stream(config)))

    def _change(self, stream: Stream, verb: str, body: dict[str, Any]) -> dict[str, Any]:
        match verb:
            case "UPDATE":
                config = _completed(body)
                if (wrong := _wrong(config)) is not None:
                    return _error(*wrong)
                stream.config = config
            case "PURGE":
                return {"success": True, "purged": stream.purge(body.get("filter", ">"))}
            case "DELETE":
                name = stream.config["name"]
                del self.streams[name]
                for key in [key for key in self._consumers if key[0] == name]:
                    self._consumers.pop(key).crash()
                return {"success": True}
        info = _info(stream)
        if verb == "INFO" and (pattern := body.get("subjects_filter")):
            held = sorted(stream.subjects(pattern).items())
            page = held[body.get("offset", 0) :][:_SUBJECTS_PER_PAGE]
            info["state"]["subjects"] = dict(page)
            info |= {"total": len(held), "offset": body.get("offset", 0)}
        return info

    def _create_consumer(self, of: str, name: str, config: dict[str, Any]) -> dict[str, Any]:
        stream = self.streams.get(of)
        if stream is None:
            return _error(*_NO_STREAM)
        if config.get("ack_wait", 0) < 0:
            return _error(*_BAD_ACK_WAIT)
        config = {**config, "ack_wait": config.get("ack_wait") or 30 * 10**9}
        present = self._consumers.get((of, name))
        if present is None:
            made = Consumer(stream, config, self._post, self._listened)
            self._consumers[(of, name)] = made
        else:
            present.config = config
            present.serve()
        return {"stream_name": of, "name": name, "config": config}

    def _direct_get(self, stream: Stream, reply: str, body: dict[str, Any] | None) -> None:
        pattern = (body or {}).get("next_by_subj", "")
        if not body or not pattern:
            self._post(reply, b"", b"NATS/1.0 408 Bad Request\r\n\r\n")
            return
        stream.expire(asyncio.get_running_loop().time())
        found = stream.select(pattern, max(1, body.get("seq", 1)))
        room, sent = body.get("max_bytes") or float("inf"), 0
        name = stream.config["name"]
        for entry in islice(found, body.get("batch", 1)):
            if sent and room <= 0:
                found = iter((entry, *found))
                break
            room -= entry.size
            sent += 1
            # Those of the stream come last, as from nats-server.
            own = entry.headers.removesuffix(b"\r\n") or b"NATS/1.0\r\n"
            fields = f"Nats-Stream: {name}\r\nNats-Subject: {entry.subject}\r\n"
            numbers = f"Nats-Sequence: {entry.sequence}\r\n\r\n"
            self._post(reply, entry.data, own + (fields + numbers).encode())
        if not sent:
            self._post(reply, b"", b"NATS/1.0 404 Message Not Found\r\n\r\n")
            return
        left = sum(1 for _ in found)
        end = f"NATS/1.0 204 EOB\r\nNats-Num-Pending: {left}\r\n\r\n"
        self._post(reply, b"", end.encode())


def _body(data: bytes) -> dict[str, Any] | None:
    body, _ = caught(lambda: msgspec.json.decode(data, type=dict[str, Any]))
    return body


def _completed(config: dict[str, Any]) -> dict[str, Any]:
    defaults = {"max_bytes": -1, "duplicate_window": DEFAULT_WINDOW_NS}
    given = {key: value for key, value in config.items() if value or key not in defaults}
    return {**defaults, **given}


def _wrong(config: dict[str, Any]) -> tuple[int, int, str] | None:
    if config.get("compression", "none") not in ("none", "s2"):
        return _BAD_JSON
    if config["duplicate_window"] < 0:
        return _BAD_WINDOW
    if config.get("num_replicas", 1) > 1:
        return _BAD_REPLICAS
    return None


def _error(code: int, number: int, text: str) -> dict[str, Any]:
    return {"error": {"code": code, "err_code": number, "description": text}}


def _info(stream: Stream) -> dict[str, Any]:
    state = {
        "messages": len(stream.entries),
        "bytes": stream.bytes,
        "first_seq": next(iter(stream.entries), stream.last + 1),
        "last_seq": stream.last,
    }
    return {"config": stream.config, "state": state}
