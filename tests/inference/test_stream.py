"""Windows of long videos and streams: what is in each, what is held, what is passed over."""

import dataclasses
import itertools
import math
import threading
import time
import weakref

import numpy as np
import pytest

from jaxvid.base.errors import JaxvidError
from jaxvid.data import decode
from jaxvid.inference import stream
from tests.data.clips import encode


class Frame:
    """A frame that says by itself which one it is and whether it is still held."""

    def __init__(self, number):
        self.number = number


class Video:
    """A video of frames at given times (None: it does not say)."""

    def __init__(self, times, fps=10.0, stop=None):
        self._times, self._fps, self._stop = times, fps, stop
        self.time = None

    def frames(self):
        for number, shown in enumerate(self._times):
            self.time = shown
            yield Frame(number)
        if self._stop:
            raise JaxvidError(self._stop)

    def info(self):
        return decode.Info(len(self._times), self._fps, 1, 1, "", 0)


def windows(times, seconds, stride, **settings):
    found = stream.windows(Video(times, **settings), seconds, stride)
    return [(w.start, w.end, [frame.number for frame in w.frames]) for w in found]


TEN = [n / 10 for n in range(10)]


def test_windows_without_overlap_share_the_frames_out():
    assert windows(TEN, 0.5, 0.5) == [(0, 0.5, [0, 1, 2, 3, 4]), (0.5, 1, [5, 6, 7, 8, 9])]


def test_the_last_window_is_as_long_as_the_others():
    assert windows(TEN, 0.4, 0.4) == [
        (0, 0.4, [0, 1, 2, 3]),
        (0.4, 0.8, [4, 5, 6, 7]),
        (0.6, 1.0, [6, 7, 8, 9]),
    ]


def test_windows_that_overlap_and_windows_apart():
    assert [found[2] for found in windows(TEN, 0.5, 0.3)] == [
        [0, 1, 2, 3, 4],
        [3, 4, 5, 6, 7],
        [5, 6, 7, 8, 9],
    ]
    assert [found[2] for found in windows(TEN, 0.2, 0.4)] == [[0, 1], [4, 5], [8, 9]]


def test_a_short_video_is_one_window():
    assert windows(TEN, 5, 1) == [(0, 1.0, list(range(10)))]


def test_frames_have_their_own_times():
    # Of variable rate, and from a clock that does not begin at 0.
    times = [7 + t for t in (0, 0.1, 0.9, 1.0, 1.05, 2.4)]
    assert [found[2] for found in windows(times, 1, 1)] == [[0, 1, 2], [3, 4], [5]]


def test_windows_in_which_no_frame_begins_are_left_out():
    found = windows([0, 0.1, 5.2, 5.3], 1, 0.5)
    assert found[0][2] == [0, 1] and found[-1] == (4.4, 5.4, [2, 3])
    assert all(frames for _, _, frames in found) and len(found) <= 4
    # A day's gap is not walked through.
    assert windows([0, 86400.0], 1, 0.001)[-1][2] == [1]


def test_a_clock_that_jumps_back_goes_on():
    found = windows([100, 100.1, 0, 0.1, 0.2], 10, 10)
    assert found == [(0, pytest.approx(0.4), [0, 1, 2, 3, 4])]


def test_without_times_the_rate_tells_them():
    assert windows([None] * 10, 0.5, 0.5) == windows(TEN, 0.5, 0.5)
    with pytest.raises(JaxvidError, match="does not tell when its frames are shown"):
        windows([None] * 10, 0.5, 0.5, fps=math.nan)


def test_the_last_frame_is_in_the_last_window_whatever_the_rate():
    for times in ([0], [0, 0.1, 0.2], [0, 5], [0, 1e5], [0, 1e14], [0, 0.1, 1e18]):
        for fps in (math.nan, 10.0, 0.1, 1e-14):
            found = windows(times, 1, 1, fps=fps)
            assert found[-1][2][-1] == len(times) - 1 and found[-1][1] > found[-1][0]


