"""From the words of `qd run` to the order it sends; what can't be sent is refused here."""

from __future__ import annotations

import base64
import fcntl
import os
import re
import stat
import struct
import sys
import termios
from typing import Any

from quarterdeck.cli.options import Duration, check_target
from quarterdeck.cli.render import say
from quarterdeck.core.model import MAX_ORDER_BYTES
from quarterdeck.errors import Invalid


def order_body(given: dict[str, Any]) -> dict[str, Any]:
    """The body of `POST /v1/runs` for the options of `qd run`. Raises Invalid with a sentence."""
    command: tuple[str, ...] = given["command"]
    body: dict[str, Any] = {
        "target": given["target"],
        "env": _environment(given["env"]),
        "cwd": given["cwd"],
        "timeout_s": given["timeout"],
        "grace_s": given["grace"],
        "leftovers": given["leftovers"],
        "lost_after_s": given["lost_after"],
        "offline_ttl_s": _offline(given["offline"]),
        "title": given["title"],
        "user": given["user"],
        "pty": _terminal() if given["pty"] else None,
        "umask": given["umask"],
        "start_timeout_s": given["start_timeout"],
    }
    check_target(given["target"])
    umask = given["umask"]
    if umask is not None and re.fullmatch("0?[0-7]{3}", umask) is None:
        raise Invalid("umask", f"--umask {umask!r}: write three digits from 0 to 7, as 022.")
    if given["script"] == "-" and given["stdin_file"] == "-":
        raise Invalid("stdin", "Standard input can't be both: the script and its input.")
    if given["max_output"] is not None:
        body["max_output"] = given["max_output"]
    if given["script"] is not None:
        body["script_b64"] = _file(given["script"], "script")
        body["args"] = command
        body["title"] = given["title"] or os.path.basename(given["script"])
    elif len(command) == 1:
        body["argv"] = ("/bin/sh", "-c", command[0])
        if not command[0].strip():
            raise Invalid("empty_command", "The command is empty: there is nothing to run.")
    elif command:
        body["argv"] = command
    else:
        raise Invalid("no_command", "Nothing to run: write `-- COMMAND` or `--script FILE`.")
    if given["stdin_file"] is not None:
        body["stdin_b64"] = _file(given["stdin_file"], "stdin")
    elif given["script"] != "-" and _waiting_bytes():  # an empty pipe is that of a service
        say("qd: standard input is not sent; --stdin - sends it.")
    _check_utf8(body)
    return body


def _waiting_bytes() -> int:
    """How much waits in the pipe that standard input is; 0 when it is none."""
    try:
        if not stat.S_ISFIFO(os.fstat(0).st_mode):
            return 0
        (number,) = struct.unpack("i", fcntl.ioctl(0, termios.FIONREAD, bytes(4)))
    except OSError:
        return 0
    return int(number)


def _environment(pairs: tuple[str, ...]) -> dict[str, str]:
    env = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise Invalid("env", f"--env {pair!r}: write KEY=VALUE.")
        env[key] = value
    return env


def _terminal() -> dict[str, int]:
    """The size of the terminal here; the usual one where there is none."""
    for fd in (1, 2, 0):
        try:
            size = os.get_terminal_size(fd)
        except OSError:
            continue
        return {"rows": size.lines, "columns": size.columns}
    return {"rows": 24, "columns": 80}


def _offline(text: str) -> float:
    return 0.0 if text == "fail" else Duration().convert(text, None, None)


def _file(path: str, what: str) -> str:
    try:
        if path == "-":
            data = sys.stdin.buffer.read()
        else:
            with open(path, "rb") as file:
                data = file.read()
    except OSError as error:
        raise Invalid(what, f"The {what} file {path} can't be read: {error.strerror}.") from error
    if len(data) > MAX_ORDER_BYTES:
        raise Invalid(
            "order_too_large",
            f"The {what} file {path} has {len(data)} bytes; at most {MAX_ORDER_BYTES} can be sent. "
            "Let the script fetch large data itself.",
        )
    if what == "script" and not data.strip():
        raise Invalid("empty_script", f"The script {path} is empty: there is nothing to run.")
    return base64.b64encode(data).decode()


def _check_utf8(value: Any, where: str = "command") -> None:
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise Invalid(
                "utf8",
                f"The {where} holds bytes that are not valid UTF-8 ({value[:40]!r}); "
                "put them into a script file or --stdin.",
            ) from None
    elif isinstance(value, dict):
        for key, part in value.items():
            _check_utf8(key, f"name of a variable in {where}")
            _check_utf8(part, str(key))
    elif isinstance(value, tuple):
        for part in value:
            _check_utf8(part, where)
