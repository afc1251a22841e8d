"""nats-py's client of JetStream is neither used nor carried."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import nats.aio.client

from quarterdeck.fabric.nats.lean import Header

SOURCES = Path(__file__).parents[2] / "src/quarterdeck"


def test_nats_pys_jetstream_is_not_used() -> None:
    files = [file for file in SOURCES.rglob("*.py") if file.name != "lean.py"]
    assert files
    used = re.compile(r"\bnats\.js\b|\.jetstream\(|key_value|ordered_consumer")
    assert [file for file in files if used.search(file.read_text())] == []


def test_nats_pys_jetstream_is_not_carried_and_whoever_wants_it_has_it() -> None:
    look = "print('nats.js.api' in sys.modules)"
    words = f"import sys, quarterdeck.agent.serve; {look}; import nats.js; {look}; nats.js.api"
    argv = [sys.executable, "-c", words]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]


def test_what_stands_in_for_nats_pys_jetstream_has_all_that_the_rest_looks_at() -> None:
    folder = Path(nats.aio.client.__file__).parents[1]
    used = re.compile(r"\bnats\.js\.(?!JetStream)([\w.]+)")
    files = [file for part in ("aio", "protocol") for file in (folder / part).glob("*.py")]
    found = {name for file in files for name in used.findall(file.read_text())}
    names = {name.removeprefix("api.Header.").removesuffix(".value") for name in found}
    assert names == {header.name for header in Header}
    theirs = import_module("nats.js.api").Header
    assert all(theirs[header.name].value == header.value for header in Header)
