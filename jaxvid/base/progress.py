"""Progress of long work: a bar on a terminal, plain lines elsewhere, with rate and time left."""

import sys
import time
from typing import TextIO

from jaxvid.base.text import shown


class Progress:
    """Counts finished items of `total` and says how fast they go and when they will be done.

    Where `total` is None it is unknown, and only what is done is said. What was `done` before does
    not count for the rate.
    On a terminal one line is redrawn; otherwise a line is printed at most every `every` seconds,
    so that log files stay short.
    """

    def __init__(
        self,
        total: int | None,
        what: str,
        unit: str = "",
        every: float = 10.0,
        stream: TextIO | None = None,
        done: int = 0,
    ):
        self._total = total
        self._what = shown(what)
        self._unit = unit
        self._stream = stream or sys.stderr
        self._tty = self._stream.isatty()
        self._every = 0.1 if self._tty else every
        self._start = self._shown = time.monotonic()
        self._done = self._before = done

    def update(self, count: int = 1, note: str = "") -> None:
        """Counts `count` more items; `note` is shown at the end of the line."""
        self._done += count
        now = time.monotonic()
        if now - self._shown >= self._every:
            self._shown = now
            self._show(note)

    def clear(self) -> None:
        """Wipes the bar off a terminal, so that a line can be printed in its place."""
        if self._tty:
            self._stream.write(f"\r{'':<79}\r")
            self._stream.flush()

    def close(self, note: str = "") -> None:
        """Shows the final count and ends the line."""
        self._show(note)
        if self._tty:
            self._stream.write("\n")
        self._stream.flush()

    def _show(self, note: str) -> None:
        elapsed = max(time.monotonic() - self._start, 1e-9)
        rate = (self._done - self._before) / elapsed
        line = f"{self._what} {self._done}"
        if self._total is None:
            line += f" {self._unit}, {rate:.3g} {self._unit}/s"
        else:
            left = (self._total - self._done) / rate if rate > 0 else float("inf")
            line += f"/{self._total} {rate:.3g} {self._unit}/s, {duration(left)} left"
        if note:
            line += f", {shown(note)}"
        self._stream.write(f"\r{line:<79}" if self._tty else line + "\n")
        self._stream.flush()


def duration(seconds: float) -> str:
    """Writes a length of time for people: `42 s`, `3 min 05 s`, `2 h 10 min`."""
    if seconds == float("inf"):
        return "unknown"
    whole = int(round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
