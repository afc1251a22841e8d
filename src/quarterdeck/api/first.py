"""The tokens an installation begins with: one of each kind, in a file only its owner reads.

Light: `qd up` imports it.
"""

from __future__ import annotations

from pathlib import Path

from quarterdeck.core.access import SECRET_BYTES, parse, spell
from quarterdeck.core.ids import RANDOM_BYTES, run_id
from quarterdeck.errors import Unavailable
from quarterdeck.service import SystemClock, entropy, write_private

KINDS = ("api", "join")


def first_tokens(path: Path, *, fingerprint: str = "") -> tuple[str, str]:
    """(API token, join token) of the file, one a line; made when it holds none.

    `fingerprint` is the certificate that fresh ones carry. Raises Unavailable.
    """
    try:
        try:
            api, join = path.read_text(encoding="ascii").split()
            if tuple(token.kind for word in (api, join) if (token := parse(word))) == KINDS:
                return api, join
        except (FileNotFoundError, ValueError):
            pass
        api, join = (
            spell(kind, _id(), entropy(SECRET_BYTES), fingerprint=fingerprint) for kind in KINDS
        )
        write_private(path, f"{api}\n{join}\n".encode())
    except OSError as error:
        raise Unavailable(
            "data_directory",
            f"The file {path} can't be used: {error.strerror or error}; see that its directory "
            "is ours and has room.",
        ) from error
    return api, join


def _id() -> str:
    now_ms = int(SystemClock().now().timestamp() * 1000)
    return run_id(now_ms, entropy(RANDOM_BYTES))
