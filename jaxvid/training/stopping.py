"""Ending a run on SIGTERM or SIGINT (Ctrl-C) between two steps, in all processes at the same one.

The first signal only asks: who makes the steps looks with `asked` between them, leaves what it has
in good order and raises `Stopped`. The second ends the process at once, whatever it is doing.
"""

import os
import signal
import threading
from collections.abc import Callable
from typing import Any

from jaxvid.base.errors import Stopped
from jaxvid.base.text import say

EVERY = 4
"""Processes ask one another at every so many calls; the answer is there at the next time."""


class Signals:
    """Catches SIGTERM and SIGINT while it is open as a context, in the main thread only.

    `largest` is for runs of several processes, which must stop after the same step: it takes this
    process's number, begins to look for the largest of all, and returns that as anything that
    `int` can wait for.
    """

    def __init__(self, largest: Callable[[int], Any] | None = None):
        self._largest = largest
        self._number = self._calls = 0  # of the signal, and of calls of `asked`
        self._answer: Any = 0

    def __enter__(self) -> "Signals":
        self._catches = threading.current_thread() is threading.main_thread()
        if self._catches:
            self._ends = os.pipe()
            os.set_blocking(self._ends[1], False)
            # What must be done at once is done in a thread: Python runs its handlers only when the
            # main thread comes back to it, which may be blocked by a compilation or a lost peer.
            self._woken = signal.set_wakeup_fd(self._ends[1])
            self._handlers = {
                number: signal.signal(number, _nothing)
                for number in (signal.SIGTERM, signal.SIGINT)
            }
            self._thread = threading.Thread(target=self._watch, daemon=True, name="signals")
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._catches:
            for number, handler in self._handlers.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(self._woken)
            os.write(self._ends[1], b"\0")
            self._thread.join()
            for end in self._ends:
                os.close(end)

    def asked(self) -> bool:
        """Whether to stop now; with several processes all of them must call it equally often."""
        if self._largest is None:
            return bool(self._number)
        if self._calls % EVERY == 0:
            # The last answer has long been there, so that nothing waits here.
            self._answer, known = self._largest(self._number), int(self._answer)
            if known:
                self._number = known
                return True
        self._calls += 1
        return False

    @property
    def name(self) -> str:
        """What asked to stop, such as SIGTERM."""
        return signal.Signals(self._number).name

    def stopped(self) -> Stopped:
        """The end that was asked for."""
        return Stopped(128 + self._number)

    def _watch(self) -> None:
        asked = False
        while number := os.read(self._ends[0], 1)[0]:
            if number not in self._handlers:
                continue
            name = signal.Signals(number).name
            if asked:
                say(f"{name} again: ending at once", error=True)
                os._exit(128 + number)
            asked, self._number = True, number
            say(f"{name}: saving first; once more ends at once", error=True)


def _nothing(*_: object) -> None:
    """A handler, so that the signal neither ends the process nor is ignored by children."""
