"""Clips inside videos: which frames a window holds, and that lists, files and records agree."""

import json
import math

import numpy as np
import pytest

from jaxvid.base.errors import JaxvidError
from jaxvid.data import build, decode, files, records, table, windows
from jaxvid.data.windows import Window
from tests.data import clips
from tests.data.test_build import decoded
from tests.data.test_decode import assert_numbered
from tests.data.test_files import open_files

FRAMES, RATE = 28, 4  # seven seconds


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two videos, and a list of parts of them: two of one, one that is too long, one of nothing."""
    folder = tmp_path_factory.mktemp("clips")
    for name in ("a.mp4", "b.mp4"):
        clips.encode(folder / name, FRAMES, rate=RATE, gop=4)
    lines = ["a.mp4,wave,1,2.5", "a.mp4,nod,4.25,6", "b.mp4,nod,,", "b.mp4,wave,5,9.5"]
    (folder / "train.csv").write_text("\n".join(["path,label,start,end", *lines]))
    (folder / "empty.csv").write_text("\n".join(["path,label,start,end", *lines, "a.mp4,nod,3,3"]))
    return folder


@pytest.mark.parametrize(
    ("name", "codec", "sought"),
    [
        ("a.mp4", "libx264", True),
        ("a.mkv", "libx265", True),
        ("a.webm", "libvpx-vp9", False),
        ("a.ts", "libx264", False),
        ("a.avi", "mpeg4", False),
    ],
)
@pytest.mark.parametrize("window", [(0, 1), (0.3, 2.25), (3.5, 5.25), (4.76, 4.99), (6.5, 7)])
def test_a_window_holds_the_frames_that_are_shown_in_it(tmp_path, name, codec, sought, window):
    path = clips.encode(tmp_path / name, FRAMES, codec=codec, rate=RATE, gop=4)
    start, end = window
    numbers = [n for n in range(FRAMES) if start <= n / RATE < end]
    if not numbers:
        with pytest.raises(JaxvidError, match=r"a\.\w+ has no frame in its 4.76-4.99 s: correct"):
            decode.frames_at(path, [0], window=Window(start, end))
        return
    with decode.Video(path, window=Window(start, end)) as video:
        frames = list(video.frames())
        info = video.info()
    tolerance = 8 if "vp9" in codec else 3
    found = [int(frame[-8:, -8:].astype(float).mean().round()) for frame in frames]
    assert len(found) == len(numbers) == info.num_frames
    assert np.abs(np.subtract(found, [clips.grey(n) for n in numbers])).max() <= tolerance
    assert info.fps == RATE and info.damaged == 0 and info.cut == 0
    # At most two groups of pictures are decoded before it.
    assert video._passed <= 8 if sought else video._passed == numbers[0]
    assert_equal = np.testing.assert_array_equal
    assert_equal(decode.frames_at(path, [len(numbers) - 1, 0], None, Window(start, end)),
                 [frames[-1], frames[0]])  # fmt: skip


def test_key_frames_that_are_not_found_cost_time_but_no_frame(tmp_path, monkeypatch):
    path = clips.encode(tmp_path / "a.mp4", FRAMES, rate=RATE, gop=FRAMES)
    assert_numbered(decode.frames_at(path, [0, 1], window=Window(6)), [24, 25])
    times = [0, 5, 10, 300, 310, 320, 600, 610]
    path = clips.encode(tmp_path / "b.mkv", 8, times=times, gop=2)
    assert_numbered(decode.frames_at(path, [0, 1, 2], window=Window(3, 6)), [3, 4, 5])
    path = clips.encode(tmp_path / "c.mp4", FRAMES, rate=RATE, gop=4)
    monkeypatch.setattr(decode, "_LEAD", -2.0)  # as if the container led too far
    assert_numbered(decode.frames_at(path, [0, 1], window=Window(3)), [12, 13])


def test_frames_without_times_are_shown_at_the_stated_rate(tmp_path):
    path = clips.encode(tmp_path / "a.h264", FRAMES, rate=25)
    with decode.Video(path, window=Window(0.8, 2)) as video:
        assert_numbered(video.frames(), range(20, 28))
        assert video.info().cut == pytest.approx(0.88)


def test_a_window_that_reaches_beyond_its_video_ends_with_it(folder):
    with decode.Video(folder / "a.mp4", window=Window(5, 9.5)) as video:
        assert_numbered(video.frames(), range(20, 28))
        assert video.info().cut == pytest.approx(2.5)
    with pytest.raises(JaxvidError, match="has no frame in its 8-9 s"):
        decode.frames_at(folder / "a.mp4", [0], window=Window(8, 9))


def test_cells_are_seconds():
    assert windows.read("", "", "") == windows.WHOLE == Window(0, math.inf)
    window = windows.read("24.20", "38.8000004", "")
    assert window == Window(24.2, 38.8) and window.name("v.mp4") == "v.mp4@24.2-38.8"
    assert windows.read("12.", "", "").name("v.mp4") == "v.mp4@12-"
    for cell in ("1e3", "-1", "nan", "1:02", "."):
        with pytest.raises(JaxvidError, match="train.csv line 2: .* is no number of seconds"):
            windows.read(cell, "", "train.csv line 2")


def test_a_video_may_be_there_with_several_windows(tmp_path):
    path = tmp_path / "train.csv"
    path.write_text("path,start,end,label\na,1,2,x\na,2,3,y\n./a,1.0,2,x\na,,,z\n")
    rows, repeated = table.without_repeats(table.read(path), path)
    assert [row.name for row in rows] == ["a@1-2", "a@2-3", "a"]
    assert repeated == {"./a@1-2": "repeated in line 4; line 2 was kept"}
    path.write_text("path,start,end,label\na,1,2,x\na,1,2,y\n")
    with pytest.raises(JaxvidError, match="lines 2 and 3 label a@1-2 both 'x' and 'y'"):
        table.without_repeats(table.read(path), path)
    path.write_text("path,start\na,1\n")
    assert table.read(path)[0].window == Window(1)
    path.write_text("path,start,start\na,1,2\n")
    with pytest.raises(JaxvidError, match="has two columns 'start'"):
        table.read(path)


def test_files_and_records_hold_just_the_windows(folder, tmp_path, capsys):
    split = open_files(folder)
    names = ["a.mp4@1-2.5", "a.mp4@4.25-6", "b.mp4", "b.mp4@5-9.5"]
    held = [range(4, 10), range(17, 24), range(28), range(20, 28)]
    assert split.paths == names
    assert split.source.num_frames.tolist() == [len(numbers) for numbers in held]
    assert split.source.labels == [(1,), (0,), (0,), (1,)]
    for number, numbers in enumerate(held):
        assert_numbered(split.source.frames(number, np.arange(len(numbers))), numbers)
    said = (
        "train.csv: windows that reach beyond their videos, and end with them: 1, the first b.mp4@5"
    )
    assert said in capsys.readouterr().err
    summary = build.build(folder, folder / "empty.csv", tmp_path / "out", workers=1)
    assert (summary.num_videos, summary.num_frames) == (4, sum(map(len, held)))
    assert summary.bad == {"a.mp4@3-3": "has no frame in its 3-3 s: correct start and end"}
    assert summary.damaged == {"b.mp4@5-9.5": "the video ends 2.50 s before its window"}
    built = records.Records(tmp_path / "out", "empty")
    assert built.path.tolist() == names
    for number, numbers in enumerate(held):
        assert_numbered(decoded(built, number), numbers)


def test_windows_are_probed_once(folder, monkeypatch):
    open_files(folder)
    notes = (folder / "train.csv.probed").read_text().splitlines()
    keys = [json.loads(line)[:-1] for line in notes[1:] if line]
    assert sorted(tuple(key[3:]) for key in keys) == [(), (1, 2.5), (4.25, 6), (5, 9.5)]
    monkeypatch.setattr(files, "_probe", None)
    assert open_files(folder).paths == [row.name for row in table.read(folder / "train.csv")]


def test_empty_windows_are_bad_videos(folder):
    with pytest.raises(JaxvidError, match=r"a\.mp4 has no frame in its 3-3 s"):
        open_files(folder, "empty")
    split = open_files(folder, "empty", max_bad_records=1)
    assert len(split) == 5 and list(split.source.bad) == [4]
