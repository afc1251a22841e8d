"""The topics of traces: told at their begin and end, when they are lost and when they come back."""

from __future__ import annotations

from quarterdeck.core.trace import Trace


def trace_topic(namespace: str, name: str) -> str:
    """Of all traces of one name."""
    return f"trace:{namespace}:{name}"


def topic_of(trace: Trace) -> str:
    return trace_topic(trace.namespace, trace.name)
