"""Which JetStream streams and consumers exist, with their limits; made and kept so by `ensure`.

EV is a work queue of facts (a message leaves it when acknowledged), OUT a cache of recent output.
Both refuse new messages when full (`discard=new`): publishers wait, nothing old is lost.
"""

from __future__ import annotations

from typing import Any, Protocol

import msgspec

from quarterdeck.errors import Invalid, Unavailable
from quarterdeck.fabric.base import Fill, Limits, Window
from quarterdeck.wire.subjects import ALL_FACTS, ALL_OUTPUT, EV, INGEST, OUT

FULL = 10077
"""The JetStream error code of a full stream, as in `Refused.code`."""
TOO_LARGE = 10054
"""That of a message longer than the stream takes."""

# Refusals of settings that nats-server calls errors of its own: a negative duplicate window, more
# replicas than there can be without a cluster.
_REFUSED = frozenset({10052, 10074})
_SECOND_NS = 10**9


class Requester(Protocol):
    async def request(self, subject: str, data: bytes, *, timeout_s: float) -> bytes: ...


def streams(limits: Limits) -> list[dict[str, Any]]:
    """The stream configurations, only with the keys that matter to us."""
    common = {
        "storage": "file",
        "discard": "new",
        "num_replicas": limits.replicas,
        "max_age": 0,
        "max_msgs": -1,
        "max_consumers": -1,
    }
    return [
        {
            **common,
            "name": EV,
            "subjects": [ALL_FACTS],
            "retention": "workqueue",
            "max_bytes": limits.ev_max_bytes,
            "max_msg_size": limits.ev_message_bytes,
            "duplicate_window": int(limits.duplicate_window_s * _SECOND_NS),
        },
        {
            **common,
            "name": OUT,
            "subjects": [ALL_OUTPUT],
            "retention": "limits",
            "max_bytes": limits.out_max_bytes,
            "compression": limits.out_compression,
            "allow_direct": True,
        },
    ]


def ingest_consumer(limits: Limits) -> dict[str, Any]:
    """The durable pull consumer of EV that all servers share."""
    return {
        "durable_name": INGEST,
        "deliver_policy": "all",
        "ack_policy": "explicit",
        "ack_wait": int(limits.ack_wait_s * _SECOND_NS),
        "max_ack_pending": limits.max_ack_pending,
        "max_deliver": -1,
        "num_replicas": limits.replicas,
    }


async def ensure(fabric: Requester, limits: Limits, *, timeout_s: float = 10.0) -> None:
    """Make what is absent, update what differs. May be called by many servers, at any time.

    Raises `Unavailable` while JetStream does not answer, `Invalid` when it refuses the limits.
    """
    for wanted in streams(limits):
        await _ensure_one(fabric, wanted, timeout_s)
    body = {"stream_name": EV, "config": ingest_consumer(limits)}
    answer = await _call(fabric, f"CONSUMER.DURABLE.CREATE.{EV}.{INGEST}", body, timeout_s)
    _check(answer, f"{EV}.{INGEST}")


async def ensure_window(fabric: Requester, window: Window, *, timeout_s: float = 10.0) -> bool:
    """Make the stream of a window or update it; whether it was not there before. Any server may
    call it at any time. Raises `Unavailable`, and `Invalid` for refused limits."""
    return await _ensure_one(fabric, _window(window), timeout_s)


async def drop_window(fabric: Requester, stream: str, *, timeout_s: float = 10.0) -> None:
    """Remove the stream of a window with all it holds; nothing happens when there is none. Raises
    `Unavailable`."""
    answer = await _call(fabric, f"STREAM.DELETE.{stream}", {}, timeout_s)
    if _code(answer) != 404:
        _check(answer, stream)


def _window(window: Window) -> dict[str, Any]:
    """The configuration of a window's stream; its ids may not be older than its messages."""
    return {
        "name": window.stream,
        "subjects": [window.subject],
        "storage": "memory",
        "retention": "limits",
        "discard": "old",
        "num_replicas": window.replicas,
        "max_bytes": window.max_bytes,
        "max_age": int(window.max_age_s * _SECOND_NS),
        "max_msgs": -1,
        "max_consumers": -1,
        "allow_direct": True,
        "duplicate_window": int(min(window.max_age_s, 120.0) * _SECOND_NS),
    }


async def _ensure_one(fabric: Requester, wanted: dict[str, Any], timeout_s: float) -> bool:
    """Whether the stream was not there before."""
    name = wanted["name"]
    info = await _call(fabric, f"STREAM.INFO.{name}", {}, timeout_s)
    if _code(info) == 404:
        made = await _call(fabric, f"STREAM.CREATE.{name}", wanted, timeout_s)
        # Of two servers that create at once with different limits, one finds it made.
        if _code(made) != 400 or made["error"].get("err_code") != 10058:
            _check(made, name)
            return True
        info = await _call(fabric, f"STREAM.INFO.{name}", {}, timeout_s)
    _check(info, name)
    present = info["config"]
    if any(present.get(key) != value for key, value in wanted.items()):
        changed = {**present, **wanted}
        _check(await _call(fabric, f"STREAM.UPDATE.{name}", changed, timeout_s), name)
    return False


async def held_subjects(
    fabric: Requester, stream: str, pattern: str, *, timeout_s: float = 10.0
) -> list[str]:
    """The subjects of which a stream holds messages. Raises `Unavailable`."""
    found: list[str] = []
    while True:
        question = {"subjects_filter": pattern, "offset": len(found)}
        info = await _call(fabric, f"STREAM.INFO.{stream}", question, timeout_s)
        _check(info, stream)
        page = info["state"].get("subjects") or {}
        found += page
        if not page or len(found) >= info.get("total", 0):
            return found


async def fill(fabric: Requester, *, timeout_s: float) -> tuple[Fill, ...]:
    """How full EV and OUT are. Raises `Unavailable`."""
    found = []
    for name in (EV, OUT):
        info = await _call(fabric, f"STREAM.INFO.{name}", {}, timeout_s)
        _check(info, name)
        state = info["state"]
        found.append(
            Fill(
                stream=name,
                messages=state["messages"],
                bytes=state["bytes"],
                max_bytes=info["config"]["max_bytes"],
            )
        )
    return tuple(found)


async def _call(
    fabric: Requester, call: str, body: dict[str, Any], timeout_s: float
) -> dict[str, Any]:
    data = msgspec.json.encode(body) if body else b""
    answer = await fabric.request(f"$JS.API.{call}", data, timeout_s=timeout_s)
    return msgspec.json.decode(answer, type=dict[str, Any])


def _code(answer: dict[str, Any]) -> int:
    return int(answer.get("error", {}).get("code", 0))


def _check(answer: dict[str, Any], name: str) -> None:
    if "error" not in answer:
        return
    text = answer["error"].get("description", "no reason given")
    if _code(answer) == 400 or answer["error"].get("err_code") in _REFUSED:
        raise Invalid(
            "stream_limits",
            f"JetStream refuses the settings of {name}: {text}. Change the limits.",
        )
    raise Unavailable("stream_unavailable", f"JetStream could not set up {name}: {text}.")
