"""A run that hangs says where: the stacks of all its threads, once for each hang.

Without it a job whose network disk, peer or device has gone away holds its machines until its time
is up, and leaves no trace of what it waited for.
"""

import contextlib
import faulthandler
import math
import os
import pathlib
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping

import jax

from jaxvid.base.environment import read_number
from jaxvid.base.progress import duration
from jaxvid.base.text import say

LEAST, TIMES = 300.0, 10.0
"""A step hangs after so many seconds, and so many times the longest step before."""


def patience(environment: Mapping[str, str] = os.environ) -> float | None:
    """The seconds of `JAXVID_HANG_SECONDS`, infinite where it is 0; None where it is not set.

    Raises:
      JaxvidError: it is no such number.
    """
    seconds = read_number(
        environment,
        "JAXVID_HANG_SECONDS",
        "seconds without a step until a run tells where it hangs, or 0 for never",
    )
    return math.inf if seconds == 0 else seconds


class Hangs:
    """Watches, while it is open as a context, that steps go on.

    Its clock begins with the first `beat`, as programs are compiled before it, and stands while
    `paused`. Where it runs for `seconds`, by default `TIMES` the longest step and at least `LEAST`,
    the stacks go to standard error and to `hang-PROCESS.txt` in `folder`, and the run goes on
    waiting.
    """

    def __init__(self, folder: pathlib.Path, seconds: float | None = None):
        self._file = folder / f"hang-{jax.process_index()}.txt"
        self._seconds = seconds
        self._changed = threading.Condition()
        self._begun = self._over = False
        self._pauses = self._steps = 0
        self._longest, self._last, self._deadline = 0.0, 0.0, math.inf

    def __enter__(self) -> "Hangs":
        self._thread = threading.Thread(target=self._watch, daemon=True, name="hangs")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._over = True
            self._changed.notify()
        self._thread.join(timeout=10)

    def beat(self) -> None:
        """Notes that a step is finished."""
        with self._changed:
            self._steps += 1
            if self._begun and not self._pauses:
                self._longest = max(self._longest, time.monotonic() - self._last)
            self._begun = True
            self._restart()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Lets the clock stand while something is done that takes its time."""
        with self._changed:
            self._pauses += 1
            self._restart()
        try:
            yield
        finally:
            with self._changed:
                self._pauses -= 1
                self._restart()

    @property
    def limit(self) -> float:
        """Seconds without a step that are a hang."""
        return max(LEAST, TIMES * self._longest) if self._seconds is None else self._seconds

    def _restart(self) -> None:
        self._last = time.monotonic()
        runs = self._begun and not self._pauses
        self._deadline = self._last + self.limit if runs else math.inf
        self._changed.notify()

    def _watch(self) -> None:
        while True:
            with self._changed:
                while not self._over and (left := self._deadline - time.monotonic()) > 0:
                    self._changed.wait(None if left == math.inf else left)
                if self._over:
                    return
                self._deadline = math.inf
                waited = time.monotonic() - self._last
            self._tell(waited)

    def _tell(self, waited: float) -> None:
        """Says where all threads are; standard error first, as the disk may be what hangs."""
        head = (
            f"no step was finished for {duration(waited)}, after {self._steps} of this process; "
            f"it goes on waiting, and these are the stacks of its threads ({self._file} keeps them)"
        )
        stacks = _stacks()
        say(head, *stacks, error=True)
        try:
            with self._file.open("a", encoding="utf-8") as file:
                file.writelines(f"{line}\n" for line in (time.strftime("%F %T"), head, *stacks, ""))
        except OSError as error:
            say(f"{self._file} cannot be written ({error.strerror})", error=True)


def _stacks() -> list[str]:
    with tempfile.TemporaryFile() as file:
        faulthandler.dump_traceback(file, all_threads=True)
        file.seek(0)
        return file.read().decode("utf-8", "replace").splitlines()
