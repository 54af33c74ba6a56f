"""Frames by their key frames: the pixels and numbers that decoding from the start gives."""

import dataclasses
import itertools

import av
import numpy as np
import pytest

from jaxvid.base.errors import JaxvidError
from jaxvid.data import decode, files, keyframes
from jaxvid.data.keyframes import Keyframes
from jaxvid.data.windows import WHOLE, Window
from tests.data import clips
from tests.data.test_files import open_files

FRAMES, GOP = 40, 8


def encode(path, codec="libx264", pixels="yuv420p", frames=FRAMES, **options):
    """A clip in which every frame is unlike the others, and moves."""
    rng = np.random.default_rng(0)
    field = np.kron(rng.integers(0, 256, (24, 32, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=25)
        stream.height, stream.width, stream.pix_fmt = 96, 128, pixels
        stream.options = {
            "g": str(GOP),
            **{name.replace("_", "-"): options[name] for name in options},
        }
        for number in range(frames):
            picture = np.ascontiguousarray(
                field[number : number + 96, 2 * number : 2 * number + 128]
            )
            picture[:16, :16] = 6 * number
            out.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        out.mux(stream.encode())
    return path


X265 = f"keyint={GOP}:log-level=0"
FILES = {
    "closed.mp4": {"bf": "3"},
    "pyramid.mkv": {"x264_params": "bframes=5:b-pyramid=normal:ref=4"},
    "open.mp4": {"x264_params": "open-gop=1:bframes=3"},
    "open.ts": {"x264_params": "open-gop=1:bframes=3"},
    "open.mkv": {"x264_params": "open-gop=1:bframes=3:interlaced=1"},
    "closed.ts": {},
    "a.flv": {},
    "high.mp4": {"pixels": "yuv444p"},
    "ten.mp4": {"pixels": "yuv420p10le"},
    "hevc.mp4": {"codec": "libx265", "x265_params": X265},
    "hevc.mkv": {"codec": "libx265", "x265_params": X265 + ":open-gop=0"},
    "hevc.ts": {"codec": "libx265", "x265_params": X265 + ":temporal-layers=3"},
    "vp8.webm": {"codec": "libvpx", "auto_alt_ref": "1", "lag_in_frames": "8", "cpu_used": "8"},
    "vp9.webm": {"codec": "libvpx-vp9", "auto_alt_ref": "1", "lag_in_frames": "8", "cpu_used": "8"},
    "vp9.mp4": {"codec": "libvpx-vp9", "lag_in_frames": "0", "cpu_used": "8"},
    "av1.mp4": {"codec": "libsvtav1", "preset": "12"},
    "av1.mkv": {"codec": "libsvtav1", "preset": "12"},
    "mpeg4.avi": {"codec": "mpeg4"},
    "reordered.avi": {"codec": "mpeg4", "bf": "2"},
    "mpeg4.mp4": {"codec": "mpeg4", "bf": "2"},
    "mpeg4.nut": {"codec": "mpeg4", "bf": "2"},
    "mpeg4.asf": {"codec": "mpeg4"},
    "mpeg2.ts": {"codec": "mpeg2video", "bf": "2"},
    "mpeg2.mpg": {"codec": "mpeg2video", "bf": "2"},
    "mpeg2.mxf": {"codec": "mpeg2video"},
    "mpeg1.mpg": {"codec": "mpeg1video", "bf": "2"},
    "sorenson.flv": {"codec": "flv"},
    "wmv2.wmv": {"codec": "wmv2"},
    "mjpeg.avi": {"codec": "mjpeg", "pixels": "yuvj420p"},
    "prores.mov": {"codec": "prores", "pixels": "yuv422p10le"},
}


def watched(monkeypatch):
    """Counts packets that are decoded, and files that turn out to be otherwise."""
    counts = {"packets": 0, "untrue": 0}

    class Walk(keyframes.Walk):
        def _pass(self, packet):
            counts["packets"] += 1
            super()._pass(packet)

    class Untrue(keyframes.Untrue):
        def __init__(self):
            counts["untrue"] += 1

    monkeypatch.setattr(decode, "Walk", Walk)
    for module in (decode, keyframes):
        monkeypatch.setattr(module, "Untrue", Untrue)
    return counts


def assert_same(path, noted, frames, window=WHOLE):
    """All frames one by one, clips, segments and all at once are those of `frames`."""
    count = len(frames)
    asked = [[number] for number in range(count)]
    asked += [range(start, min(start + 16, count), 2) for start in range(0, count, 5)]
    asked += [range(count % 7, count, 7), [count - 1, 0, count // 2], range(count)]
    for numbers in map(list, asked):
        found = decode.frames_at(path, numbers, None, window, noted)
        np.testing.assert_array_equal(found, frames[numbers], f"{path} {numbers}")


@pytest.mark.parametrize("name", FILES)
def test_frames_from_key_frames_are_those_from_the_start(tmp_path, name, monkeypatch):
    path = encode(tmp_path / name, **FILES[name])
    counts = watched(monkeypatch)
    frames = np.stack(list(decode.read_frames(path)))
    noted = decode.probe(path).keyframes
    assert isinstance(noted, Keyframes), noted
    times, keys, _ = noted.read()
    assert len(times) == len(frames) and keys[0] == 0 and len(keys) >= FRAMES // GOP - 1
    assert_same(path, noted, frames)
    assert counts["untrue"] == 0
    # No more is decoded than a group of pictures, and what is stored before the frame is shown.
    counts["packets"] = 0
    decode.frames_at(path, [int(keys[-1])], noted=noted)
    assert 0 < counts["packets"] < FRAMES / 2
    monkeypatch.setattr(decode, "_LONG", 10)
    with decode.Video(path) as video:
        stored = video.stored()
    if keyframes._ONE_EACH & {*FILES[name].values()} or "codec" not in FILES[name]:
        assert stored
    assert stored is None or stored == decode.probe(path)


@pytest.mark.parametrize("window", [(0, 0.7), (0.3, 1.1), (0.64, 1.28), (0.9, 9)])
@pytest.mark.parametrize("name", ["closed.mp4", "open.mkv", "open.ts", "hevc.mp4", "mpeg4.avi"])
def test_so_are_those_of_windows(tmp_path, name, window, monkeypatch):
    path, window = encode(tmp_path / name, **FILES[name]), Window(*window)
    everything = list(decode.read_frames(path))
    counts = watched(monkeypatch)
    with decode.Video(path, window=window) as video:
        frames = np.stack(list(video.frames()))
        first = video._passed
    noted = decode.probe(path, None, window).keyframes
    if name != "open.ts":  # whose clock does not begin at 0
        start = int(np.ceil(round(window.start * 25, 6)))
        np.testing.assert_array_equal(frames, everything[start : start + len(frames)])
    assert isinstance(noted, Keyframes) and noted.before <= first
    assert_same(path, noted, frames, window)
    assert counts["untrue"] == 0
    with pytest.raises(JaxvidError, match=f"has {len(frames)} frames"):
        decode.frames_at(path, [len(frames)], None, window, noted)


def test_times_may_be_uneven_and_pictures_turned(tmp_path):
    times = list(itertools.accumulate(n * n % 7 + 1 for n in range(24)))
    path = clips.encode(tmp_path / "a.mp4", frames=24, gop=5, times=times)
    clips.set_matrix(path, 0, 1, -1, 0)
    frames = np.stack(list(decode.read_frames(path)))
    assert frames.shape == (24, 64, 48, 3)
    noted = decode.probe(path).keyframes
    assert len(set(np.diff(noted.read()[0]))) > 3
    assert_same(path, noted, frames)


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("a.h264", {}, "it does not say when its frames are shown"),
        ("a.avi", {"bf": "3"}, "its frames are not in the order of their times"),
        ("a.gif", {"codec": "gif", "pixels": "rgb8"}, "codec, gif, may refer to any before"),
    ],
)
def test_what_cannot_be_trusted_says_so_once(tmp_path, name, options, reason, capsys):
    path = encode(tmp_path / name, **options)
    info = decode.probe(path)
    assert info.num_frames == FRAMES and reason in info.keyframes
    encode(tmp_path / "b.mp4")
    (tmp_path / "train.csv").write_text(f"path,label\n{name},x\nb.mp4,y\n")
    for _ in range(2):
        source = open_files(tmp_path).source
    said = capsys.readouterr().out
    assert said.count("cannot be trusted: 1, the first " + name) == 1 and reason in said
    frames = np.stack(list(decode.read_frames(path, 320)))
    np.testing.assert_array_equal(source.frames(0, np.array([3, 30])), frames[[3, 30]])


def test_pictures_that_heal_by_and_by_are_no_key_frames(tmp_path):
    path = encode(tmp_path / "a.mp4", x264_params="intra-refresh=1")
    noted = decode.probe(path).keyframes
    assert noted.read()[1].tolist() == [0]
    assert_same(path, noted, np.stack(list(decode.read_frames(path))))


def test_notes_go_on_with_the_next_run(tmp_path, monkeypatch):
    encode(tmp_path / "a.mp4"), encode(tmp_path / "b.ts")
    (tmp_path / "train.csv").write_text("path,label,start,end\na.mp4,x,,\nb.ts,y,,\na.mp4,y,.5,1\n")
    first = open_files(tmp_path).source
    monkeypatch.setattr(files, "_probe", None)
    counts = watched(monkeypatch)
    source = open_files(tmp_path).source
    assert source._noted == first._noted and all(source._noted)
    for number in range(3):
        last = source.num_frames[number] - 1
        assert source.frames(number, np.array([last])).any()
    assert 0 < counts["packets"] < 3 * 3 * GOP and not counts["untrue"]


@pytest.mark.parametrize("shift", ["times", "keys", "places"])
def test_notes_that_are_not_true_cost_time_but_no_frame(tmp_path, shift, monkeypatch):
    path = encode(tmp_path / "a.mp4")
    noted = decode.probe(path).keyframes
    parts = dict(zip(("times", "keys", "places"), map(np.array, noted.read()), strict=True))
    parts[shift][1:] += 1
    counts = watched(monkeypatch)
    assert_same(path, Keyframes.of(None, **parts), np.stack(list(decode.read_frames(path))))
    assert counts["untrue"] > 0


def test_texts_that_are_no_notes_are_refused(tmp_path):
    noted = decode.probe(encode(tmp_path / "a.mp4")).keyframes
    times, keys, places = noted.read()
    wrong = [
        Keyframes(None, noted.packed[:-5]),
        Keyframes(None, ""),
        Keyframes(-1, noted.packed),
        Keyframes(True, noted.packed),
        Keyframes(FRAMES, noted.packed),
        Keyframes.of(None, times[::-1], keys, places),
        Keyframes.of(None, times, keys + FRAMES, places),
        Keyframes.of(None, [], [], []),
        Keyframes.of(3, times, keys[1:], places[1:]),
    ]
    for each in wrong:
        with pytest.raises(ValueError):
            each.read()
        said = dataclasses.asdict(decode.Info(9, 25.0, 48, 64, "h264", 0, 0.0, each))
        with pytest.raises(ValueError):
            files._read_found(said)


def spoil(path, number):
    """Has a packet's picture begin with what is none; its length stays."""
    with av.open(str(path)) as file:
        places = [packet.pos for packet in file.demux(video=0) if packet.size]
    data = bytearray(path.read_bytes())
    data[places[number] + 5 : places[number] + 12] = b"\xff" * 7
    path.write_bytes(data)


def test_long_videos_are_told_by_their_packets_until_they_mislead(tmp_path, monkeypatch):
    monkeypatch.setattr(decode, "_LONG", 10)
    path = encode(tmp_path / "a.mp4", bf="0")
    whole = decode.probe(path)
    asked = []
    probe = decode.probe
    monkeypatch.setattr(decode, "probe", lambda *args: asked.append(args) or probe(*args))
    assert decode.survey(path) == whole and decode.survey(path) is decode.survey(path)
    counts = watched(monkeypatch)
    assert len(decode.frames_at(path, [35])) == 1 and 0 < counts["packets"] <= 2 * GOP
    assert not asked and not decode.misled(path)
    spoil(path, 20)
    assert decode.survey(path).num_frames == FRAMES and not asked
    decode.frames_at(path, [35])
    assert not decode.misled(path)
    decode.frames_at(path, [20])
    assert decode.misled(path)
    assert decode.survey(path).num_frames < FRAMES and len(asked) == 1
    assert decode.survey(path).damaged and not decode.misled(path)


def test_damage_that_lengths_tell_is_found_in_packets(tmp_path, monkeypatch):
    monkeypatch.setattr(decode, "_LONG", 10)
    path = encode(tmp_path / "a.mp4", bf="0")
    with av.open(str(path)) as file:
        places = [packet.pos for packet in file.demux(video=0) if packet.size]
    data = bytearray(path.read_bytes())
    data[places[20] : places[20] + 4] = b"\xff" * 4
    path.write_bytes(data)
    info = decode.survey(path)
    assert (info.num_frames, info.damaged) == (FRAMES - 1, 1)
    assert info.keyframes == "parts of it are damaged"
