"""Decoding: every frame, in order, upright; what cannot be read is refused with its reason."""

import math
import os
import wave

import numpy as np
import pytest

from jaxvid.data import decode
from jaxvid.errors import JaxvidError
from tests.data import clips


def levels(frames) -> list[int]:
    """The grey level of each frame's lower right part."""
    return [int(frame[-8:, -8:].astype(float).mean().round()) for frame in frames]


def assert_numbered(frames, numbers):
    assert np.abs(np.subtract(levels(frames), [clips.grey(n) for n in numbers])).max() <= 3


@pytest.mark.parametrize(
    ("name", "codec", "pixels"),
    [
        ("a.mp4", "libx264", "yuv420p"),
        ("a.mp4", "libx264", "yuv444p"),
        ("a.mp4", "libx264", "yuv420p10le"),
        ("a.mkv", "libx265", "yuv420p"),
        ("a.webm", "libvpx", "yuv420p"),
        ("a.webm", "libvpx-vp9", "yuv420p"),
        ("a.avi", "mpeg4", "yuv420p"),
        ("a.avi", "mjpeg", "yuvj420p"),
        ("a.gif", "gif", "rgb8"),
    ],
)
def test_all_frames_come_in_order(tmp_path, name, codec, pixels):
    path = clips.encode(tmp_path / name, codec=codec, pixels=pixels)
    frames = list(decode.read_frames(path))
    assert len(frames) == 12
    assert {(frame.shape, str(frame.dtype)) for frame in frames} == {((48, 64, 3), "uint8")}
    found = levels(frames)
    tolerance = 20 if pixels == "rgb8" else 6 if "vp" in codec else 3
    assert np.abs(np.subtract(found, [clips.grey(n) for n in range(12)])).max() <= tolerance
    assert all(frame[:8, :8].mean() > 240 for frame in frames)
    info = decode.probe(path)
    assert (info.num_frames, info.height, info.width, info.damaged) == (12, 48, 64, 0)
    assert info.fps == 25


