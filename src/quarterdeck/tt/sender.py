"""The sender: a process beside the front that finds the server and gives it what the front reads.

It is forked after the command and outlives the front: two threads, one that reads the front's
frames into the buffer (and so never makes it wait), one that delivers. When the front has ended and
the server does not take the rest within a moment, the rest goes to disk first.
"""

from __future__ import annotations

import os
import pwd
import sys
import threading
import time

from quarterdeck.tt import handover, late, signals
from quarterdeck.tt.buffer import HEAD, Buffer
from quarterdeck.tt.deliver import Delivery, Told
from quarterdeck.tt.place import Settings
from quarterdeck.tt.spool import Spool, used
from quarterdeck.tt.tree import close_all_but

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from typing import Any

    from quarterdeck.tt.child import Child
    from quarterdeck.tt.words import Wanted
else:
    import _signal as signal

_READ = 1 << 20
_AT_ONCE_S = 0.5
_LOOK_AGAIN_S = 5.0
_MOST_TEXT = 4000
_MOST_COMMAND = 16 << 10


def serve(
    wanted: Wanted, one: Child | None, *, tty: bool, started_us: int, frames: int, words: int
) -> None:
    """Be the sender of a front from here to the end of this process."""
    begin = _begin(wanted, one, tty=tty, started_us=started_us)
    _settle(frames, words)
    settings = Settings(wanted)
    voice = Voice(words, quiet=wanted.quiet)
    for warning in (wanted.warning, *settings.warnings):
        if warning:
            voice.say(f"tt: {warning}")
    begin["id"] = settings.id
    reader = Reader(frames, one if wanted.die_with and not tty else None)
    if settings.place is None:
        voice.say(
            "tt: no server is known, so this is not traced: write url and token into "
            "~/.tt.conf, or give --url and --token."
        )
        voice.away("")
        reader.run(None)
    else:
        _trace(settings, begin, reader, voice)


def _trace(settings: Settings, begin: dict[str, Any], reader: Reader, voice: Voice) -> None:
    place = settings.place
    assert place is not None
    spool = Spool(begin["key"], {"begin": begin, "place": place.as_json()})
    buffer = Buffer(spool, memory=settings.memory, disk=max(0, settings.disk - used()))
    delivery = Delivery(place, begin, buffer, voice, alive=True)
    voice.place = place
    done = threading.Event()

    def deliver() -> None:
        reader.refused = not delivery.run() and not delivery.given_up.is_set()
        done.set()

    def terminated(_number: int, _frame: object) -> None:
        raise SystemExit

    signal.signal(signal.SIGTERM, terminated)
    threading.Thread(target=deliver, daemon=True).start()
    try:
        reader.run(buffer)
        if not done.wait(_AT_ONCE_S) and _linger(done, voice, buffer, settings.linger_s):
            late.deliver_left(place)  # what others left to us meanwhile
    except SystemExit:  # the machine goes down
        buffer.to_file()
    if done.is_set():
        spool.remove()
        voice.done()
        voice.finish(settings.linger_s)
    else:
        delivery.given_up.set()
        spool.release()


def _linger(done: threading.Event, voice: Voice, buffer: Buffer, linger_s: float) -> bool:
    """Wait until all is delivered, or for `linger_s`. While the server is away, one sender is
    enough to wait for it: the others leave what they have in the file. True for that one."""
    until = time.monotonic() + linger_s
    waiter = -1
    saved = buffer.to_file()
    while not done.is_set() and time.monotonic() < until:
        if saved and voice.gone and waiter < 0:
            waiter = late.stay(voice.place)
            if waiter < 0:
                break
        done.wait(min(_LOOK_AGAIN_S, max(0.0, until - time.monotonic())))
    return waiter >= 0 and done.is_set()


def _begin(wanted: Wanted, one: Child | None, *, tty: bool, started_us: int) -> dict[str, Any]:
    """What the server is told of the command; never its environment."""
    try:
        user = pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        user = str(os.geteuid())
    try:
        cwd = os.getcwd()
    except OSError:
        cwd = ""
    command = [] if wanted.title else [_text(word, _MOST_COMMAND) for word in wanted.command[:1000]]
    return {
        "name": wanted.name,
        "key": os.urandom(16).hex(),
        "host": _text(os.uname().nodename),
        "user": _text(user),
        "cwd": _text(cwd),
        "command": command,
        "title": _text(wanted.title),
        "pid": one.pid if one is not None else os.getppid(),
        "started_at": started_us / 1e6,
        "keep": wanted.keep,
        "tty": tty,
        "bare_url": wanted.bare_url,
    }


