"""`qd lock`, `qd locks`, `qd unlock`: at most so many at once, anywhere in the fleet.

The command inherits everything (streams, terminal, process group); what reaches this process as a
signal goes on to it. Its lease is renewed by a process beside it (keeper.py).
"""

from __future__ import annotations

import os
import pwd
import signal
import socket
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, NoReturn

import click

from quarterdeck.cli import keeper
from quarterdeck.cli.keeper import DONE, GRACE_S, MARK, Lease, claim_path, now, stop_marked
from quarterdeck.cli.options import NAMESPACE_HELP, Duration, with_namespace
from quarterdeck.cli.render import ago, print_json, safe_text, say, table
from quarterdeck.client.find import connect
from quarterdeck.client.http import Connection, quote
from quarterdeck.core.lock import BEAT_S, GONE_AFTER_S, check_name
from quarterdeck.errors import Conflict, Invalid, NotFound, QuarterdeckError, Unavailable

NOT_YET = 75
NOT_FOUND = 127
NOT_STARTED = 126
RETRY_S = 0.25
SHELL = ("/bin/sh", "-c")
NAMED = 5
FORWARDED = (
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGTERM,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGALRM,
)
FROM_TERMINAL = 0x80  # SI_KERNEL: the terminal has told the command itself


@click.command()
@click.option("-n", "slots", type=click.IntRange(1, 10_000), default=1, help="So many at once (1).")
@click.option("--wait", type=Duration(), help="Wait at most this long (0: try once); or for ever.")
@click.option(
    "--if-down",
    type=click.Choice(["run", "fail"]),
    default="fail",
    help="Without a server: fail (the default), or run without the lock.",
)
@click.option("--keep-going", is_flag=True, help="Go on when the lock is lost; only warn.")
@click.option("--label", default="", help="What lists show (default: the command).")
@click.option("--list", "list_it", is_flag=True, help="List holders and queue instead.")
@click.option("--json", "as_json", is_flag=True, help="With --list: print one JSON document.")
@click.option("--url", metavar="URL", help="Address of a server.")
@click.option("--token", metavar="TOKEN", help="API token (better: QD_TOKEN).")
@click.option("--data", metavar="DIR", help="Data directory of a `qd up` on this machine.")
@click.option("--namespace", metavar="NAME", help=NAMESPACE_HELP)
@click.argument("name")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def lock(name: str, command: tuple[str, ...], **given: Any) -> None:
    """Run COMMAND while it holds one of the slots of lock NAME, wherever in the fleet it runs.

    Leaves with the exit code of COMMAND (128 + n after signal n), with 75 when there was no slot
    in time. After `--` one word is text for /bin/sh, several are a program and its arguments.
    """
    check_name(name)
    if given["list_it"]:
        _list_one(_server(given), name, as_json=given["as_json"])
        return
    if given["as_json"]:
        raise Invalid("usage", "--json is for --list: a command prints what it prints.")
    if not command:
        raise Invalid("usage", "Give the command after --, or --list.")
    argv = (*SHELL, command[0]) if len(command) == 1 else command
    try:
        label = given["label"] or " ".join(command)[:80]
        claim = _Claim(_server(given), name, given["slots"], label)
        lease = claim.acquire(given["wait"], keep_going=given["keep_going"])
    except Unavailable as error:
        if given["if_down"] == "fail":
            raise
        say(f"qd: {error.message} Running without lock {name} (--if-down run).")
        sys.exit(_run(argv, None, _block()))
    except Conflict as error:
        if error.code != "lock_held":
            raise
        say(f"qd: {error.message}")
        sys.exit(NOT_YET)
    sys.exit(_run(argv, lease, claim.mask))


def _server(given: dict[str, Any]) -> Connection:
    server = connect(url=given["url"], token=given["token"], data=given["data"])
    server.namespace = given["namespace"]
    return server


