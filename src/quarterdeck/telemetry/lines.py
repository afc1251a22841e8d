"""Events as log lines: one JSON document each, made by structlog."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

import msgspec

from quarterdeck.telemetry import Event, Subscriber


@contextmanager
def _without(module: str) -> Iterator[None]:
    """Inside, `module` seems not to be installed, unless it was imported before."""
    if module in sys.modules:
        yield
        return
    sys.modules[module] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[module]


# structlog takes rich for tracebacks on a terminal, which nobody is shown here: it would be 4 MiB
# and a fifth of the processor time in which an agent starts
with _without("rich"):
    import structlog


def log_to(stream: TextIO | None = None, *, level: str = "info") -> Subscriber:
    """A subscriber that writes one JSON line per event of at least `level`, default to stderr."""
    logger = structlog.wrap_logger(
        structlog.PrintLogger(stream or sys.stderr),
        processors=[
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(),
        ],
    )
    weights = {name.lower(): weight for name, weight in logging.getLevelNamesMapping().items()}
    threshold = weights[level]

    def write(event: Event) -> None:
        if weights[event.level] < threshold:
            return
        fields = msgspec.to_builtins(event)
        name = fields.pop("type")
        logger.msg(name, level=event.level, **fields)

    return write
