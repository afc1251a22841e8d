"""kill -9 of server, fabric, agents and `qd up` during a run: nothing is lost, nothing runs twice.

`./dev test` plays `QD_FAULT_ROUNDS` = 2 rounds, `./dev faults` 50. The seed is printed; the same
seed gives the same victims and pauses: `QD_FAULT_SEED=N`.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tests.e2e.up import running
from tests.faults.rounds import Round

ROUNDS = int(os.environ.get("QD_FAULT_ROUNDS", "2"))
SEED = int(os.environ.get("QD_FAULT_SEED") or random.randrange(2**32))


@pytest.mark.timeout(240)
@pytest.mark.parametrize("number", range(ROUNDS))
def test_a_run_survives_kills_of_everything_but_its_shims(number: int, tmp_path: Path) -> None:
    chance = random.Random(f"{SEED}/{number}")
    print(f"seed {SEED}, round {number}")
    with running(tmp_path / "up") as up:
        played = Round(up, chance, tmp_path / "count")
        try:
            played.play()
        except BaseException:
            print("\n".join(played.story))
            print(up.logs())
            raise