class _Claim:
    """This wrapper's claim on its way to a slot."""

    def __init__(self, server: Connection, name: str, slots: int, label: str) -> None:
        self._server = server.hasty(3 * BEAT_S)
        self._starting = server
        self._name = name
        self._id = os.urandom(16).hex()
        self._shown = ""
        self._warned = False
        self.mask: set[int] = set()  # of signals, as it was before we began to wait for them
        self._terminal = sys.stderr.isatty()
        self._body: dict[str, Any] = {
            "id": self._id,
            "slots": slots,
            "host": socket.gethostname()[:255],
            "pid": os.getpid(),
            "user": _user()[:64],
            "label": label[:255],
            "attempt": os.environ.get("QD_ATTEMPT", "")[:40],
        }

    def acquire(self, wait_s: float | None, *, keep_going: bool) -> Lease:
        """Wait for a slot. Raises Conflict `lock_held` when there is none in time."""
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, _leave)
        until = None if wait_s is None else now() + wait_s
        try:
            renewed_at = self._queue(until, once=wait_s == 0)
            self.mask = _block()  # from here on signals are for the command
        except BaseException:
            self._give_up()
            raise
        return Lease(
            server=self._server,
            name=self._name,
            id=self._id,
            renewed_at=renewed_at,
            keep_going=keep_going,
        )

    def _queue(self, until: float | None, *, once: bool) -> float:
        began = now()
        answer = self._ask(self._starting, queue=not once)
        heard = began
        while answer["standing"] != "holding":
            if answer["standing"] == "leaving" or (until is not None and now() >= until):
                raise Conflict("lock_held", self._held_by(answer["lock"]))
            self._warn(answer["lock"])
            self._show(answer)
            left_s = BEAT_S if until is None else min(BEAT_S, max(0.1, until - now()))
            began = now()
            try:
                answer = self._renew(answer["standing"], left_s)
                heard = began
            except NotFound:
                say(f"qd: the place in the queue of lock {self._name} was lost; asking again.")
                answer = self._ask(self._server, queue=True)
            except Unavailable:
                if now() - heard > GONE_AFTER_S:
                    raise
                time.sleep(RETRY_S)
        self._clear()
        self._warn(answer["lock"])
        return began

    def _ask(self, server: Connection, *, queue: bool) -> dict[str, Any]:
        path = f"/v1/locks/{quote(self._name)}/claims"
        until = now() + GONE_AFTER_S
        while True:
            try:
                body = {**self._body, "otherwise": "queue" if queue else "fail"}
                answer: dict[str, Any] = server.post(path, body)
                return answer
            except Unavailable as error:
                if error.code != "connection_lost" or now() > until:
                    raise
                time.sleep(RETRY_S)

    def _renew(self, seen: str, wait_s: float) -> dict[str, Any]:
        path = f"{claim_path(self._name, self._id)}/renew"
        answer: dict[str, Any] = self._server.post(path, seen=seen, wait=f"{wait_s:.3f}s")
        return answer

    def _give_up(self) -> None:
        """Leave the queue; nobody is told when that can't be done: the claim is over by itself."""
        self._clear()
        try:
            self._server.hasty(2.0).delete(claim_path(self._name, self._id))
        except QuarterdeckError:
            return

    def _show(self, answer: dict[str, Any]) -> None:
        found = answer["lock"]
        text = (
            f"qd: lock {self._name}: number {answer['standing']} of {found['waiting']} in the "
            f"queue; held by {_names(found['holders'], found['holding'])}"
        )
        if text == self._shown:
            return
        self._shown = text
        if self._terminal:
            width = os.get_terminal_size(2).columns
            sys.stderr.write(f"\r\x1b[K{safe_text(text)[: max(20, width - 1)]}")
            sys.stderr.flush()
        else:
            say(text)

    def _clear(self) -> None:
        if self._shown and self._terminal:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
        self._shown = ""

    def _warn(self, found: dict[str, Any]) -> None:
        """Say it once when others that hold the lock name another number of slots."""
        theirs = min((h["slots"] for h in found["holders"] if h["id"] != self._id), default=None)
        if theirs is None or theirs == self._body["slots"] or self._warned:
            return
        self._warned = True
        self._clear()
        say(
            f"qd: lock {self._name} is held with -n {theirs}, you say -n {self._body['slots']}: "
            "while both hold it the smaller number counts."
        )

    def _held_by(self, found: dict[str, Any]) -> str:
        return f"Lock {self._name} is held by {_names(found['holders'], found['holding'])}."


def _heard() -> list[signal.Signals]:
    """What is handed on: not what this process was told to ignore, as nohup does."""
    return [n for n in FORWARDED if signal.getsignal(n) is not signal.SIG_IGN]


