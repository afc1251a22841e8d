"""What is carried to a machine where nothing of ours is installed: the sources of the far end.

Nothing is written there: a few words of Python read the sources from stdin and import from memory.
The list is whole and exact, and all of it needs the standard library alone.
"""

from __future__ import annotations

import base64
import functools
import importlib.util
import json
import shlex
import zlib
from collections.abc import Sequence

from quarterdeck.agent.ssh import far

OLDEST = (3, 11)
NO_PYTHON = "quarterdeck-no-python"
MODULES = (
    "quarterdeck",
    "quarterdeck.errors",
    "quarterdeck.service",
    "quarterdeck.core",
    "quarterdeck.core.ids",
    "quarterdeck.core.states",
    "quarterdeck.agent",
    "quarterdeck.agent.account",
    "quarterdeck.agent.addresses",
    "quarterdeck.agent.figures",
    "quarterdeck.agent.follow",
    "quarterdeck.agent.held",
    "quarterdeck.agent.journal",
    "quarterdeck.agent.machine",
    "quarterdeck.agent.process",
    "quarterdeck.agent.spawner",
    "quarterdeck.agent.shim",
    "quarterdeck.agent.shim.cgroup",
    "quarterdeck.agent.shim.child",
    "quarterdeck.agent.shim.disk",
    "quarterdeck.agent.shim.fields",
    "quarterdeck.agent.shim.files",
    "quarterdeck.agent.shim.last_words",
    "quarterdeck.agent.shim.life",
    "quarterdeck.agent.shim.linux",
    "quarterdeck.agent.shim.main",
    "quarterdeck.agent.shim.pump",
    "quarterdeck.agent.shim.requests",
    "quarterdeck.agent.shim.sweep",
    "quarterdeck.agent.shim.terminal",
    "quarterdeck.agent.shim.tree",
    "quarterdeck.agent.ssh",
    "quarterdeck.agent.ssh.far",
    "quarterdeck.agent.ssh.frames",
)

# Run as `python -c BOOT MODULE ARGUMENT...` with eight digits of length and the sources on stdin.
_BOOT = """
import importlib, importlib.util, json, os, sys, zlib
def exactly(count):
    data = b""
    while len(data) < count:
        part = os.read(0, count - len(data))
        if not part:
            sys.exit(1)
        data += part
    return data
class Carried:
    def __init__(self, boot, head, data):
        self.boot, self.carried = boot, head + data
        self.sources = json.loads(zlib.decompress(data))
    def find_spec(self, name, path=None, target=None):
        if name in self.sources:
            package, _ = self.sources[name]
            return importlib.util.spec_from_loader(name, self, is_package=package)
    def create_module(self, spec):
        return None
    def exec_module(self, module):
        code = compile(self.sources[module.__name__][1], module.__name__, "exec")
        exec(code, module.__dict__)
head = exactly(8)
sys.meta_path.insert(0, Carried(boot, head, exactly(int(head))))
sys.exit(importlib.import_module(sys.argv[1]).run(sys.argv[2:]))
"""

# One line, in which no login shell finds anything to change inside single quotes.
_PACKED = base64.b64encode(zlib.compress(_BOOT.encode(), 9)).decode()
BOOT = (
    'import base64,sys,zlib;boot=sys.orig_argv[sys.orig_argv.index("-c")+1];'
    f'exec(zlib.decompress(base64.b64decode("{_PACKED}")))'
)

# $@ is BOOT, the module and its arguments.
_SHELL = (
    "for p in python3 python3.14 python3.13 python3.12 python3.11; do "
    f'"$p" -I -S -c "import sys; sys.exit(sys.version_info < {OLDEST})" 2>/dev/null '
    '&& exec "$p" -I -S -c "$@"; done; '
    f"echo {NO_PYTHON} $(python3 -V 2>&1); exit 86"
)


def command(module: str, arguments: Sequence[str]) -> str:
    """The command line for a login shell that runs a carried module."""
    words = ["/bin/sh", "-c", _SHELL, "sh", BOOT, module, *arguments]
    return "exec " + " ".join(shlex.quote(word) for word in words)


@functools.cache
def sources() -> bytes:
    """What the command reads first: the length and the packed sources."""
    found: dict[str, tuple[bool, str]] = {}
    for name in MODULES:
        spec = importlib.util.find_spec(name)
        assert spec is not None and spec.loader is not None, name
        text = spec.loader.get_source(name)  # type: ignore[attr-defined]
        found[name] = (spec.submodule_search_locations is not None, text or "")
    data = zlib.compress(json.dumps(found).encode(), 6)
    return b"%08d" % len(data) + data


FAR = far.__name__
