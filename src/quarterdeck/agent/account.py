"""Users of this machine: whom an order may be carried out as, and what their tasks inherit."""

from __future__ import annotations

import asyncio
import os
import pwd

from quarterdeck.agent.shim.files import Account
from quarterdeck.errors import Invalid, Unavailable
from quarterdeck.service import outside

LOOKUP_S = 10.0


async def look_up(user: str) -> tuple[Account, dict[str, str]]:
    """The account of a user (by name or number), and its part of a task's environment.

    Raises Invalid for a user that this agent can't become, Unavailable when the machine's directory
    of users does not answer.
    """
    try:
        async with asyncio.timeout(LOOKUP_S):
            entry, groups = await outside(lambda: _entry(user))
    except TimeoutError as error:
        raise Unavailable(
            "users", f"The node's directory of users does not answer for {user!r}."
        ) from error
    own = os.geteuid()
    if own not in (0, entry.pw_uid):
        raise Invalid(
            "user",
            f"The agent of this node runs as uid {own} and can't become {user!r}: start it as "
            "root, or leave the user out.",
        )
    account = Account(entry.pw_uid, entry.pw_gid, groups, entry.pw_dir)
    environ = {
        "HOME": entry.pw_dir,
        "USER": entry.pw_name,
        "LOGNAME": entry.pw_name,
        "SHELL": entry.pw_shell or "/bin/sh",
    }
    return account, environ


def _entry(user: str) -> tuple[pwd.struct_passwd, tuple[int, ...]]:
    try:
        entry = pwd.getpwnam(user)
    except KeyError:
        try:
            entry = pwd.getpwuid(int(user))
        except (KeyError, ValueError, OverflowError):
            raise Invalid("user", f"This node has no user {user!r}.") from None
    return entry, tuple(os.getgrouplist(entry.pw_name, entry.pw_gid))