def _text(word: str, most: int = _MOST_TEXT) -> str:
    """What JSON can carry: bytes that are no text become the character for it."""
    return os.fsencode(word).decode("utf-8", "replace")[:most]


def _settle(frames: int, words: int) -> None:
    """Leave the front behind: its terminal, group, descriptors and directory."""
    os.setsid()
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    signals.release()
    null = os.open("/dev/null", os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    sys.stdin = sys.stdout = sys.stderr = None
    close_all_but({0, 1, 2, frames, words})
    os.chdir("/")


class Voice(Told):
    """To the front, which prints sentences; each kind of them once."""

    def __init__(self, words: int, *, quiet: bool) -> None:
        self._words = words
        self._quiet = quiet
        self._said_away = False
        self.gone = False  # the server, now
        self.place: Any = None
        self._late: threading.Thread | None = None

    def say(self, sentence: str) -> None:
        if not self._quiet:
            self._tell(handover.SENTENCE, " ".join(sentence.split()))

    def connecting(self) -> None:
        self._tell(handover.CONNECTING)

    def connected(self) -> None:
        self.gone = False
        self._tell(handover.CONNECTED)

    def begun(self, url: str) -> None:
        self.say(f"View URL for task output: {url}")
        self._tell(handover.BEGUN)
        self._late = threading.Thread(target=late.deliver_left, args=(self.place,), daemon=True)
        self._late.start()

    def away(self, why: str) -> None:
        self.gone = True
        if not self._said_away and why:
            self._said_away = True
            self.say(
                f"tt: the server at {self.place.name()} can't be reached ({why}): the command goes "
                "on, its output is kept and delivered later."
            )
        self._tell(handover.AWAY)

    def refused(self, why: str) -> None:
        self.say(
            f"tt: {self.place.name()} does not take the trace ({why.rstrip('.')}); the command "
            "goes on."
        )
        self._tell(handover.AWAY)

    def finish(self, within_s: float) -> None:
        """Wait for the delivery of what earlier ones left."""
        if self._late is not None:
            self._late.join(within_s)

    def done(self) -> None:
        """Everything was delivered, or nobody wants it."""
        self._tell(handover.DONE)

    def _tell(self, what: bytes, text: str = "") -> None:
        try:
            os.write(self._words, what + text.encode("utf-8", "backslashreplace") + b"\n")
        except OSError:
            pass  # the front has left


class Reader:
    """The front's frames, until it says how the command ended, or is gone."""

    def __init__(self, fd: int, dies_with: Child | None) -> None:
        """`dies_with` is killed when the front is; a terminal's leader does that itself."""
        self._fd = fd
        self._dies_with = dies_with
        self.ended = False
        self.refused = False

    def run(self, buffer: Buffer | None) -> None:
        """Without a buffer, or once the server refused, they are thrown away."""
        data = bytearray()
        last_us = 0
        while True:
            piece = os.read(self._fd, _READ)
            if not piece:
                break
            data += piece
            at = 0
            while at + HEAD.size <= len(data):
                kind, stream, _, last_us, length = HEAD.unpack_from(data, at)
                if at + HEAD.size + length > len(data):
                    break
                start, at = at + HEAD.size, at + HEAD.size + length
                self._take(kind, stream, last_us, bytes(data[start:at]), buffer)
            del data[:at]
        if self.ended:
            return
        if self._dies_with is not None:
            signals.send(self._dies_with.pid, signal.SIGKILL, grouped=self._dies_with.grouped)
        if buffer is not None:
            buffer.finish(b"", last_us)

    def _take(
        self, kind: int, stream: int, time_us: int, data: bytes, buffer: Buffer | None
    ) -> None:
        self.ended = self.ended or kind == handover.END
        if buffer is None or self.refused:
            return
        if kind == handover.OUTPUT:
            buffer.put(stream, time_us, data)
        elif kind == handover.DROPPED:
            buffer.drop(stream, int.from_bytes(data, "big"))
        elif kind == handover.END:
            buffer.finish(data, time_us)
