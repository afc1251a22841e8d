"""The subjects of the fabric: the only place that puts them together or takes them apart."""

from __future__ import annotations

import hashlib
import re

from quarterdeck.core.ids import TOKEN
from quarterdeck.errors import Invalid

EV = "EV"
OUT = "OUT"
INGEST = "ingest"

ALL_BEATS = "hb.*"
CHANGED = "live.changed"
ALL_OUTPUT = "out.>"
ALL_FACTS = "ev.>"
TRACE = "trace"
LIVE_TRACE = "live.trace"
LONGEST_TOKEN = 255


_REST = re.compile(r"(\.[A-Za-z0-9_-]+)+")
_PLAIN = re.compile(r"[A-Za-z0-9_-]")
_ALL_PLAIN = re.compile(r"[A-Za-z0-9_-]+")


def _token(text: str) -> str:
    if TOKEN.fullmatch(text) is None:
        raise Invalid("subject_token", f"{text[:80]!r} can't be part of a subject.")
    return text


def spoken_by(who: str) -> tuple[str, ...]:
    """What a node may publish to; `who` may be the placeholder of a template of rights."""
    return (f"hb.{who}", f"ev.{who}.>", f"out.{who}.>", f"tail.{who}.*.out")


def heard_by(who: str) -> tuple[str, ...]:
    """What a node may subscribe to; `who` as in `spoken_by`."""
    return (f"cmd.{who}.>", f"tail.{who}.*.in", f"_INBOX_{who}.>")


def inbox(who: str) -> str:
    """Where answers to this node or server go: the beginning of their subjects."""
    return f"_INBOX_{_token(who)}"


def is_reply_of(node: str, reply: str) -> bool:
    """Whether a subject for an answer is one of the node's own."""
    prefix = f"_INBOX_{node}"
    return reply.startswith(prefix) and _REST.fullmatch(reply, len(prefix)) is not None


def orders(node: str) -> str:
    """Requests from a server to the agent of `node`."""
    return f"cmd.{_token(node)}.orders"


def beat_now(node: str) -> str:
    """A server asks the agent of `node` for a heartbeat."""
    return f"cmd.{_token(node)}.beat"


def beat(node: str) -> str:
    """Heartbeats of `node`: to whoever listens, never kept."""
    return f"hb.{_token(node)}"


def snapshots(node: str) -> str:
    """Facts about attempts on `node`: kept in EV until ingested."""
    return f"ev.{_token(node)}.attempt"


def output(node: str, run: str, attempt: str) -> str:
    """Chunks of one attempt."""
    return f"out.{_token(node)}.{_token(run)}.{_token(attempt)}"


def run_output(run: str) -> str:
    """Chunks of every attempt of a run."""
    return f"out.*.{_token(run)}.*"


def node_of(subject: str) -> str:
    """The node token of a subject of this module (always the second)."""
    parts = subject.split(".")
    if len(parts) < 2:
        raise Invalid("subject", f"{subject[:80]!r} names no node.")
    return parts[1]


def escaped(text: str) -> str:
    """Any text as one token: what may not stand there is written `=XX`. A very long one is cut and
    told from others by a hash."""
    if len(text) <= LONGEST_TOKEN and _ALL_PLAIN.fullmatch(text):
        return text
    token = "".join(
        chr(byte) if _PLAIN.fullmatch(chr(byte)) else f"={byte:02X}"
        for byte in text.encode(errors="replace")
    )
    if len(token) > LONGEST_TOKEN:
        digest = hashlib.sha256(token.encode()).hexdigest()[:32]
        token = f"{token[:200]}=h{digest}"
    return token or "="


def trace_stream(namespace: str) -> str:
    """The JetStream stream of the ephemeral traces of a namespace."""
    return f"TRACE_{escaped(namespace)}"


def traces(namespace: str, name: str = "", *, live: bool = False) -> str:
    """What ephemeral traces say, of a namespace or of one name there; with `live` kept ones."""
    kind = LIVE_TRACE if live else TRACE
    return f"{kind}.{escaped(namespace)}.{escaped(name) + '.' if name else ''}>"


def trace(namespace: str, name: str, sender: str, id: str, *, live: bool = False) -> str:
    """What one trace says; `live`: a kept one, whose chunks are not kept here."""
    kind = LIVE_TRACE if live else TRACE
    words = (escaped(namespace), escaped(name), escaped(sender), _token(id))
    return f"{kind}.{'.'.join(words)}"


def one_trace(id: str) -> tuple[str, str]:
    """What one trace says, whatever it is called, ephemeral or kept."""
    return f"{TRACE}.*.*.*.{_token(id)}", f"{LIVE_TRACE}.*.*.*.{_token(id)}"


def trace_of(subject: str) -> str:
    """The trace of a subject of one."""
    words = subject.removeprefix("live.").split(".")
    if len(words) != 5 or words[0] != TRACE:
        raise Invalid("subject", f"{subject[:80]!r} is not a subject of traces.")
    return words[4]


def attempt_of(subject: str) -> str:
    """The attempt token of an output subject."""
    parts = subject.split(".")
    if len(parts) != 4 or parts[0] != "out":
        raise Invalid("subject", f"{subject[:80]!r} is not a subject of output.")
    return parts[3]
