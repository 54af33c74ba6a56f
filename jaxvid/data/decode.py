"""Video files to frames, by PyAV: RGB, upright, in the order in which they are shown.

A folder of frames and a single picture, where they are named as a video, are one, too.

Frames are numbered as they come out of the decoder, whatever their timestamps, as the published
protocols number them. The frame is upright when the file's display matrix (a phone held sideways,
a mirrored camera) has been applied. Colours follow the file's own matrix and range.
"""

import collections
import contextlib
import dataclasses
import errno
import itertools
import math
import os
import re
import select
import threading
import time
from collections.abc import Collection, Iterator
from types import TracebackType
from typing import Any

import numpy as np

from jaxvid.base import text
from jaxvid.base.errors import JaxvidError
from jaxvid.data import bounds, boxes, keyframes, windows
from jaxvid.data.info import Info as Info
from jaxvid.data.info import shrunk
from jaxvid.data.keyframes import Gathering, Keyframes, Untrue, Walk
from jaxvid.data.pictures import Pictures, is_picture
from jaxvid.data.windows import Window

# fmt: off
FORMATS = (
    "amv", "apng", "asf", "av1", "avi", "avs2", "avs3", "cavsvideo", "dirac", "dnxhd", "dv",
    "flv", "gif", "gxf", "h261", "h263", "h264", "hevc", "ivf", "ivr", "kux", "live_flv", "lxf",
    "m4v", "matroska,webm", "mjpeg", "mjpeg_2000", "mov,mp4,m4a,3gp,3g2,mj2", "mpeg", "mpegts",
    "mpegtsraw", "mpegvideo", "mpjpeg", "mv", "mxf", "nsv", "nut", "nuv", "obu", "ogg", "pmp", "rm",
    "roq", "smk", "swf", "vc1", "vc1test", "vvc", "webp", "wtv", "yuv4mpegpipe",
)
# fmt: on
"""FFmpeg's names of the files that hold a video themselves: no playlist, no text, no device."""
_SOUNDS = ("aac", "ac3", "aiff", "amr", "ape", "au", "caf", "eac3", "flac", "mp3", "wav", "w64")
_PLAYLISTS = (b"#EXTM3U", b"ffconcat", b"v=0", b"<?xml", b"<MPD", b"[playlist]", b"<smil", b"[Ref")
_OPTIONS = {
    # So that a file that is no video but has sound says so.
    "format_whitelist": ",".join((*FORMATS, *_SOUNDS)),
    "max_pixels": str(bounds.MAX_PIXELS),
}
_OPENING = 64 << 20  # bytes of a stream in which its first packet must lie, and then each other
_SILENCE = 60.0  # seconds without a byte after which a stream is not one
_BARREN = 10_000  # packets of a stream of which not one gives a frame

_TOLERATED = 0.1  # part of a file that may be missing at its end before it counts as truncated
_RATE_ERROR = 0.01  # by which a container's average rate may differ from its timestamps
_TIMED = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm")  # they say of each packet when it is shown
_LONG = 2000  # packets from which on a video need not be decoded to say what it is
_LEAD = 1.0  # seconds before a window to look for its key frame: pictures may be stored reordered
_SAME = 1e-6  # seconds that two times may differ by and be one


