"""One bug for each rule of docs/ATTEMPT.md, put into the real code while a simulation runs."""

from tests.sim.mutations import node, server
from tests.sim.mutations.registry import MUTATIONS, mutated

__all__ = ["MUTATIONS", "mutated", "node", "server"]
