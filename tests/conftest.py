"""For every test: asyncio as the only backend, and no process and no task may outlive the test.

Before the first test the process forks: the child runs the tests, the parent is the subreaper of
all that comes from them. A process whose own parent is gone (a shim after the death of its agent,
say) becomes the parent's child and is reaped at once when it ends, as by a good init; looking at
our children and at the parent's finds all that are left.

Processes of fixtures with a wider scope than one test are there before the test's own and are left
alone. Sockets and files that were not closed show as ResourceWarning, and warnings are errors.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import os
import select
import signal
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import NoReturn

import pytest
from anyio._backends._asyncio import TestRunner
from hypothesis import settings

from bench.ssh import Ssh, installed
from bench.ssh import sshd as started

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
GRACE_MS = 1000
GRACE_TURNS = 10

# a busy machine is no finding
settings.register_profile("ours", deadline=None)
settings.load_profile("ours")

prctl = ctypes.CDLL(None, use_errno=True).prctl
older: set[str] = set()  # processes that were there before the first test: never ours


@pytest.hookimpl(tryfirst=True)
def pytest_configure() -> None:
    """Forks the subreaper off, before there is any thread.

    A shell that starts us in the background, or nohup, has us ignore signals, and what we start
    would inherit that and be deaf to those of the tests; a handler is not inherited.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGHUP, signal.SIGQUIT):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, lambda _number, _frame: None)
    if not Path("/proc/thread-self/children").exists():
        pytest.exit("The tests need a kernel that lists children (CONFIG_PROC_CHILDREN).", 4)
    older.update(os.listdir("/proc"))
    prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    tests = os.fork()
    if tests:
        reap_until_end_of(tests)
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def pytest_collection_finish() -> None:
    """What is there now is there to the end: the collector need not look at it with each test."""
    gc.freeze()


def reap_until_end_of(tests: int) -> NoReturn:
    """What the parent does; it ends as the tests end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends it to the child as well
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda caught, _: os.kill(tests, caught))
    pid, status = os.waitpid(-1, 0)
    while pid != tests:
        pid, status = os.waitpid(-1, 0)
    code = os.waitstatus_to_exitcode(status)
    os._exit(code if code >= 0 else 128 - code)


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """The one event loop that quarterdeck runs on."""
    return "asyncio"


close_runner = TestRunner.__exit__
left_tasks: list[str] = []


def close_runner_without_tasks(
    self: TestRunner,
    exc_type: type[BaseException] | None,
    exc: BaseException | None,
    traceback: TracebackType | None,
) -> None:
    """Notes what a test and its fixtures left running, which anyio then cancels quietly.

    To raise here would leave anyio with a closed runner for the next test.
    """
    loop = self.get_loop()
    left: set[asyncio.Task[object]] = set()
    for _ in range(GRACE_TURNS):  # a task that was cancelled needs a turn to end
        loop.run_until_complete(asyncio.sleep(0))
        left = asyncio.all_tasks(loop) - {self._runner_task}
        if not left:
            break
    left_tasks.extend(repr(task) for task in left)
    close_runner(self, exc_type, exc, traceback)


TestRunner.__exit__ = close_runner_without_tasks  # type: ignore[method-assign]


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """Fails a test that leaves tasks or processes behind, and ends them for the sake of the next.

    Tasks of fixtures with a wider scope are told of by the test after their end.
    """
    before = children()
    yield
    problems = [f"task {name}" for name in left_tasks]
    left_tasks.clear()
    left = [pid for pid in children() if pid not in before and not gone_within(pid, GRACE_MS)]
    if left:
        problems += [f"process {pid}: {command_line(pid)}" for pid in left]
        kill_all_but(before)
    if problems:
        pytest.fail("left behind by this test:\n  " + "\n  ".join(problems), pytrace=False)


def children() -> set[int]:
    """Children of this process and of the subreaper, zombies too.

    As the kernel lists them: a look at each process of a busy machine took 3 ms, twice per test. A
    child that ends during a look may hide its neighbour, so there are two.
    """
    found: set[str] = set()
    for _ in range(2):
        for parent in (os.getpid(), os.getppid()):
            for thread in Path(f"/proc/{parent}/task").iterdir():
                with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended
                    found.update((thread / "children").read_text().split())
    return {int(pid) for pid in found - older} - {os.getpid()}


def gone_within(pid: int, timeout_ms: int) -> bool:
    """Waits for the end of a process; when it was our own child, it is reaped."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        if not poll.poll(timeout_ms):
            return False
    finally:
        os.close(descriptor)
    with contextlib.suppress(ChildProcessError):  # the subreaper's
        os.waitpid(pid, os.WNOHANG)
    return True


def kill_all_but(spared: set[int]) -> None:
    """Kills our children until none is left; those of a killed one become ours in turn."""
    while victims := [pid for pid in children() if pid not in spared]:
        for pid in victims:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for pid in victims:
            gone_within(pid, GRACE_MS)


def command_line(pid: int) -> str:
    """What a process was started as, for the message."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return "?"
    return b" ".join(words).decode(errors="replace").strip() or "?"


@pytest.fixture(scope="session", autouse=True)
def sshd(request: pytest.FixtureRequest) -> Iterator[Ssh | None]:
    """An sshd on loopback for this user, where some test has `ssh` in its name.

    For all tests, so that it is there before the processes of the first test are counted.
    """
    if not installed() or not any("ssh" in item.name for item in request.session.items):
        yield None
        return
    with started() as ssh:
        yield ssh


@pytest.fixture
def ssh(sshd: Ssh | None) -> Ssh:
    """The sshd of the tests; the test that asks for it has `ssh` in its name."""
    if sshd is None:
        pytest.skip("openssh-server and openssh-client are not installed")
    return sshd
