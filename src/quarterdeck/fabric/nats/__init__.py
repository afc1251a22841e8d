"""The fabric over NATS; all that the rest of quarterdeck needs of it is exported here."""

import quarterdeck.fabric.nats.lean  # noqa: F401 (first: it decides what comes of nats-py)
from quarterdeck.fabric.nats.fabric import NatsFabric
from quarterdeck.fabric.nats.link import Options

__all__ = ["NatsFabric", "Options"]
