"""The shim's one loop: wait, pump, reap, ask life.py, act; at the end, write the exit.

The loop waits for: the output pipes, the child's fault pipe, a signal (SIGCHLD: something to reap;
SIGUSR1: a stop or a signal to read), and the earliest of the life's next moment, the next look at
the contact file and the next try of a disk that refused. Nothing else blocks it, except a write to
a file.
"""

from __future__ import annotations

import os
import select
import signal
import time
import traceback
from typing import assert_never

from quarterdeck.agent.shim import cgroup, disk, files, last_words, life, linux, tree
from quarterdeck.agent.shim.child import FAULT_BYTES, fork_child, other_account
from quarterdeck.agent.shim.pump import Output
from quarterdeck.agent.shim.requests import Requests

_RETRY_S = 0.5
_LONGEST_CONTACT_PAUSE_S = 1.0
_WATCH_PAUSE_S = 5.0
_LONGEST_PAUSE_S = 3600.0  # poll takes no more than an int of milliseconds


def run(folder: str, lock: int, cgroup_parent: str | None) -> None:
    """Be the shim of the attempt in `folder` from here to its end; for a freshly forked process.

    `lock` is the descriptor that holds the attempt's lock; it stays open until this process ends.
    """
    try:
        _settle(lock)
        if not _begun(folder):
            try:
                order = files.read_order(folder)
                if order is None:
                    raise ValueError(f"{folder} has no order")
            except ValueError as error:
                last_words.refuse(folder, f"Cannot read the order: {error}.")
            else:
                Shim(folder, order, cgroup_parent).run()
    except BaseException:
        last_words.note_crash(folder, traceback.format_exc())
        raise


def _settle(lock: int) -> None:
    """Leave the spawner behind: its descriptors, session, name and signals."""
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGPIPE, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    linux.set_name(linux.SHIM_NAME)
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    linux.close_all_but({0, 1, 2, lock})
    os.setsid()
    linux.become_subreaper()


def _begun(folder: str) -> bool:
    """Whether this attempt has had its one start; whoever asks again must not run it again."""
    return any(os.path.lexists(os.path.join(folder, name)) for name in ("started", "exit.json"))


