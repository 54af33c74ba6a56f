"""How far the devices are with the steps that they were handed."""

import contextlib
import queue
import threading
import time
from collections.abc import Callable
from typing import Any

import jax


class Pace:
    """Follows the steps of a run, while it is open as a context, in a thread that waits for each.

    `finished` is called in that thread whenever the devices have finished one.
    """

    def __init__(self, finished: Callable[[], None] = lambda: None):
        self._finished = finished
        self._given: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._changed = threading.Condition()
        self._left, self._last = 0, time.monotonic()

    def __enter__(self) -> "Pace":
        self._thread = threading.Thread(target=self._follow, daemon=True, name="pace")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._given.put(None)
        self._thread.join(timeout=10)  # Where a step hangs, the run may still be ended.

    def given(self, measured: Any) -> None:
        """Notes that a step was handed to the devices, of which these arrays will be there."""
        with self._changed:
            self._left += 1
        self._given.put(measured)

    def wait(self, left: int = 0) -> None:
        """Waits until the devices have no more than so many steps to finish."""
        with self._changed:
            self._changed.wait_for(lambda: self._left <= left)

    def idle(self, since: float) -> float:
        """Seconds from `since`, by the monotonic clock, in which the devices had nothing to do.

        They are those after the last step that they finished; none where one is not finished.
        """
        with self._changed:
            return 0.0 if self._left else time.monotonic() - max(since, self._last)

    def _follow(self) -> None:
        while (measured := self._given.get()) is not None:
            with contextlib.suppress(Exception):  # Who reads the arrays meets it there.
                jax.block_until_ready(measured)
            with self._changed:
                self._left, self._last = self._left - 1, time.monotonic()
                self._changed.notify_all()
            self._finished()
