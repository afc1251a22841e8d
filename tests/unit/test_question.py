"""What a server asks a node about an attempt that the node lists otherwise than it is recorded."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec

from quarterdeck.control.dispatch import _question
from quarterdeck.core.model import Attempt, Snapshot
from quarterdeck.core.states import Phase
from quarterdeck.wire.run import ReleaseAttempt, ReportAttempt

ID = "0123456789abcdef-0-1"
ENDED = Snapshot(
    attempt=ID, revision=3, phase=Phase.ENDED, accepted_at=datetime(2030, 1, 1, tzinfo=UTC)
)
OPEN = Attempt(id=ID, run=ID[:16], task=ID[:-2], node="n1", number=1, snapshot=ENDED)
RELEASED = msgspec.structs.replace(OPEN, sealed=True, released=True)


def test_an_open_attempt_is_looked_up_in_the_journal_of_its_node() -> None:
    assert _question(OPEN) == ReportAttempt(attempt=ID)


def test_what_a_power_cut_brought_back_is_released_again() -> None:
    assert _question(RELEASED) == ReleaseAttempt(attempt=ID)


def test_output_that_nobody_archived_is_not_deleted() -> None:
    untold = msgspec.structs.replace(ENDED, accepted_at=None)
    ended_by_the_server = msgspec.structs.replace(RELEASED, snapshot=untold)
    assert _question(ended_by_the_server) is None
    assert _question(msgspec.structs.replace(RELEASED, log_gone=True)) is None