@pytest.mark.parametrize(
    ("matrix", "white"),  # where the white quarter of the upright frame lies
    [
        ((1, 0, 0, 1), "top left"),
        ((0, 1, -1, 0), "top right"),  # a quarter turn clockwise
        ((-1, 0, 0, -1), "bottom right"),
        ((0, -1, 1, 0), "bottom left"),
        ((-1, 0, 0, 1), "top right"),  # mirrored
        ((0, 1, 1, 0), "top left"),  # mirrored about the diagonal
    ],
)
def test_frames_are_turned_upright(tmp_path, matrix, white):
    path = clips.encode(tmp_path / "a.mp4", frames=2)
    clips.set_matrix(path, *matrix)
    shape = (64, 48) if matrix[0] == 0 else (48, 64)
    for frame in decode.read_frames(path):
        assert frame.shape == (*shape, 3)
        height, width = shape[0] // 2, shape[1] // 2
        quarters = {
            "top left": frame[:height, :width],
            "top right": frame[:height, width:],
            "bottom left": frame[height:, :width],
            "bottom right": frame[height:, width:],
        }
        assert max(quarters, key=lambda name: quarters[name].mean()) == white
    info = decode.probe(path)
    assert (info.height, info.width) == shape
    with decode.Video(path, short_side=24) as video:
        small = list(video.frames())[0]
        assert small.shape == (shape[0] // 2, shape[1] // 2, 3)
        assert (video.info().height, video.info().width) == small.shape[:2]


def test_frames_shrink_but_never_grow(tmp_path):
    path = clips.encode(tmp_path / "a.mp4", frames=1, size=(48, 66))
    assert next(decode.read_frames(path, short_side=31)).shape == (31, 43, 3)
    assert next(decode.read_frames(path, short_side=48)).shape == (48, 66, 3)
    assert next(decode.read_frames(path, short_side=320)).shape == (48, 66, 3)


def test_uneven_times_change_the_rate_not_the_frames(tmp_path):
    times = [0, 4, 30, 34, 38, 90, 94, 98]
    path = clips.encode(tmp_path / "a.mkv", frames=8, times=times)
    assert_numbered(decode.read_frames(path), range(8))
    assert decode.probe(path).fps == pytest.approx(7 / 0.98, rel=0.01)


def test_one_frame_is_a_video(tmp_path):
    info = decode.probe(clips.encode(tmp_path / "a.mp4", frames=1))
    assert info.num_frames == 1 and info.fps == 25


def test_chosen_frames_equal_those_of_the_whole(tmp_path):
    path = clips.encode(tmp_path / "a.mp4")
    everything = np.stack(list(decode.read_frames(path, short_side=30)))
    chosen = [7, 0, 7, 11, 3]
    assert np.array_equal(decode.frames_at(path, chosen, short_side=30), everything[chosen])
    with pytest.raises(JaxvidError, match="has 12 frames; frame 12"):
        decode.frames_at(path, [0, 12])
    for wrong in ([], [-1]):
        with pytest.raises(JaxvidError, match="numbered from 0"):
            decode.frames_at(path, wrong)


def test_reading_is_lazy(tmp_path):
    path = clips.encode(tmp_path / "a.mp4")
    with decode.Video(path) as video:
        frames = video.frames()
        next(frames)
        assert video.info().num_frames == 1
        assert math.isnan(video.info().fps) or video.info().fps == 25


def test_a_damaged_packet_is_passed_over_and_counted(tmp_path):
    import av

    path = clips.encode(tmp_path / "a.mp4", gop=1)
    with av.open(str(path)) as file:
        places = [packet.pos for packet in file.demux() if packet.size]
    data = bytearray(path.read_bytes())
    data[places[5] : places[5] + 8] = b"\xff" * 8  # the size of the packet's first unit
    path.write_bytes(data)
    assert_numbered(decode.read_frames(path), [0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 11])
    info = decode.probe(path)
    assert (info.num_frames, info.damaged) == (11, 1)


@pytest.mark.parametrize(
    ("name", "codec", "container"),
    [
        ("a.mp4", "libx264", {"movflags": "faststart"}),
        ("a.mp4", "libx264", {}),
        ("a.mkv", "libx264", {}),
        ("a.avi", "mpeg4", {}),
    ],
)
def test_a_truncated_file_is_refused(tmp_path, name, codec, container):
    path = clips.encode(tmp_path / name, frames=25, rate=5, gop=1, codec=codec, container=container)
    os.truncate(path, path.stat().st_size * 6 // 10)
    with pytest.raises(JaxvidError, match=f"{path} .*truncated"):
        list(decode.read_frames(path))
    with pytest.raises(JaxvidError, match=f"{path} .*truncated"):
        decode.probe(path)


def test_what_is_no_video_is_refused_with_its_reason(tmp_path):
    sound = tmp_path / "a.wav"
    with wave.open(str(sound), "wb") as out:
        out.setnchannels(1), out.setsampwidth(2), out.setframerate(8000)
        out.writeframes(bytes(1600))
    text = tmp_path / "a.mp4"
    text.write_text("path,label\n")
    (tmp_path / "empty.mp4").touch()
    for path, reason in {
        sound: "has no video stream",
        text: "cannot be opened as a video",
        tmp_path / "empty.mp4": "is empty",
        tmp_path / "none.mp4": "is not a file",
        tmp_path: "is not a file",
    }.items():
        with pytest.raises(JaxvidError, match=f"{path} {reason}"):
            decode.probe(path)


def test_a_name_with_a_colon_is_a_file(tmp_path, monkeypatch):
    clips.encode(tmp_path / "a.mp4").rename(tmp_path / "http:a.mp4")
    monkeypatch.chdir(tmp_path)
    assert decode.probe("http:a.mp4").num_frames == 12


def test_metadata_may_be_in_any_encoding(tmp_path):
    path = clips.encode(tmp_path / "a.mp4")
    written = path.read_bytes()
    assert b"VideoHandler" in written
    path.write_bytes(written.replace(b"VideoHandler", b"Vid\xe9o\xffandler"))
    assert len(list(decode.read_frames(path))) == 12


def test_tagged_colours_are_honoured(tmp_path):
    import av

    found = {}
    for tag in (1, 5):  # BT.709, BT.601
        with av.open(str(tmp_path / f"{tag}.mp4"), "w") as out:
            stream = out.add_stream("libx264", rate=25)
            stream.height = stream.width = 64
            stream.pix_fmt = "yuv420p"
            stream.options = {"qp": "0"}
            stream.codec_context.colorspace = tag
            frame = av.VideoFrame(64, 64, "yuv420p")
            for plane, value in zip(frame.planes, (100, 90, 180), strict=True):
                plane.update(bytes([value]) * plane.buffer_size)
            for packet in [*stream.encode(frame), *stream.encode()]:
                out.mux(packet)
        found[tag] = next(decode.read_frames(tmp_path / f"{tag}.mp4"))[32, 32].astype(int)
    assert np.abs(found[1] - [191, 78, 18]).max() <= 3
    assert np.abs(found[5] - [181, 70, 21]).max() <= 3
