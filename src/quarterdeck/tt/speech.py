"""What tt itself says, on standard error; it waits while a program has the whole screen."""

from __future__ import annotations

import os

_SCREEN_ON = (b"\x1b[?1049h", b"\x1b[?1047h", b"\x1b[?47h")
_SCREEN_OFF = (b"\x1b[?1049l", b"\x1b[?1047l", b"\x1b[?47l")


class Speech:
    """Sentences in order. `raw`: the terminal does not return the carriage by itself now."""

    def __init__(self) -> None:
        self.raw = False
        self._waiting: list[str] = []
        self._full_screen = False

    def say(self, sentence: str) -> None:
        """As soon as it may be said."""
        self._waiting.append(sentence)
        if not self._full_screen:
            self.out()

    def watch(self, shown: bytes) -> None:
        """What a program writes to a terminal tells whether it has the whole screen."""
        if b"\x1b[?" not in shown:
            return
        on = max(map(shown.rfind, _SCREEN_ON))
        off = max(map(shown.rfind, _SCREEN_OFF))
        if max(on, off) >= 0:
            self._full_screen = on > off

    def out(self) -> None:
        """Everything, now."""
        self._full_screen = False
        for sentence in self._waiting:
            text = sentence.encode("utf-8", "backslashreplace") + (b"\r\n" if self.raw else b"\n")
            try:
                os.write(2, text)
            except OSError:
                pass  # nobody reads
        self._waiting.clear()
