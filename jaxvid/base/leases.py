"""Locks in an object store: a file that says who holds the lock, and changes while that one lives.

No system ends such a lock with its process. So the holder writes the file anew every few seconds,
and one that does not change any more, as a kill leaves it, is taken over after `_DEAD` seconds; on
the machine of the process that died, at once. The first to come is told apart by the store, which
creates a file for one of those who ask. Of two that take over at once, that one holds the lock
which the file names after a moment.
"""

import contextlib
import json
import os
import threading
import time
from typing import Any

from jaxvid.base import stores
from jaxvid.base.errors import JaxvidError
from jaxvid.base.text import say

_BEAT, _DEAD = 10.0, 35.0  # seconds between two signs of life, and without one
_LOOK = 2.0  # Seconds between two looks at another's file, and until one's own is believed.


class Lease:
    """A lock that is held: the file, and the thread that keeps it alive until `close`."""

    def __init__(self, file: stores.StorePath, card: dict[str, Any]):
        self._file, self._card = file, card
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._live, daemon=True, name="lease")
        self._thread.start()

    def _live(self) -> None:
        beat = 0
        while not self._over.wait(_BEAT):
            beat += 1
            # What cannot be written now is written next time, or the lock is another's.
            with contextlib.suppress(OSError):
                if not _is_own(self._file, self._card):
                    say(f"warning: {self._file} was taken over by another process", error=True)
                    return
                stores.write(self._file, json.dumps(self._card | {"beat": beat}).encode())

    def close(self) -> None:
        """Gives the lock back."""
        self._over.set()
        self._thread.join()
        with contextlib.suppress(OSError):
            if _is_own(self._file, self._card):
                self._file.unlink(missing_ok=True)


def take(file: stores.StorePath, what: str, card: dict[str, Any], wait: bool) -> Lease:
    """Takes the lock of which `file` is the sign; `card` says who asks.

    Raises:
      JaxvidError: another process holds it and it is not waited for; `what` is said to be its.
      OSError: the store refuses the file.
    """
    card = card | {"machine": _machine(), "key": os.urandom(8).hex()}
    told = False
    while True:
        with contextlib.suppress(FileExistsError):
            stores.write(file, json.dumps(card).encode(), new=True)
            return Lease(file, card)
        if _is_own(file, card):  # Its answer was lost.
            return Lease(file, card)
        last = _read(file)
        if last is None:
            continue
        who = _alive(file, last)
        if who is None:
            if _read(file) == last and _take_over(file, card):
                return Lease(file, card)
        elif not wait:
            raise JaxvidError(
                f"{what} is being written by {who}: wait for its end, or choose another place"
            )
        elif not told:
            say(f"waiting for {who}, which writes {what}", error=True)
            told = True


def described(card: bytes) -> str:
    """Who holds a lock, in words; raises what damaged cards make Python raise."""
    said = json.loads(card)
    text = f"process {int(said['pid'])} on {said['host']} since {said['since']} ({said['command']})"
    return "".join(c if c.isprintable() else "?" for c in text)


def _alive(file: stores.StorePath, last: bytes) -> str | None:
    """Who holds the lock, or None where that one is dead; looks at it for as long as needed."""
    if _died_here(last):
        return None
    end = time.monotonic() + _DEAD
    while _read(file) == last:
        if time.monotonic() > end:
            return None
        time.sleep(_LOOK)
    try:
        return described(last)
    except (ValueError, KeyError, TypeError, RecursionError):
        return "another process"


def _read(file: stores.StorePath) -> bytes | None:
    with contextlib.suppress(FileNotFoundError):
        return file.read_bytes()
    return None


def _died_here(card: bytes) -> bool:
    """Whether a holder was a process of this machine that is there no more."""
    try:
        said = json.loads(card)
        if not said["machine"] or said["machine"] != _machine():
            return False
        os.kill(int(said["pid"]), 0)
    except ProcessLookupError:
        return True
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False
    return False


def _machine() -> str:
    """What tells the processes of this system, or of this container, from others; '' if unknown."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return f"{file.read().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _take_over(file: stores.StorePath, card: dict[str, Any]) -> bool:
    stores.write(file, json.dumps(card).encode())
    time.sleep(_LOOK)
    return _is_own(file, card)


def _is_own(file: stores.StorePath, card: dict[str, Any]) -> bool:
    try:
        return bool(json.loads(_read(file) or b"{}").get("key") == card["key"])
    except (ValueError, AttributeError, RecursionError):
        return False