class Shim:
    """One attempt, from its order to its exit."""

    def __init__(self, folder: str, order: files.Order, cgroup_parent: str | None) -> None:
        self._folder = folder
        self._order = order
        self._limits = life.Limits(
            timeout_s=order.timeout_s,
            grace_s=order.grace_s,
            drain_s=order.drain_s,
            kill_s=order.kill_s,
            kill_leftovers=order.leftovers == "kill",
            only_alert=order.on_timeout == "alert",
        )
        self._pid = os.getpid()
        self._now = time.monotonic()
        start_s = order.start_timeout_s
        self._state: life.State = life.Waiting(self._now + start_s if start_s > 0 else None)
        self._name = linux.SHIM_NAME
        self._retry_at: float | None = None
        self._requests = Requests(folder)
        self._contact = life.Contact(self._contact_mtime(), linux.boot_clock())
        self._contact_at = self._now
        self._status: int | None = None
        self._opened = False
        self._tree_empty = False
        self._overdue_at: float | None = None
        self._fault: str | None = None
        self._started_at = self._ended_at = time.time()
        self._wakeup = self._hear_signals()
        group = None if cgroup_parent is None else cgroup.make(cgroup_parent, order.attempt)
        self._child = fork_child(order, folder, group)
        os.chdir("/")  # the child has the agent's working directory; we must not pin it
        self._group = self._with_child(group)
        self._output = Output(folder, self._child.stdout, self._child.stderr, order.max_output)
        self._polled = {self._wakeup, self._child.fault}

    def run(self) -> None:
        """Turn the loop until the exit is written."""
        while not isinstance(self._state, life.Ended):
            self._now = time.monotonic()
            self._reap()
            self._retry()
            if isinstance(self._state, life.Waiting) and not self._start():
                return
            self._hear_requests()
            self._look_for_contact()
            self._feed(life.Looked(self._output.pipes(), self._tree_empty))
            if not isinstance(self._state, life.Ended):
                self._wait()
        end = self._end(self._state)
        while not self._write_exit(end):
            linux.set_name(linux.BLOCKED_NAME)
            time.sleep(_RETRY_S)
        if end.kill_failed:
            self._watch_the_rest()

    def _watch_the_rest(self) -> None:
        """The attempt has ended as `kill_failed`: watch what is left, and say when it has gone."""
        linux.set_name(linux.SHIM_NAME)
        self._output.close()
        poll = select.poll()
        poll.register(self._wakeup, select.POLLIN)
        while os.path.isdir(self._folder):
            self._reap()
            if self._tree_empty:
                try:
                    disk.write_json(self._path("gone"), {"at": time.time()})
                    break
                except OSError:
                    linux.set_name(linux.BLOCKED_NAME)
            else:
                tree.kill_below(self._pid)
            if poll.poll(_WATCH_PAUSE_S * 1000):
                os.read(self._wakeup, 4096)
        if self._tree_empty and self._group is not None:
            cgroup.remove(self._group)

    def _hear_signals(self) -> int:
        """Turn SIGCHLD and SIGUSR1 into a readable descriptor."""
        read_end, write_end = os.pipe()
        os.set_blocking(read_end, False)
        os.set_blocking(write_end, False)
        signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        signal.signal(signal.SIGUSR1, lambda _number, _frame: self._requests.ask())
        return read_end

    def _with_child(self, group: str | None) -> str | None:
        """The child's group, None when it could not be put there."""
        if group is None or self._child.grouped:
            return group
        if not cgroup.move(group, self._child.pid):
            cgroup.remove(group)
            return None
        return group

    def _start(self) -> bool:
        """Put everything on disk, then open the gate. False when the directory has vanished."""
        if self._retry_at is not None:
            return True
        identity = tree.identity(self._child.pid)
        if identity is None:
            return True  # killed at the gate and reaped: the state knows at the next turn
        account = other_account(self._order)
        started = files.Started(
            boot_id=tree.boot_id(),
            shim=files.Identity(*(tree.identity(self._pid) or (self._pid, 0))),
            child=files.Identity(*identity),
            at=time.time(),
            cgroup=self._group,
            uid=None if account is None else account.uid,
        )
        try:
            self._output.open()
            for name, data, mode in (
                ("script", self._order.script, 0o700),
                ("stdin", self._order.stdin, 0o600),
            ):
                if data is not None:
                    owner = None if account is None else (account.uid, account.gid)
                    disk.write_file(self._path(name), data, mode, owner=owner)
            disk.write_json(self._path("started"), files.started_json(started))
        except OSError:
            self._retry_later()
            return os.path.isdir(self._folder)
        self._started_at = started.at
        self._requests.ask()
        self._hear_requests()  # the last moment at which a stop can keep the order from running
        if isinstance(self._state, life.Waiting):
            self._child.open_gate()
            self._opened = True
            self._feed(life.Opened())
        return True

    def _retry(self) -> None:
        """Try again what the disk refused, when its time has come."""
        if self._retry_at is not None and self._now >= self._retry_at:
            self._retry_at = None
            self._note_overdue()
            if not self._output.flush():
                self._retry_later()

    def _retry_later(self) -> None:
        if self._retry_at is None:
            self._retry_at = self._now + _RETRY_S

    def _hear_requests(self) -> None:
        stop = self._requests.hear()
        executed = self._opened and self._child.fault not in self._polled
        if executed and self._status is None:
            for wanted in self._requests.signals():
                if wanted.tree:
                    tree.signal_below(self._pid, wanted.signal)
                else:
                    tree.signal_child(self._child.pid, wanted.signal)
        if not self._requests.note():
            self._retry_later()
        if stop is not None:
            self._feed(life.StopAsked(stop.signal, stop.reason, stop.grace_s))

    def _look_for_contact(self) -> None:
        lost_after_s = self._order.lost_after_s
        if lost_after_s <= 0 or self._now < self._contact_at:
            return
        self._contact_at = self._now + min(_LONGEST_CONTACT_PAUSE_S, lost_after_s / 4)
        clock = linux.boot_clock()
        self._contact = self._contact.seen(self._contact_mtime(), clock)
        if clock - self._contact.changed_at > lost_after_s:
            self._feed(life.ContactLost())

    def _contact_mtime(self) -> int | None:
        try:
            state = os.path.dirname(os.path.dirname(self._folder))
            return os.stat(os.path.join(state, "contact")).st_mtime_ns
        except OSError:
            return None

    def _reap(self) -> None:
        """Collect every ended child, ours and adopted ones; no child at all: the tree is empty."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                self._tree_empty = True
                return
            if pid == 0:
                return
            if pid == self._child.pid:
                self._status = status
                self._ended_at = time.time()
                self._output.owe()
                self._read_fault()
                self._feed(life.MainEnded())

    def _wait(self) -> None:
        """Sleep until something can have changed, and read what the pipes have."""
        name = linux.SHIM_NAME if self._retry_at is None else linux.BLOCKED_NAME
        if name != self._name:
            self._name = name
            linux.set_name(name)
        poll = select.poll()
        for fd in self._polled:
            poll.register(fd, select.POLLIN)
        streams = {stream.pipe: stream for stream in self._output.wanted()}
        for fd in streams:
            poll.register(fd, select.POLLIN)
        moments = [self._retry_at, life.wake_at(self._state)]
        if self._order.lost_after_s > 0:
            moments.append(self._contact_at)
        # A moment that this turn has already seen changes nothing by coming again.
        ahead = [at for at in moments if at is not None and at > self._now]
        pause_s = min(ahead, default=self._now + _LONGEST_PAUSE_S) - time.monotonic()
        ready = poll.poll(max(0.0, min(pause_s, _LONGEST_PAUSE_S)) * 1000 + 1)
        now, unix_us = time.monotonic(), time.time_ns() // 1000
        for fd, _ in ready:
            if fd in streams:
                self._output.read(streams[fd], now, unix_us)
            elif fd == self._wakeup:
                os.read(fd, 4096)
            else:
                self._read_fault()
        if self._output.blocked:
            self._retry_later()

    def _read_fault(self) -> None:
        """The child's exec has worked (end of the pipe) or says why not."""
        if self._child.fault not in self._polled:
            return
        try:
            data = os.read(self._child.fault, FAULT_BYTES)
        except BlockingIOError:
            return
        if data:
            self._fault = data.decode("utf-8", "replace")
        self._polled.discard(self._child.fault)
        os.close(self._child.fault)
        if not data:
            self._feed(life.Executed())
        if self._order.stdin is not None:
            try:
                os.unlink(self._path("stdin"))  # it may hold secrets, and it has been opened
            except OSError:
                pass

    def _feed(self, event: life.Event) -> None:
        waiting = isinstance(self._state, life.Waiting)
        self._state, commands = life.step(self._state, event, self._now, self._limits)
        if waiting and not isinstance(self._state, life.Waiting | life.Running):
            self._child.shut_gate()
        for command in commands:
            self._act(command)

    def _act(self, command: life.Command) -> None:
        match command:
            case life.SignalTree(signal=number):
                tree.signal_below(self._pid, number)
                # A stopped process would not notice; it may still be asked to stay stopped.
                if number not in (signal.SIGSTOP, signal.SIGTSTP):
                    tree.signal_below(self._pid, signal.SIGCONT)
            case life.KillTree():
                if self._group is not None:
                    cgroup.kill(self._group)
                tree.kill_below(self._pid)  # also what has left the group
            case life.NoteOverdue():
                self._overdue_at = time.time()
                self._note_overdue()
            case _:
                assert_never(command)

    def _note_overdue(self) -> None:
        if self._overdue_at is not None:
            name = "alerted" if self._limits.only_alert else "overdue"
            try:
                disk.write_json(self._path(name), {"at": self._overdue_at})
                self._overdue_at = None
            except OSError:
                self._retry_later()

    def _end(self, ended: life.Ended) -> files.Exit:
        code = None if self._status is None else os.waitstatus_to_exitcode(self._status)
        if ended.reason is not None and not self._opened:
            code = None  # how we ended our own process at the gate, not the command
        killed_by = -code if code is not None and code < 0 else None
        if self._tree_empty and self._group is not None:
            cgroup.remove(self._group)
        return files.Exit(
            reason=ended.reason or ("start_error" if self._fault else None),
            code=code if killed_by is None else None,
            signal=killed_by,
            error=last_words.error(self._fault, ended, self._order.start_timeout_s),
            started_at=self._started_at,
            ended_at=self._ended_at if self._status is not None else time.time(),
            streams=self._output.ends(),
            survivors=0 if self._tree_empty else tree.survivors(self._pid),
            kill_failed=ended.kill_failed,
        )

    def _write_exit(self, end: files.Exit) -> bool:
        """Output first, then the exit: who sees an exit sees an output that will not change."""
        try:
            self._output.open()
            self._output.sync()
            disk.write_json(self._path("exit.json"), files.exit_json(end))
        except OSError:
            return not os.path.isdir(self._folder)  # without a directory there is nobody to tell
        return True

    def _path(self, name: str) -> str:
        return os.path.join(self._folder, name)
