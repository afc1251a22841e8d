"""nats-py without its client of JetStream, which it imports with itself and which we don't use.

Three names of headers are all that the rest of nats-py looks at there; importing the whole is a
sixth of the processor time in which an agent starts, and 0.8 MiB. This module comes before anything
of nats-py; whoever imports `nats.js` later gets the real one.
"""

from __future__ import annotations

import sys
from enum import StrEnum
from types import ModuleType, SimpleNamespace


class Header(StrEnum):
    """The headers that nats-py itself reads and writes."""

    STATUS = "Status"
    DESCRIPTION = "Description"
    CONSUMER_STALLED = "Nats-Consumer-Stalled"


def _import_lean() -> None:
    stand_in = ModuleType("nats.js", "In place of nats-py's client of JetStream.")
    stand_in.api = SimpleNamespace(Header=Header)  # type: ignore[attr-defined]
    sys.modules["nats.js"] = stand_in
    try:
        import nats  # noqa: PLC0415 (this is what the module is for)
    finally:
        del sys.modules["nats.js"]
    nats.js = stand_in


if "nats" not in sys.modules:
    _import_lean()
