"""The entry of tt and of `qd trace`: read the words, start the command, be its front."""

from __future__ import annotations

import os
import sys

from quarterdeck.tt.words import USAGE, Usage, parse

_USAGE_CODE = 2


def main() -> None:
    """`tt`: leaves with the code of the command, at once: there is nothing to tidy up."""
    os._exit(run(sys.argv[1:], "tt"))


def run(argv: list[str], prog: str) -> int:
    """Do what the words say; the exit code."""
    try:
        wanted = parse(argv, prog)
    except Usage as error:
        _write(2, f"{error}\n")
        return _USAGE_CODE
    if wanted.help:
        _write(1, USAGE.format(prog=prog))
        return 0
    _fill_standard_streams()
    from quarterdeck.tt.front import trace

    return trace(wanted)


def _write(fd: int, text: str) -> None:
    try:
        os.write(fd, text.encode("utf-8", "backslashreplace"))
    except OSError:
        pass  # nobody reads


def _fill_standard_streams() -> None:
    """Started without one of its streams, none of our pipes may get its number."""
    while True:
        fd = os.open("/dev/null", os.O_RDWR)
        if fd > 2:
            os.close(fd)
            return
        os.set_inheritable(fd, True)


if __name__ == "__main__":
    main()