def test_no_more_frames_are_held_than_a_window_has():
    class Counted(Video):
        alive, most = weakref.WeakSet(), 0

        def frames(self):
            for frame in super().frames():
                self.alive.add(frame)
                type(self).most = max(self.most, len(self.alive))
                yield frame
                del frame

    for _ in stream.windows(Counted([n / 10 for n in range(500)]), 1.0, 0.5):
        pass
    # Those of the window at hand, those after it, and the frame between.
    assert Counted.most <= 22


class Sized(Video):
    """A video of larger frames, of which the most that were held at a time is noted."""

    alive, most = weakref.WeakSet(), 0

    def frames(self):
        self.alive.clear()
        for frame in super().frames():
            self.alive.add(frame)
            self.most = max(self.most, len(self.alive))
            yield frame
            del frame

    def info(self):
        return dataclasses.replace(super().info(), height=1000, width=1000)


def test_a_stream_whose_clock_stands_still_goes_by_ours(monkeypatch, capsys):
    ticks = itertools.count()
    monkeypatch.setattr(stream.time, "monotonic", lambda: next(ticks) / 30)
    for times in ([0.1 * n for n in range(20)] + [2.0] * 2000, [-n / 9 for n in range(2000)]):
        video = Sized(times)
        found = [(w.start, w.end) for w in stream.windows(video, 1.0, 1.0, live=True)]
        assert len(found) > 30 and video.most < 400
        assert all(b[0] >= a[1] for a, b in itertools.pairwise(found[:-1]))
    assert capsys.readouterr().err.count("stands still; it goes by ours") == 2


def test_a_file_whose_clock_stands_still_is_refused():
    with pytest.raises(JaxvidError, match="stands still at 1 s for 181 frames: no --window"):
        windows([0, 1] + [1.0] * 500, 1, 1)
    assert windows([0, 1] + [1.0] * 100 + [2, 3], 1, 1)[1][2] == [*range(1, 102)]


def test_a_clock_that_creeps_holds_no_more_than_there_is_memory_for():
    video = Sized([n * 1e-5 for n in range(1000)])
    with pytest.raises(JaxvidError, match="224 frames .* within 3 s, more than can be held"):
        list(stream.windows(video, 3, 3))
    assert video.most <= 225
    # But all of a long window of an honest rate are.
    assert len(list(stream.windows(Sized([n / 50 for n in range(600)]), 10, 10))) == 2


@pytest.mark.parametrize("live", [False, True])
def test_clocks_that_jump_anywhere_end_soon(live):
    rng = np.random.default_rng(0)
    for _ in range(30):
        times = (10 ** rng.uniform(-6, 12, 50) * rng.choice([-1, 1], 50)).tolist()
        found = list(stream.windows(Video(times), 1.0, 0.5, live))
        assert all(window.frames for window in found)


def test_a_files_windows_are_its_frames(tmp_path):
    path = encode(tmp_path / "clip.mp4", frames=12, rate=10)
    with decode.Video(path) as video:
        first, second = stream.windows(video, 0.6, 0.6)
    frames = list(decode.read_frames(path))
    np.testing.assert_array_equal(first.frames, frames[:6])
    np.testing.assert_array_equal(second.frames, frames[6:])
    assert (first.start, first.end, second.start, second.end) == (0, 0.6, 0.6, 1.2)
    assert first.fps == 10


def test_the_newest_is_given_and_what_was_passed_over_is_counted():
    go = threading.Event()

    def items():
        yield "first"
        go.wait(10)
        yield from ("second", "third", "last")

    found = stream.latest(items())
    assert next(found) == ("first", 0)
    go.set()
    time.sleep(0.2)  # as long as an answer takes
    assert next(found) == ("last", 2)
    assert list(found) == []


def test_who_keeps_up_misses_nothing():
    def items():
        for number in range(5):
            yield number
            time.sleep(0.05)

    assert list(stream.latest(items())) == [(number, 0) for number in range(5)]


def test_what_ends_a_stream_is_said_after_its_last_window():
    video = Video([0.1 * n for n in range(30)], stop="it breaks off")
    found = stream.latest(stream.windows(video, 1, 1))
    with pytest.raises(JaxvidError, match="it breaks off"):
        answers = []
        for window, _ in found:
            answers.append(window)
    assert answers and answers[-1].end == 2
