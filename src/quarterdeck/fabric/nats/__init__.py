"""The fabric over NATS; all that the rest of quarterdeck needs of it is exported here."""

from quarterdeck.fabric.nats.fabric import NatsFabric
from quarterdeck.fabric.nats.link import Options

__all__ = ["NatsFabric", "Options"]