class Video:
    """An open video file: `frames()` decodes it once, then `info()` says what it was.

    With `short_side` larger frames are shrunk to that shorter side, never enlarged. The frames of
    the `window` are all that there are: decoding starts at a key frame shortly before it where the
    container says when frames are shown, else at the first. With what was `noted` of the file or
    window, frames that are wanted cost what decoding takes from the key frames before them; where
    the file turns out to be otherwise, it is decoded from the start after all. `live` takes a
    stream that may have no end in place of a file: `-` for a video on standard input, or a camera
    of Video4Linux by number (`0`) or device (`/dev/video0`). `time` is when the last frame that
    came out is shown, in seconds of the file's own clock, or None where the file does not say.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        short_side: int | None = None,
        *,
        window: Window = windows.WHOLE,
        live: bool = False,
        noted: Keyframes | None = None,
    ):
        try:
            import av
        except ImportError:
            raise JaxvidError("reading video needs PyAV: pip install 'jaxvid[data]'") from None

        self._av = av
        self._path = os.fspath(path)
        self._short_side = short_side
        self._size = (0, 0)  # height, width before turning upright
        self._upright = (0, 0)
        self.time: float | None = None
        self._window = window
        self._live = live
        self._probing = self._doubted = False
        self._noted = noted
        if noted is None and not live and window == windows.WHOLE:
            self._noted = _memory.keyframes(self._path)
        self._input = _Input(0) if live and self._path == "-" else None
        if not live:
            self._container = _open_file(av, self._path)
        elif self._input:
            self._container = _open_stream(av, self._input)
        else:
            self._container = _open_camera(av, self._path)
        self._choose()

    def _choose(self) -> None:
        """Picks the video stream and prepares its decoder."""
        self._passed = 0  # frames before the window
        self._cut = 0.0
        self._span = (math.inf, -math.inf)
        self._timed = 0
        self._count = self._packets = self._damaged = 0
        av = self._av
        streams = [
            stream
            for stream in self._container.streams.video
            if not stream.disposition & av.stream.Disposition.attached_pic
        ]
        if not streams:
            kinds = ", ".join(sorted({stream.type for stream in self._container.streams}))
            self._container.close()
            raise JaxvidError(
                f"{self._path} has no video stream "
                + (f"(only {kinds})" if kinds else "(no stream at all: truncated or damaged)")
            )
        self._stream = streams[0]
        codec = self._stream.codec_context
        if codec is None:
            self._container.close()
            raise JaxvidError(f"{self._path} has a codec that this build of FFmpeg cannot decode")
        if codec.width * codec.height > bounds.MAX_PIXELS:
            self._container.close()
            raise JaxvidError(f"{self._path}: {bounds.size_problem(codec.height, codec.width)}")
        codec.options = {"max_pixels": _OPTIONS["max_pixels"]}
        # Decoding in several threads loses frames beside a damaged packet, and which ones differs.
        self._stream.thread_type = "NONE"
        self._stream.codec_context.thread_count = 1
        self._gathering = Gathering(self._container, self._stream)

    def _reopen(self) -> None:
        self._container.close()
        self._container = _open_file(self._av, self._path)
        self._choose()

    def __enter__(self) -> "Video":
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._container.close()

    def frames(self, wanted: Collection[int] | None = None) -> Iterator[np.ndarray]:
        """Yields frames uint8 [H, W, 3] in order; with `wanted` only those numbers.

        Raises `JaxvidError` at the end where the file was truncated or held no frame.
        """
        reformatter = self._av.video.reformatter.VideoReformatter()
        if self._noted and wanted:
            left = collections.deque(sorted(wanted))
            try:
                for number, frame in Walk(self._container, self._stream, self._noted).frames(left):
                    self._check_size(frame)
                    self._count = number + 1
                    left.popleft()
                    yield self._image(frame, number, reformatter)
                return
            except Untrue:
                self._doubted = True
                _memory.doubt(self._path)
                self._reopen()
                wanted = frozenset(left)
        self._probing = wanted is not None and not wanted
        last = None if wanted is None else max(wanted, default=-1)
        for frame in self._decode():
            number, self._count = self._count, self._count + 1
            self._check_size(frame)
            if wanted is None or number in wanted:
                yield self._image(frame, number, reformatter)
            elif self._upright == (0, 0):
                matrix = _display_matrix(frame)
                self._upright = self._size[::-1] if _transposes(matrix) else self._size
            if number == last:
                return
        if not self._count and self._window != windows.WHOLE:
            raise JaxvidError(
                f"{self._path} has no frame in its {self._window} s: correct start and end"
            )
        if not self._count:
            raise JaxvidError(
                f"{self._path} has a video stream without a single readable frame (of at most "
                f"{bounds.MAX_PIXELS} pixels)"
            )
        self._check_whole()

    def _check_size(self, frame: Any) -> None:
        """Sets the size of all frames by the first."""
        if self._size == (0, 0):
            if problem := bounds.size_problem(frame.height, frame.width):
                raise JaxvidError(f"{self._path}: {problem}")
            self._size = shrunk(frame.height, frame.width, self._short_side)

    def _image(self, frame: Any, number: int, reformatter: Any) -> np.ndarray:
        """A frame as RGB, of the size of all, upright."""
        height, width = self._size
        try:
            # Bicubic, as FFmpeg's own command line shrinks.
            rgb = reformatter.reformat(
                frame, width, height, "rgb24", interpolation="BICUBIC"
            ).to_ndarray()
        except (self._av.FFmpegError, ValueError) as error:
            raise JaxvidError(
                f"{self._path} frame {number} cannot be made RGB: {_reason(error)}"
            ) from None
        image = _turn(rgb, _display_matrix(frame))
        self._upright = image.shape[:2]
        return image

    def info(self) -> Info:
        """Says what the video was, as far as it has been decoded."""
        return Info(
            num_frames=self._count,
            fps=self._rate(),
            height=self._upright[0],
            width=self._upright[1],
            codec=self._stream.codec_context.name,
            damaged=self._damaged,
            cut=self._cut,
            keyframes=self._keyframes(),
        )

    def _keyframes(self) -> Keyframes | str:
        """Where decoding may begin, once it was probed."""
        if not self._probing:
            return ""
        whole = self._window == windows.WHOLE
        return self._gathering.decoded(self._damaged, None if whole else self._passed)

    def _decode(self) -> Iterator:
        """Yields the frames of the window."""
        at = -math.inf
        for frame in self._decode_all():
            at = self._seconds(frame)
            if at >= self._window.end - _SAME:
                return
            if self._probing:
                self._gathering.frame(frame)
            if at < self._window.start - _SAME:
                self._passed += 1
                continue
            self._damaged += bool(frame.is_corrupt)
            self.time = frame.time
            if frame.time is not None:
                self._timed += 1
                self._span = min(self._span[0], frame.time), max(self._span[1], frame.time)
            yield frame
        if self._count and self._window.end < math.inf:
            step = 1 / self._rate() if self._rate() > 0 else 0.0
            missing = self._window.end - (at + step)
            self._cut = missing if missing > step / 2 else 0.0

    def _seconds(self, frame: Any) -> float:
        """When a frame is shown, in seconds from the start of the file."""
        if self._window == windows.WHOLE:
            return 0.0
        if frame.time is not None:
            return frame.time - self._origin()
        rate = _possible(float(self._stream.average_rate or 0))
        if math.isnan(rate):
            raise JaxvidError(f"{self._path} does not say when its frames are shown: cut it")
        return (self._passed + self._count) / rate

    def _origin(self) -> float:
        """The time that players show as 0, in seconds."""
        return (self._container.start_time or 0) / self._av.time_base

    def _demux(self) -> Iterator:
        """The packets from the last key frame before the window on, or all where none is found."""
        av, start = self._av, self._window.start
        if start <= _LEAD or self._container.format.name not in _TIMED:
            return self._container.demux(self._stream)
        with contextlib.suppress(av.FFmpegError, StopIteration):
            keyframes.primed(self._container.demux(self._stream), self._stream)
            self._container.seek(round((start - _LEAD + self._origin()) * av.time_base))
            packets = self._container.demux(self._stream)
            first = next(packets)
            if self._gathering.key(first):
                shown = float(first.pts * first.time_base) - self._origin()
                if shown <= start + _SAME:
                    return itertools.chain([first], packets)
        self._reopen()
        return self._container.demux(self._stream)

    def _decode_all(self) -> Iterator:
        """Yields decoded frames; a packet that does not decode is counted and passed over."""
        av = self._av
        packets = self._demux()
        barren = 0
        while True:
            if self._input:
                self._input.refill()
                if barren > _BARREN:
                    raise JaxvidError(f"{self._path} gave no frame in {barren} packets")
            try:
                packet = next(packets, None)
            except (av.FFmpegError, OSError) as error:
                raise JaxvidError(
                    f"{self._path} breaks off after {self._count} frames: {_reason(error)}"
                ) from None
            if packet is None:
                return
            self._packets += packet.size > 0
            if self._probing:
                self._gathering.key(packet)
            barren += 1
            try:
                frames = packet.decode()
            except av.FFmpegError:
                self._damaged += 1
                continue
            for frame in frames:
                barren = 0
                yield frame

    def stored(self) -> Info | None:
        """What a long video is by its packets, where these can be trusted: none is decoded.

        The size is that of the first frame.
        """
        try:
            for packet in self._container.demux(self._stream):
                self._packets += packet.size > 0
                self._gathering.packet(packet)
        except (self._av.FFmpegError, OSError):
            return None
        noted = self._gathering.stored()
        if self._packets < _LONG or not isinstance(noted, Keyframes):
            return None
        times = noted.read()[0]
        tick = float(self._stream.time_base)
        packets, self._noted = self._packets, noted
        self._reopen()
        for _ in self.frames(wanted=(0,)):
            pass
        self._packets, self._count, self._timed = packets, len(times), len(times)
        self._span = float(times[0]) * tick, float(times[-1]) * tick
        self._check_whole()
        info = dataclasses.replace(self.info(), keyframes=noted)
        return None if info.damaged or self._doubted else info

    def _check_whole(self) -> None:
        if self._live or self._window != windows.WHOLE:
            return
        expected = self._stream.frames  # 0 where the container does not say
        missing = max(0, expected - self._packets)
        if missing > _TOLERATED * expected:
            raise JaxvidError(
                f"{self._path} is truncated: {self._packets} of {expected} frames are there"
            )
        self._damaged += missing
        promised = _seconds(self._stream.metadata.get("DURATION", ""))  # Matroska
        last = self._span[1]
        if promised and self._timed and last < (1 - _TOLERATED) * promised - 0.5:
            raise JaxvidError(
                f"{self._path} is truncated: {last:.2f} s of {promised:.2f} s are there"
            )

    def _rate(self) -> float:
        stated = _possible(float(self._stream.average_rate or 0))
        span = self._span[1] - self._span[0] if self._timed == self._count > 1 else 0.0
        if span <= 0:
            return stated
        measured = _possible((self._count - 1) / span)
        if math.isnan(measured) or abs(stated / measured - 1) < _RATE_ERROR:
            return stated
        return measured


class _Input:
    """A stream on a file descriptor as PyAV reads it, which gives up where no video comes.

    `refill` says that something came of what was read. Where nothing is sent at all, that is said
    once, and at last an error unless the stream has begun: a camera that pauses is waited for.
    """

    def __init__(self, descriptor: int):
        self._descriptor, self._left = descriptor, _OPENING
        self._begun = self._given_up = False

    def refill(self) -> None:
        self._left, self._begun = _OPENING, True

    def read(self, size: int) -> bytes:
        if self._given_up:  # an error is told once: FFmpeg goes on asking
            return b""
        if self._left <= 0:
            self._given_up = True
            raise JaxvidError(
                f"standard input is no video stream: {_OPENING >> 20} MiB of it held no packet of "
                "one"
            )
        began, said = time.monotonic(), False
        while not select.select([self._descriptor], [], [], 1.0)[0]:
            waited = time.monotonic() - began
            if waited > _SILENCE and not self._begun:
                self._given_up = True
                raise JaxvidError(
                    f"standard input sent nothing for {_SILENCE:.0f} s: pipe a video into it"
                )
            if waited > _SILENCE / 10 and not said:
                text.say("note: waiting for more of the stream on standard input", error=True)
                said = True
        data = os.read(self._descriptor, size)
        self._left -= len(data)
        return data


def _open(av: Any, name: str | _Input, **options: Any) -> Any:
    """Opens `name` whatever bytes its metadata hold: PyAV before 19 has to be told to."""
    if int(av.__version__.partition(".")[0]) < 19:
        options["metadata_errors"] = "replace"
    return av.open(name, **options)


def _open_file(av: Any, path: str) -> Any:
    if not os.path.isfile(path):
        raise JaxvidError(f"{path} is not a file")
    if not os.path.getsize(path):
        raise JaxvidError(f"{path} is empty")
    with contextlib.suppress(OSError):
        if problem := boxes.problem(path):
            raise JaxvidError(f"{path} {problem}: it is damaged, and not opened")
    try:
        # An absolute path cannot be taken for a protocol, as `a:b.mp4` is.
        return _open(av, os.path.abspath(path), options={**_OPTIONS, "protocol_whitelist": "file"})
    except (av.FFmpegError, OSError, ValueError) as error:
        reason = _reason(error)
        if getattr(error, "errno", 0) == errno.EINVAL:  # what the list of formats leads to
            reason = "it is in no format that holds a video"
    with contextlib.suppress(OSError), open(path, "rb") as file:
        if file.read(64).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(_PLAYLISTS):
            raise JaxvidError(
                f"{path} is a list that names other files, not a video: name those themselves"
            )
    raise JaxvidError(
        f"{path} cannot be opened as a video: {reason}; it is truncated, damaged, or not a video"
    )


def _open_stream(av: Any, stream: _Input) -> Any:
    try:
        # No name is opened, so whatever the stream names is not either.
        return _open(av, stream, options={**_OPTIONS, "protocol_whitelist": "pipe"})
    except JaxvidError:
        raise
    except (av.FFmpegError, OSError, ValueError) as error:
        raise JaxvidError(f"standard input is no video stream: {_reason(error)}") from None


def _open_camera(av: Any, path: str) -> Any:
    device = f"/dev/video{path}" if path.isdecimal() else path
    try:
        return _open(av, device, format="v4l2")
    except (av.FFmpegError, OSError, ValueError) as error:
        raise JaxvidError(
            f"the camera {device} cannot be opened: {_reason(error)}; cameras are read by "
            "Video4Linux, elsewhere pipe one in with --video=-"
        ) from None


class _Memory:
    """What is known in this process of the files that were used last."""

    _MOST = 64

    def __init__(self) -> None:
        self._found: collections.OrderedDict[tuple, Info | None] = collections.OrderedDict()
        self._lock = threading.Lock()

    def find(self, path: str | os.PathLike) -> Info | None:
        with self._lock:
            return self._found.get(_key(path))

    def keyframes(self, path: str | os.PathLike) -> Keyframes | None:
        found = self.find(path) if self._found else None
        return found.keyframes if found and isinstance(found.keyframes, Keyframes) else None

    def keep(self, path: str | os.PathLike, info: Info | None) -> None:
        with self._lock:
            self._found[_key(path)] = info
            self._found.move_to_end(_key(path))
            if len(self._found) > self._MOST:
                self._found.popitem(last=False)

    def doubt(self, path: str | os.PathLike) -> None:
        """Notes that a file is otherwise than is known of it."""
        self.keep(path, None)

    def doubts(self, path: str | os.PathLike) -> bool:
        with self._lock:
            return self._found.get(_key(path), ()) is None


def _key(path: str | os.PathLike) -> tuple:
    try:
        stat = os.stat(path)
    except (OSError, ValueError):
        return (os.path.abspath(path),)
    return os.path.abspath(path), stat.st_size, stat.st_mtime_ns


_memory = _Memory()


def opened(
    path: str | os.PathLike,
    short_side: int | None = None,
    window: Window = windows.WHOLE,
    noted: Keyframes | None = None,
) -> Video | Pictures:
    """Opens a video file, a folder of frames, or a picture as a video of one frame.

    Raises:
      JaxvidError: it cannot be opened, or a window of pictures is asked for.
    """
    if _is_pictures(path):
        if window != windows.WHOLE:
            raise JaxvidError(
                f"{path} does not tell when its pictures are shown: list it without start and end"
            )
        return Pictures(path, short_side)
    return Video(path, short_side, window=window, noted=noted)


def _is_pictures(path: str | os.PathLike) -> bool:
    return os.path.isdir(path) or (is_picture(os.fspath(path)) and os.path.isfile(path))


def probe(
    path: str | os.PathLike, short_side: int | None = None, window: Window = windows.WHOLE
) -> Info:
    """Decodes a whole video to say what it is; nothing in a header is believed.

    Raises `JaxvidError` with the reason where it cannot be read.
    """
    with opened(path, short_side, window) as video:
        for _ in video.frames(wanted=()):
            pass
        return video.info()


def survey(path: str | os.PathLike) -> Info:
    """Says what a video is, and remembers it, so that its frames are found by their key frames.

    A long one, of over a minute, is not decoded where its packets can be trusted: then damage is
    found only where frames are asked for. See `misled`.

    Raises `JaxvidError` with the reason where it cannot be read.
    """
    if _is_pictures(path):
        return probe(path)
    info = _memory.find(path)
    if info is None:
        doubted = _memory.doubts(path)
        if not doubted:
            with Video(path) as video:
                info = video.stored()
        if info is None:
            info = probe(path)
        if doubted:
            info = dataclasses.replace(info, keyframes="its packets do not tell its frames")
        _memory.keep(path, info)
    return info


def misled(path: str | os.PathLike) -> bool:
    """Whether a file turned out to be otherwise than `survey` said, which now would decode it."""
    return _memory.doubts(path)


def read_frames(path: str | os.PathLike, short_side: int | None = None) -> Iterator[np.ndarray]:
    """Yields all frames of a video, uint8 [H, W, 3], one at a time.

    Raises `JaxvidError` with the reason where it cannot be read, also after the last frame where
    the file turns out to be truncated.
    """
    with opened(path, short_side) as video:
        yield from video.frames()


def frames_at(
    path: str | os.PathLike,
    indices: Collection[int] | np.ndarray,
    short_side: int | None = None,
    window: Window = windows.WHOLE,
    noted: Keyframes | None = None,
) -> np.ndarray:
    """Decodes the frames numbered `indices`, in that order and with repeats: uint8 [N, H, W, 3].

    They are numbered from the start of the window. With what probing `noted`, or `survey`
    remembers, decoding begins at the key frames before them, else at the start; either gives the
    same. Other frames are not converted. Raises `JaxvidError` also where the video ends before.
    """
    numbers = np.asarray(indices, np.int64)
    if not numbers.size or numbers.min() < 0:
        raise JaxvidError(f"frames of {path} are numbered from 0; asked for {numbers.tolist()}")
    wanted = sorted(set(numbers.tolist()))
    with opened(path, short_side, window, noted) as video:
        images = dict(zip(wanted, video.frames(wanted=frozenset(wanted)), strict=False))
        if len(images) < len(wanted):
            count = video.info().num_frames
            raise JaxvidError(f"{path} has {count} frames; frame {wanted[-1]} was asked for")
    return np.stack([images[number] for number in numbers.tolist()])


def _possible(rate: float) -> float:
    return rate if 0 < rate <= bounds.MAX_FPS else math.nan


def _display_matrix(frame: Any) -> np.ndarray | None:
    """The 2x2 part of a frame's display matrix, [[a, b], [c, d]]: x' = ax + cy, y' = bx + dy."""
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return None
    return np.frombuffer(bytes(data), "=i4")[[0, 1, 3, 4]].reshape(2, 2)


def _transposes(matrix: np.ndarray | None) -> bool:
    return matrix is not None and bool(abs(int(matrix[0, 1])) > abs(int(matrix[0, 0])))


def _turn(image: np.ndarray, matrix: np.ndarray | None) -> np.ndarray:
    """Turns and mirrors an image upright; angles between are rounded to quarter turns."""
    if matrix is None:
        return image
    (a, b), (c, d) = matrix.tolist()
    if _transposes(matrix):
        image = image.transpose(1, 0, 2)
        right, down = c, b
    else:
        right, down = a, d
    if right < 0:
        image = image[:, ::-1]
    if down < 0:
        image = image[::-1]
    return np.ascontiguousarray(image)


def _seconds(duration: str) -> float:
    """Reads `00:00:02.5`; 0 where the text is something else."""
    match = re.fullmatch(r"(\d{1,9}):(\d\d):(\d\d(?:\.\d+)?)", duration.strip("\0 "))
    return int(match[1]) * 3600 + int(match[2]) * 60 + float(match[3]) if match else 0.0


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
