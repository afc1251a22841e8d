"""A simulated shim and its command: the real decisions of `shim/life.py` on the loop's time.

Its moments are those of the real one: forked (the lock is held, nothing is on disk), `started`
written, gate open (the command runs), the end of the command, `exit.json` written, gone.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING, assert_never

from quarterdeck.agent.shim import files, life
from quarterdeck.agent.simulated.behaviour import (
    CAN_NOT_EXECUTE,
    Behaviour,
    behaviour,
    piece,
    stream_of,
)
from quarterdeck.core.model import STREAMS
from quarterdeck.core.stream import Mark
from quarterdeck.wire.marks import encode_marks

if TYPE_CHECKING:
    from quarterdeck.agent.simulated.machine import Directory, SimulatedMachine

BEGIN_S = 0.002
GATE_S = 0.001
END_S = 0.001
RETRY_S = 0.5
TERM_S = 0.01
CONTACT_PAUSE_S = 1.0
MICROSECONDS = 1_000_000


class SimulatedShim:
    """The parent of one simulated command."""

    def __init__(self, machine: SimulatedMachine, directory: Directory) -> None:
        order = directory.order
        self.directory = directory
        self.identity = machine.new_process()
        self._machine = machine
        self._truth = machine.truth_of(directory.attempt)
        self._child = machine.new_process()
        self._does: Behaviour = behaviour(order)
        self._lost_after_s = order.lost_after_s
        self._loop = asyncio.get_running_loop()
        self._limits = life.Limits(
            timeout_s=order.timeout_s,
            grace_s=order.grace_s,
            kill_leftovers=order.leftovers == "kill",
            only_alert=order.on_timeout == "alert",
        )
        start_s = order.start_timeout_s
        start_by = self._loop.time() + start_s if start_s > 0 else None
        self._state: life.State = life.Waiting(start_by)
        self._stops_seen = 0
        self._executed = False
        self._ticks = 0
        self._owed = bytearray()
        self._owed_stream = "stdout"
        self._alive = True  # the command, or its process at the gate
        self._gone = False
        self._ended_at = 0.0
        self._wake: asyncio.TimerHandle | None = None
        self._timers: set[asyncio.TimerHandle] = set()
        self._begun_at = self._loop.time()
        self._later(BEGIN_S, self._begin)

    def told(self) -> None:
        """SIGUSR1: there is a new stop, or a signal."""
        self._hear_stop()
        self._send_signals()
        self._turn()

    def killed(self) -> None:
        """SIGKILL: nothing more is written by it, and its lock is free."""
        if self._gone:
            return
        self._gone = True
        for timer in self._timers:
            timer.cancel()
        if self._wake is not None:
            self._wake.cancel()
        self._machine.shim_ended(self)

    def _begin(self) -> None:
        directory = self.directory
        if directory.started is not None or directory.end is not None:
            self.killed()  # this attempt has had its one start
            return
        if self._machine.full:
            self._later(RETRY_S, self._begin)
            return
        directory.started = files.Started(
            boot_id=self._machine.boot_id,
            shim=self.identity,
            child=self._child,
            at=self._now(),
        )
        directory.changed()
        self._later(GATE_S, self._reach_gate)

    def _reach_gate(self) -> None:
        self._hear_stop()  # the last moment at which a stop can keep the order from running
        if isinstance(self._state, life.Waiting):
            self._open_gate()
        self._turn()

    def _open_gate(self) -> None:
        self._truth.execs += 1
        self._machine.on_exec(self.directory.attempt)
        self._feed(life.Opened())
        if self._does.hangs:
            return
        self._executed = True
        self._feed(life.Executed())
        self._send_signals()
        if self._does.broken:
            self._command_ends(CAN_NOT_EXECUTE, None)
        else:
            self._later(self._does.every, self._tick)
        if self._lost_after_s > 0:
            self._later(min(CONTACT_PAUSE_S, self._lost_after_s / 4), self._look_for_contact)

    def _tick(self) -> None:
        """The command writes its next piece, or exits."""
        if not self._alive:
            return
        if self._owed and not self._flush():
            self._later(RETRY_S, self._tick)  # the pipe is full: the command is blocked
            return
        if self._ticks >= self._does.ticks:
            self._command_ends(self._does.exit, None)
            self._turn()
            return
        number, self._ticks = self._ticks, self._ticks + 1
        data = piece(self.directory.attempt, number, self._does.size)
        self._truth.written[stream_of(number)] += data
        self._owed_stream = stream_of(number)
        self._owed += data
        self._flush()
        self._later(self._does.every, self._tick)

    def _flush(self) -> bool:
        if self._owed:
            if self._machine.full:
                return False
            self._keep(self._owed_stream, bytes(self._owed))
            self._owed.clear()
            self.directory.changed()
        return True

    def _keep(self, stream: str, data: bytes) -> None:
        directory = self.directory
        limit = directory.order.max_output
        kept = sum(len(directory.output[name]) for name in STREAMS)
        room = len(data) if limit <= 0 else min(len(data), limit - kept)
        directory.dropped[stream] += len(data) - room
        if room:
            at_us = int(self._now() * MICROSECONDS)
            mark = Mark(stream, len(directory.output[stream]), at_us)
            directory.output["times"] += encode_marks([mark])
            directory.output[stream] += data[:room]

    def _command_ends(self, code: int | None, number: int | None) -> None:
        self._alive = False
        self._ended_at = self._now()
        self._truth.exited = True
        self._truth.code, self._truth.signal = code, number
        self._feed(life.MainEnded())

    def _hear_stop(self) -> None:
        stop = self.directory.stop
        if stop is not None and stop.count > self._stops_seen:
            self._stops_seen = stop.count
            self._feed(life.StopAsked(stop.signal, stop.reason, stop.grace_s))

    def _send_signals(self) -> None:
        """The command takes note of a signal and goes on."""
        directory = self.directory
        if not (self._executed and self._alive):
            return
        for one in directory.signals:
            if one.number > directory.signalled:
                self._truth.signals.append(one.number)
                directory.signalled = one.number
                directory.changed()

    def _look_for_contact(self) -> None:
        since = max(self._machine.contact_at, self._begun_at)
        if self._loop.time() - since > self._lost_after_s:
            self._feed(life.ContactLost())
            self._turn()
        self._later(min(CONTACT_PAUSE_S, self._lost_after_s / 4), self._look_for_contact)

    def _turn(self) -> None:
        """Look at everything, as the loop of the real one does after each event."""
        if self._gone or isinstance(self._state, life.Ended):
            return
        if not self._flush():
            self._later(RETRY_S, self._turn)
        pipes = life.Pipes.OPEN if self._alive else life.Pipes.CLOSED
        if self._owed:
            pipes = life.Pipes.OWED
        self._feed(life.Looked(pipes, not self._alive))
        if isinstance(self._state, life.Ended):
            self._later(END_S, self._write_end)
            return
        if self._wake is not None:
            self._wake.cancel()
        at = life.wake_at(self._state)
        if at is not None and at > self._loop.time():
            self._wake = self._loop.call_at(at, self._turn)

    def _feed(self, event: life.Event) -> None:
        opened = not isinstance(self._state, life.Waiting)
        self._state, commands = life.step(self._state, event, self._loop.time(), self._limits)
        for command in commands:
            match command:
                case life.SignalTree(signal=number):
                    if not self._does.stubborn:
                        self._later(TERM_S, self._dies_of, number)
                case life.KillTree():
                    delay_s = max(END_S, self._does.undying)
                    self._later(delay_s, self._dies_of, signal.SIGKILL if opened else None)
                case life.NoteOverdue():
                    if self._limits.only_alert:
                        self.directory.alerted = True
                    else:
                        self.directory.overdue = True
                    self.directory.changed()
                case _:
                    assert_never(command)

    def _dies_of(self, number: int | None) -> None:
        if self._alive:
            self._command_ends(None, number)
        if self.directory.end is not None:
            self._has_gone()
        self._turn()

    def _has_gone(self) -> None:
        """What could not be killed has ended after all."""
        if self._machine.full:
            self._later(RETRY_S, self._has_gone)
        elif self.directory.gone_at is None:
            self.directory.gone_at = self._now()
            self.directory.changed()
            self._later(END_S, self.killed)

    def _write_end(self) -> None:
        """Output first, then the exit."""
        assert isinstance(self._state, life.Ended)
        if self._machine.full:
            self._later(RETRY_S, self._write_end)
            return
        directory = self.directory
        directory.sync()
        reason = self._state.reason
        fault = "There is no such program." if self._does.broken else None
        directory.end = files.Exit(
            reason=reason or ("start_error" if fault and self._truth.execs else None),
            code=self._truth.code,
            signal=self._truth.signal,
            error=fault,
            started_at=directory.started.at if directory.started else self._ended_at,
            ended_at=self._ended_at,
            streams=directory.stream_ends(),
            survivors=int(self._state.kill_failed),
            kill_failed=self._state.kill_failed,
        )
        directory.changed()
        if not self._state.kill_failed:
            self._later(END_S, self.killed)

    def _later(self, delay_s: float, what: Callable[..., None], *args: object) -> None:
        if not self._gone:
            self._timers.add(self._loop.call_later(delay_s, what, *args))

    def _now(self) -> float:
        return self._machine.clock.now().timestamp()
