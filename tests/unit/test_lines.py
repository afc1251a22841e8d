"""Log lines: JSON, from a level on, and without what structlog brings for terminals."""

from __future__ import annotations

import io
import json
import subprocess
import sys

from quarterdeck.telemetry import LoopFailed, Started
from quarterdeck.telemetry.lines import log_to


def test_an_event_is_one_json_line_with_its_time_name_and_fields() -> None:
    stream = io.StringIO()
    log_to(stream)(Started(what="agent", where="web1"))
    (line,) = stream.getvalue().splitlines()
    told = json.loads(line)
    assert told.pop("timestamp").endswith("Z")
    assert told == {"event": "Started", "level": "info", "what": "agent", "where": "web1"}


def test_events_below_the_level_are_not_written() -> None:
    stream = io.StringIO()
    write = log_to(stream, level="warning")
    write(Started(what="agent", where="web1"))
    assert stream.getvalue() == ""
    write(LoopFailed(loop="beats", error="It broke.", delay_s=1.0))
    assert json.loads(stream.getvalue())["error"] == "It broke."


def test_agents_and_servers_do_not_carry_rich_and_whoever_wants_it_has_it() -> None:
    look = "print(sorted({'rich', 'pygments', 'structlog'} & set(sys.modules)))"
    for part in ("agent", "api"):
        words = f"import sys, quarterdeck.{part}.serve; {look}; import rich; print(rich.__name__)"
        argv = [sys.executable, "-c", words]
        done = subprocess.run(argv, capture_output=True, text=True, check=True)
        assert done.stdout.splitlines() == ["['structlog']", "rich"]
