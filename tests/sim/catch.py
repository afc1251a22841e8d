"""Run cases in one process: `python -m tests.sim.catch MUTATION:PLAN ...`, a line of JSON for each.

Both may be empty: the real code, random faults. A mutation gets `SEEDS` seeds to be caught in;
with random faults, which take long, they begin with one that is known to catch.
"""

from __future__ import annotations

import gc
import json
import sys

from tests.sim.simulate import simulate

SEEDS = 8
CATCHING = 3


def main(cases: list[str]) -> None:
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
    for case in cases:
        mutation, _, script = case.partition(":")
        violation = None
        first = 1 if script else CATCHING
        for seed in range(first, first + (SEEDS if mutation else 1)):
            violation = simulate(seed, mutation, script).violation
            if violation is not None:
                break
        print(json.dumps({"case": case, "violation": violation}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
