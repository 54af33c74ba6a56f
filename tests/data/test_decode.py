"""Decoding: every frame, in order, upright; what cannot be read is refused with its reason."""

import contextlib
import itertools
import math
import os
import struct
import threading
import time
import wave

import numpy as np
import pytest
from PIL import Image

from jaxvid.base.errors import JaxvidError
from jaxvid.data import bounds, boxes, decode
from jaxvid.data.pictures import is_picture
from jaxvid.predict import EXTENSIONS
from tests.data import clips
from tests.data.refuse import refusals


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
        tmp_path: "is a folder without pictures",
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


def lists_of_files(folder, target):
    """Files that name another one, and text, as FFmpeg would take them for videos."""
    hls = f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{target}\n#EXT-X-ENDLIST\n"
    dash = (
        '<?xml version="1.0"?>\n<MPD type="static"><Period><AdaptationSet><Representation>'
        f"<BaseURL>{target}</BaseURL></Representation></AdaptationSet></Period></MPD>"
    )
    contents = {
        "a.m3u8": hls,
        "b.mp4": hls,
        "c.mkv": "\ufeff\n" + hls,
        "a.ffconcat": f"ffconcat version 1.0\nfile {target}\n",
        "itself.mp4": "ffconcat version 1.0\nfile itself.mp4\n",
        "a.mpd": dash,
        "a.sdp": f"v=0\no=- 0 0 IN IP4 127.0.0.1\nt=0 0\nm=video {target} RTP/AVP 96\n",
        "a.txt": "root:x:0:0\n" * 40,
        "a.nfo": "root:x:0:0\n" * 40,
        "a.srt": "1\n00:00:00,000 --> 00:00:01,000\ntext\n",
        "a.jpg": None,
        "a%d.png": None,
    }
    for name, text in contents.items():
        if text is None:
            with open(folder / name, "wb") as file:
                Image.new("RGB", (32, 32)).save(file, "PNG" if name.endswith("g") else "JPEG")
        else:
            (folder / name).write_text(text)
        yield folder / name


def test_files_that_name_others_are_not_followed(tmp_path):
    secret = clips.encode(tmp_path / "secret.ts", codec="mpeg2video")
    assert decode.probe(secret).num_frames == 12
    for path in lists_of_files(tmp_path, secret):
        if is_picture(path.name):  # itself, whatever its name means to FFmpeg
            assert decode.probe(path).num_frames == 1
            continue
        with pytest.raises(JaxvidError) as caught:
            decode.probe(path)
        said = str(caught.value)
        assert said.startswith(str(path)) and "\n" not in said
        if path.suffix in (".m3u8", ".ffconcat", ".mpd") or path.name in ("b.mp4", "c.mkv"):
            assert "is a list that names other files" in said
        elif path.suffix in (".txt", ".nfo"):
            assert "it is in no format that holds a video" in said
    for name in ("concat:secret.ts", "subfile,,start,0,end,9,,:secret.ts", "data:;base64,AA=="):
        with pytest.raises(JaxvidError, match="is not a file"):
            decode.probe(name)


def test_every_ending_that_a_folder_is_searched_for_has_its_format():
    import av

    known = {name for names in av.formats_available for name in names.split(",")}
    for name in decode.FORMATS:
        assert set(name.split(",")) <= known, name
    named = {name for names in decode.FORMATS for name in names.split(",")}
    called = {".f4v": "mov", ".m2ts": "mpegts", ".m2v": "mpegvideo", ".mkv": "matroska",
              ".mpg": "mpeg", ".mts": "mpegts", ".ogv": "ogg", ".qt": "mov", ".rmvb": "rm",
              ".ts": "mpegts", ".vob": "mpeg", ".wmv": "asf", ".y4m": "yuv4mpegpipe"}  # fmt: skip
    for ending in EXTENSIONS:
        assert called.get(ending, ending[1:]) in named, ending


@pytest.mark.parametrize(
    ("name", "codec"),
    [("a.ts", "mpeg2video"), ("a.mpg", "mpeg2video"), ("a.flv", "flv"), ("a.asf", "mpeg4"),
     ("a.nut", "mpeg4"), ("a.y4m", "wrapped_avframe"),
     ("a.3gp", "mpeg4"), ("a.mxf", "mpeg2video"), ("a.m2v", "mpeg2video"), ("a.264", "libx264")],
)  # fmt: skip
def test_other_containers_are_read(tmp_path, name, codec):
    assert decode.probe(clips.encode(tmp_path / name, codec=codec)).num_frames in (11, 12)


