"""Windows of a video that is too long to be answered at once, or that has no end."""

import collections
import dataclasses
import math
import threading
import time
from collections.abc import Iterator

import numpy as np

from jaxvid.base import text
from jaxvid.base.errors import JaxvidError
from jaxvid.data import decode
from jaxvid.data.pictures import Pictures

Decoding = decode.Video | Pictures
"""A video whose frames come one by one."""

_MOST = 640 << 20  # bytes of frames that are held at most, unless that is less than so many seconds
_YEAR = 3.2e7  # seconds: a clock that leaps further has been set, or is damaged
_RATE = 60  # frames of every second of a window that are held in any case


@dataclasses.dataclass(frozen=True)
class Window:
    """The frames that begin to show from `start` on and before `end`, in seconds of the video.

    `frames` are uint8 [H, W, 3] each; `fps` is the video's rate so far; `ready` is the process's
    monotonic clock when the last frame was there.
    """

    start: float
    end: float
    frames: list[np.ndarray]
    fps: float
    ready: float


def windows(video: Decoding, seconds: float, stride: float, live: bool = False) -> Iterator[Window]:
    """Windows of `seconds`, one every `stride` seconds; no more frames are held than one has.

    The last one ends with the video and is as long as the others, or as the video where that is
    shorter. Windows in which no frame begins are left out. A clock that jumps back, or by years,
    goes on from where it was; a `live` stream without a clock, or with one that stands still for
    more frames than two windows have, has the time at which its frames come.

    Raises:
      JaxvidError: the video breaks off, does not tell its time, or has more frames in a window
        than there should be memory for.
    """
    held: collections.deque[tuple[float, np.ndarray]] = collections.deque()
    number, now, shift = 0, 0.0, None
    still, stopped, most = 0, False, 0.0
    for count, frame in enumerate(video.frames()):
        stamp = None if stopped else video.time
        if stamp is None:
            fps = video.info().fps
            if not live and math.isnan(fps):
                raise JaxvidError("the video does not tell when its frames are shown: no --window")
            stamp = time.monotonic() if live else count / fps
        if shift is None or not now <= stamp + shift < now + _YEAR:
            shift = now - stamp
        # Rounded, so that a frame at the very edge of a window falls on the same side everywhere.
        before, now = now, round(stamp + shift, 6)
        still = still + 1 if now == before else 0
        if still > 2 * _RATE * seconds + _RATE and not stopped:
            if not live:
                raise JaxvidError(
                    f"the clock of the video stands still at {now:g} s for {still} frames: no "
                    "--window"
                )
            text.say("note: the clock of the stream stands still; it goes by ours", error=True)
            stopped, shift = True, now - time.monotonic()
        while (end := _start(number, stride) + seconds) <= now:
            window = _window(video, held, _start(number, stride), end)
            if window.frames:
                yield window
                number += 1
            else:
                number = max(number + 1, int((now - seconds) // stride))
        # The last window may reach back by all of its length.
        while held and held[0][0] < now - seconds:
            held.popleft()
        held.append((now, frame))
        if not most:
            info = video.info()
            most = max(_MOST / (3 * info.height * info.width), _RATE * seconds)
        if len(held) > most:
            raise JaxvidError(
                f"{len(held)} frames of the video begin within {seconds:g} s, more than can be "
                "held: take a shorter --window"
            )
    if held and now >= _start(number, stride):
        fps = video.info().fps
        # The last frame shows for a while and is in the window, also where nothing tells the rate,
        # or where it is that of a few frames far apart.
        end = now + min(1 / (_RATE if math.isnan(fps) else fps), seconds)
        yield _window(video, held, min(max(0.0, end - seconds), now), end)


def newest(items: Iterator[Window], live: bool) -> Iterator[tuple[Window, int]]:
    """The items of an iterator with how many were passed over before each: 0 of what can wait."""
    return latest(items) if live else ((item, 0) for item in items)


def latest(items: Iterator[Window]) -> Iterator[tuple[Window, int]]:
    """Runs an iterator in a thread and gives its newest item, with how many were passed over.

    So who asks late is never behind by more than the item at hand. The last item is always given.
    """
    changed = threading.Condition()
    waiting: list[Window] = []
    passed, ended = 0, False
    failure: BaseException | None = None

    def read() -> None:
        nonlocal passed, ended, failure
        try:
            for item in items:
                with changed:
                    passed += len(waiting)
                    waiting[:] = [item]
                    changed.notify()
        except BaseException as error:
            failure = error
        with changed:
            ended = True
            changed.notify()

    threading.Thread(target=read, daemon=True).start()
    while True:
        with changed:
            changed.wait_for(lambda: waiting or ended)
            item = waiting.pop() if waiting else None
            skipped, passed = passed, 0
        if item is None:
            break
        yield item, skipped
    if failure is not None:
        raise failure


def _start(number: int, stride: float) -> float:
    # Not summed up, so that errors of rounding do not grow.
    return round(number * stride, 6)


def _window(
    video: Decoding,
    held: collections.deque[tuple[float, np.ndarray]],
    start: float,
    end: float,
) -> Window:
    start, end = round(start, 6), round(end, 6)
    frames = [frame for shown, frame in held if start <= shown < end]
    return Window(start, end, frames, video.info().fps, time.monotonic())