def _block() -> set[int]:
    """Keep signals until they are waited for; the mask before that."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    return {int(n) for n in signal.pthread_sigmask(signal.SIG_BLOCK, [*_heard(), signal.SIGCHLD])}


def _run(argv: tuple[str, ...], lease: Lease | None, mask: set[int]) -> int:
    """Run the command to its end; its exit code."""
    keeping, pipe = (0, -1) if lease is None else keeper.start(lease)
    mark = {} if lease is None else {MARK: lease.id}
    try:
        child = os.posix_spawnp(
            argv[0],
            argv,
            {**os.environ, **mark},
            setsigmask=mask,
            setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],
        )
    except OSError as error:
        say(f"qd: {argv[0]} can't be started: {error.strerror}.")
        code = NOT_FOUND if isinstance(error, FileNotFoundError) else NOT_STARTED
    else:
        code = _attend(child, keeping, lease, [*_heard(), signal.SIGCHLD])
    if lease is not None:
        _finish(keeping, pipe)
    return code


def _attend(child: int, keeping: int, lease: Lease | None, heard: Iterable[int]) -> int:
    """Hand signals on until the command has ended; its exit code."""
    while True:
        got = signal.sigwaitinfo(heard)
        if got.si_signo != signal.SIGCHLD:
            if got.si_code != FROM_TERMINAL:
                os.kill(child, got.si_signo)
            continue
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code
        if lease is not None and keeping and _ended(keeping):
            keeping = 0
            if not lease.keep_going:
                say(f"qd: lock {lease.name}: nobody renews its lease any more; stopping.")
                stop_marked(f"{MARK}={lease.id}", kill_at=now() + GRACE_S)


def _ended(pid: int) -> bool:
    return os.waitpid(pid, os.WNOHANG)[0] != 0


def _finish(keeping: int, pipe: int) -> None:
    """Let the keeper give the slot back."""
    with suppress(OSError):
        os.write(pipe, DONE)
    os.close(pipe)
    with suppress(ChildProcessError):
        os.waitpid(keeping, 0)


def _leave(number: int, _frame: object) -> NoReturn:
    sys.exit(128 + number)


def _user() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def _names(holders: list[dict[str, Any]], number: int) -> str:
    words = [f"{h['label'] or h['user']} on {h['host']} (pid {h['pid']})" for h in holders[:NAMED]]
    more = number - len(words)
    return ", ".join(words) + (f" and {more} more" if more else "") if words else "nobody"


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@with_namespace
def locks(server: Connection, as_json: bool) -> None:
    """List the locks that somebody holds or awaits."""
    found = server.get("/v1/locks")
    if as_json:
        print_json(found)
        return
    if not found["items"]:
        say("nobody holds a lock")
        return
    _table(found["items"])


@click.command()
@click.option("--at-once", is_flag=True, help="Free the slot now; the command may still run.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.argument("name")
@click.argument("holder")
@with_namespace
def unlock(server: Connection, name: str, holder: str, at_once: bool, as_json: bool) -> None:
    """Take lock NAME away from HOLDER (an id, HOST or HOST:PID).

    Its command is stopped (TERM, then KILL) within 10 s, then the slot is free.
    """
    word = "true" if at_once else "false"
    path = f"/v1/locks/{quote(name)}/holders/{quote(holder)}/unlock"
    taken = server.post(path, at_once=word)
    if as_json:
        print_json(taken)
        return
    who = f"{taken['host']} (pid {taken['pid']})"
    if at_once:
        say(f"lock {name} is taken from {who}; its command is told within 5 s")
    else:
        say(f"{who} is told to leave lock {name} with its next beat")


def _list_one(server: Connection, name: str, *, as_json: bool) -> None:
    found = server.get(f"/v1/locks/{quote(name)}")
    if as_json:
        print_json(found)
    elif not found["holding"]:
        say(f"nobody holds lock {name}")
    else:
        _table([found])


def _table(found: list[dict[str, Any]]) -> None:
    rows = []
    for one in found:
        use = f"{one['holding']} of {one['slots']}"
        for holder in one["holders"]:
            state = "leaving" if holder["leaving"] else f"holds, {ago(holder['since'])}"
            rows.append((one["name"], use, state, *_who(holder)))
        for place, waiter in enumerate(one["waiters"], 1):
            state = f"number {place}, {ago(waiter['asked_at'])}"
            rows.append((one["name"], use, state, *_who(waiter)))
        hidden = one["holding"] + one["waiting"] - len(one["holders"]) - len(one["waiters"])
        if hidden:
            rows.append((one["name"], use, f"and {hidden} more", "", "", "", ""))
    table(("LOCK", "USED", "", "HOST", "PID", "USER", "LABEL"), rows)


def _who(claim: dict[str, Any]) -> tuple[str, str, str, str]:
    label = claim["label"] + (f" (attempt {claim['attempt']})" if claim["attempt"] else "")
    return claim["host"], str(claim["pid"]), claim["user"], label