def declared(path, height, width):
    """Has the track and the sample of an MP4 say another size."""
    data = bytearray(path.read_bytes())
    at = data.find(b"avc1", data.find(b"stsd"))
    data[at + 28 : at + 32] = struct.pack(">HH", width, height)
    at = data.find(b"tkhd")
    data[at + 80 : at + 88] = struct.pack(">II", width << 16, height << 16)
    path.write_bytes(data)
    return path


def test_sizes_beyond_any_video_are_refused_before_they_are_decoded(tmp_path):
    path = clips.encode(tmp_path / "strip.mp4", frames=2, size=(16, 400), codec="mpeg4")
    with pytest.raises(JaxvidError, match="strip.mp4: its frames are 400x16: one side is over 20"):
        decode.probe(path)
    with pytest.raises(JaxvidError, match="one side is over 20"):
        decode.frames_at(path, [0], 320)
    # A size that only a header has is not that of the frames.
    path = declared(clips.encode(tmp_path / "lie.mp4"), 60_000, 60_000)
    with contextlib.suppress(JaxvidError):
        assert decode.probe(path).height == 48


def test_a_screen_of_any_size_is_refused_before_it_is_painted(tmp_path):
    data = bytearray(clips.encode(tmp_path / "a.gif", codec="gif", pixels="rgb8").read_bytes())
    paths = []
    for width, height in ((65_535, 65_535), (20_000, 20_000), (8000, 5000), (30_000, 30)):
        data[6:10] = struct.pack("<HH", width, height)
        paths.append(tmp_path / f"{width}x{height}.gif")
        paths[-1].write_bytes(data)
    *large, strip = refusals("from jaxvid.data import decode", "decode.probe(path)", *paths)
    assert all("without a single readable frame (of at most 35389440 pixels)" in s for s in large)
    assert "30000x30: one side is over 20 times" in strip


def test_a_duration_of_many_digits_is_no_duration():
    assert decode._seconds("00:00:02.5") == 2.5
    assert decode._seconds("9" * 5000 + ":00:00") == 0


def test_a_rate_that_no_camera_has_is_not_believed(tmp_path):
    path = clips.encode(tmp_path / "a.mkv", frames=3, times=[0, 0, 0])
    assert math.isnan(decode.probe(path).fps) or decode.probe(path).fps <= bounds.MAX_FPS
    assert math.isnan(decode._possible(1e9)) and math.isnan(decode._possible(math.nan))
    assert math.isnan(decode._possible(0)) and decode._possible(240) == 240


# ---- streams


class Pipe:
    """Standard input of another kind: what a thread writes into a pipe."""

    def __init__(self, monkeypatch, pieces):
        self._read, self._write = os.pipe()
        made = decode._Input
        monkeypatch.setattr(decode, "_Input", lambda _: made(self._read))
        self._thread = threading.Thread(target=self._send, args=(pieces,), daemon=True)
        self._thread.start()

    def _send(self, pieces):
        with contextlib.suppress(OSError):
            for piece in pieces:
                while piece:
                    piece = piece[os.write(self._write, piece) :]
            os.close(self._write)

    def close(self):
        os.close(self._read)
        self._thread.join(10)


def read_stream() -> int:
    with decode.Video("-", live=True) as video:
        return sum(1 for _ in video.frames())


@pytest.fixture
def pipe(monkeypatch):
    made = []

    def make(pieces):
        made.append(Pipe(monkeypatch, pieces))

    yield make
    for each in made:
        each.close()


def test_a_stream_gives_the_frames_of_its_file(tmp_path, pipe):
    path = clips.encode(tmp_path / "a.ts", codec="mpeg2video")
    data = path.read_bytes()
    pipe([data[at : at + 777] for at in range(0, len(data), 777)])
    with decode.Video("-", live=True) as video:
        assert_numbered(video.frames(), range(12))


@pytest.mark.parametrize(
    "pieces",
    [
        [b""],
        [b"no video at all\n" * 100],
        itertools.repeat(bytes(1 << 20)),
        itertools.repeat(b"#EXTM3U\n/etc/passwd\n" * 1000),
        itertools.chain([b"\0\0\0\x18ftypisom\0\0\0\0isomiso2\0\0\0\x01mdat\x7f" + b"\xff" * 7],
                        itertools.repeat(bytes(1 << 20))),
        (np.random.default_rng(n).bytes(1 << 20) for n in itertools.count()),
    ],
    ids=["nothing", "text", "zeros", "playlist", "endless box", "noise"],
)  # fmt: skip
def test_a_stream_that_is_no_video_is_refused_however_long_it_is(pipe, pieces, capsys):
    pipe(pieces)
    began = time.process_time()
    with pytest.raises(JaxvidError, match="standard input|- ") as caught:
        read_stream()
    assert "\n" not in str(caught.value) and not capsys.readouterr().err
    assert time.process_time() - began < 10


