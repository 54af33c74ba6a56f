"""Progress of long work, by tqdm: a bar on a terminal, plain lines elsewhere."""

import functools
import os
import sys
import threading
from typing import Any, TextIO

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
        stream = stream or sys.stderr
        self._tty = _is_screen(stream)
        bar, lines = _tqdm()
        how: dict[str, Any]
        if self._tty:
            kind, how = bar, {"dynamic_ncols": True}
        else:  # The rate is that of all there was, and the first line comes after a while, too.
            kind, how = lines, {"ncols": 0, "mininterval": every, "delay": every, "smoothing": 0}
        self._bar = kind(
            total=total,
            desc=shown(what),
            unit=unit,
            file=stream,
            initial=done,
            miniters=0,
            leave=False,  # Where work fails, its bar goes.
            **how,
        )

    def update(self, count: int = 1, note: str = "") -> None:
        """Counts `count` more items; `note` is shown at the end of the line."""
        self._bar.set_postfix_str(shown(note), refresh=False)
        self._bar.update(count)

    def clear(self) -> None:
        """Wipes the bar off a terminal, so that a line can be printed in its place."""
        if self._tty:
            self._bar.clear()

    def close(self, note: str = "") -> None:
        """Shows the final count and ends the line."""
        self._bar.set_postfix_str(shown(note), refresh=False)
        if self._tty:
            self._bar.leave = True
        else:
            self._bar.refresh()
        self._bar.close()


def duration(seconds: float) -> str:
    """Writes a length of time for people: `00:42`, `03:05`, `2:10:00`."""
    return "unknown" if seconds == float("inf") else _tqdm()[0].format_interval(seconds)


def _is_screen(stream: TextIO) -> bool:
    """Whether a stream goes to a terminal on which a line can be redrawn, as it has a width."""
    try:
        return stream.isatty() and os.get_terminal_size(stream.fileno()).columns > 0
    except (OSError, ValueError):
        return False


@functools.cache
def _tqdm() -> tuple[type[Any], type[Any]]:
    """tqdm's bar, and one of lines; loaded late, as that takes longer than many a command."""
    from tqdm import tqdm

    class Bar(tqdm):
        monitor_interval = 0  # No thread that redraws what does not go on.

    class Lines(Bar):
        def display(self, msg: str | None = None, pos: int | None = None) -> None:
            if msg is None:
                self.fp.write(f"{self}\n")
                self.fp.flush()

    # Its own would keep several processes apart, which draw none at the same time.
    Bar.set_lock(threading.RLock())
    return Bar, Lines
