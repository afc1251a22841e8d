"""`./dev build`: everything that a release offers, into dist/.

The wheel; `tt`, for any Python; and for this architecture `tt-linux-ARCH` (one file) and
`quarterdeck-agent-linux-ARCH.tar.gz`, for machines without Python; and SHA256SUMS of these. What
is there already from the same sources, by the same Python, is not made again.
"""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "requirements"))

from locked_venv import LOCKS, PYTHON, ROOT, STATE, UV, Argv, Stop, say, step, uv_env

from quarterdeck.tt.pack import zipapp
from release import agent, one_file
from release.carried import CannotCarry
from release.packing import tar_gz

DIST = ROOT / "dist"
SUMS = "SHA256SUMS"
STAMP = STATE / "built.json"
ARCH = platform.machine()
OURS = ("*.whl", "tt", "tt-linux-*", "quarterdeck-agent-linux-*.tar.gz", SUMS)


def main() -> int:
    """Builds what is not there."""
    key = digest()
    if current(key):
        say("dist/ is what the sources say")
    else:
        build()
        STAMP.write_text(json.dumps({"key": key, "sums": (DIST / SUMS).read_text()}))
    for line in (DIST / SUMS).read_text().splitlines():
        name = line.split()[1]
        print(f"dist/{name}  {(DIST / name).stat().st_size / 1e6:.1f} MB")
    return 0


def digest() -> str:
    """The hash of all that goes in."""
    total = hashlib.sha256(f"{sys.version} {sys.base_prefix} {ARCH}".encode())
    sources = [*(ROOT / "src").rglob("*"), *(ROOT / "release").iterdir()]
    kept = [path for path in sources if path.is_file() and path.suffix != ".pyc"]
    for path in [*sorted(kept), ROOT / "pyproject.toml", LOCKS / "dev.txt"]:
        total.update(f"{path.relative_to(ROOT)} {path.stat().st_size}\n".encode())
        total.update(path.read_bytes())
    return total.hexdigest()


def current(key: str) -> bool:
    """True when dist/ holds, unchanged, what was built from the same."""
    try:
        kept = json.loads(STAMP.read_text())
        return bool(kept == {"key": key, "sums": sums()} and (DIST / SUMS).exists())
    except (OSError, ValueError, KeyError):
        return False


def sums() -> str:
    """The lines of SHA256SUMS, as `sha256sum -c` reads them."""
    found = {path for pattern in OURS for path in DIST.glob(pattern) if path.name != SUMS}
    return "".join(
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in sorted(found)
    )


def build() -> None:
    """Makes everything; what an earlier one made is gone."""
    DIST.mkdir(exist_ok=True)
    for pattern in OURS:
        for old in DIST.glob(pattern):
            old.unlink()
    with told("the wheel"):
        words: Argv = [UV, "build", "--wheel", "--no-build-isolation", "--python", PYTHON]
        step("Building the wheel", [*words, "--out-dir", DIST], "Mend pyproject.toml.", uv_env())
        (wheel,) = DIST.glob("*.whl")
    write("tt", zipapp(), program=True)
    with tempfile.TemporaryDirectory(prefix="qd-build-") as folder, told("tt in one file"):
        write(f"tt-linux-{ARCH}", one_file.build(Path(folder, "tt")), program=True)
    with tempfile.TemporaryDirectory(prefix="qd-build-") as folder, told("the agent"):
        target = Path(folder, agent.TOP)
        agent.build(target, wheel)
        write(f"quarterdeck-agent-linux-{ARCH}.tar.gz", tar_gz(target, agent.TOP))
    (DIST / ".gitignore").unlink(missing_ok=True)  # uv's; the tree has its own
    (DIST / SUMS).write_text(sums())


def write(name: str, data: bytes, *, program: bool = False) -> None:
    (DIST / name).write_bytes(data)
    (DIST / name).chmod(0o755 if program else 0o644)


@contextmanager
def told(what: str) -> Iterator[None]:
    """Says what is made, and how long that took."""
    began = time.monotonic()
    yield
    say(f"{what}: {time.monotonic() - began:.1f} s")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (CannotCarry, Stop) as error:
        say(str(error))
        sys.exit(1)
    except subprocess.CalledProcessError as error:
        say(f"building failed: {error}")
        sys.exit(1)