@pytest.mark.parametrize("name", ["a.mkv", "a.ts"])
def test_a_stream_that_goes_bad_is_refused(tmp_path, pipe, name, capsys):
    whole = clips.encode(tmp_path / name, codec="mpeg2video").read_bytes()
    pipe(itertools.chain([whole * (20 if name == "a.ts" else 1)], itertools.repeat(bytes(1 << 20))))
    with pytest.raises(JaxvidError):
        read_stream()
    assert not capsys.readouterr().err


def test_a_pipe_that_sends_nothing_is_said_and_left(pipe, monkeypatch, capsys):
    monkeypatch.setattr(decode, "_SILENCE", 1.5)
    go = threading.Event()
    pipe(iter(lambda: go.wait(20) and b"", b""))
    with pytest.raises(JaxvidError, match="standard input sent nothing for 2 s: pipe a video"):
        decode.Video("-", live=True)
    assert "note: waiting for more of the stream" in capsys.readouterr().err
    go.set()


# ---- tables of samples


def with_counts(path, counts):
    """Has the last box of each kind say another number, which stands at a place in it."""
    data = bytearray(path.read_bytes())
    for kind, place, number in counts:
        at = data.rfind(kind) + place
        data[at : at + 4] = struct.pack(">I", number)
    changed = path.with_name(f"{counts[0][0].decode()}{counts[0][2]}{path.name}")
    changed.write_bytes(data)
    return changed


def test_a_kilobyte_that_declares_a_billion_samples_is_not_opened(tmp_path):
    whole = clips.encode(tmp_path / "a.mp4")
    pieces = clips.encode(
        tmp_path / "b.mp4", container={"movflags": "frag_keyframe+empty_moov+default_base_moof"}
    )
    assert decode.probe(pieces).num_frames == 12
    many = 100_000_000
    sizes = [(b"stsz", 8, 1), (b"stsz", 12, many), (b"stsc", 16, many), (b"stts", 12, many)]
    paths = [
        with_counts(whole, sizes),
        with_counts(whole, [(b"stts", 12, many)]),
        with_counts(whole, [(b"hdlr", 12, int.from_bytes(b"soun", "big")), *sizes]),
        with_counts(pieces, [(b"trun", 8, many)]),
        with_counts(pieces, [(b"trun", 4, 0), (b"trun", 8, many)]),
    ]
    for said in refusals("from jaxvid.data import decode", "decode.probe(path)", *paths):
        assert "samples of a track, more than 2097152: it is damaged" in said


def test_boxes_that_make_no_sense_are_left_to_others(tmp_path):
    path, head = tmp_path / "a.mp4", b"\0\0\0\x08ftyp"
    for data in (b"", b"\0\0\0\1mdat", b"\0\0\0\1mdat" + b"\xff" * 8, bytes(50),
                 head + b"\0\0\0\x07moov" * 9, b"\0\0\1\0moov" * 32, head + b"\0\0\0\0moov" * 999,
                 head + b"\0\0\0\x10stsz" + bytes(8), head + b"\0\0\0\x0cstts"):  # fmt: skip
        path.write_bytes(data)
        assert boxes.problem(path) is None
    path.write_bytes(b"\0\0\0\x08free" * (1 << 20) + head)
    assert "more than 1048576 boxes" in boxes.problem(path)


def test_plain_sound_may_have_as_many_samples_as_bytes(tmp_path):
    def box(kind, *parts):
        data = b"".join(parts)
        return struct.pack(">I", len(data) + 8) + kind + data

    def track(kind, count, unit, long):
        return box(
            b"trak",
            box(b"hdlr", bytes(8), kind),
            box(b"stts", struct.pack(">4I", 0, 1, count, long)),
            box(b"stsz", struct.pack(">3I", 0, unit, count)),
        )

    path = tmp_path / "a.mov"
    for kind, unit, long, room, fine in (
        (b"soun", 2, 1, 10 << 20, True),
        (b"soun", 4, 1, 10 << 20, False),  # more than the file has
        (b"soun", 2, 2, 10 << 20, False),
        (b"vide", 2, 1, 10 << 20, False),
    ):
        path.write_bytes(box(b"moov", track(kind, 5_000_000, unit, long)) + bytes(room))
        assert (boxes.problem(path) is None) == fine
