"""Where in a video file decoding may begin, and when each of its frames is shown.

From a key frame on, decoding gives the pixels that it gives from the start of the file, where
nothing that is shown later refers to what was stored before. Containers mark such frames, but what
they mark differs: so of H.264 (ITU-T H.264, 7.4.1 and D.2.8) and HEVC (ITU-T H.265, 7.4.2.2) the
packet itself is asked.
"""

import base64
import bisect
import collections
import contextlib
import dataclasses
import functools
import itertools
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from jaxvid.data import bounds

_ALONE = {"av1", "flv1", "h263", "mpeg1video", "mpeg2video", "mpeg4", "vp8", "vp9", "wmv2"}
"""Codecs whose marked frames stand alone, or else do not decode."""
_ONE_EACH = {"av1", "h264", "hevc", "vp9"}
"""Codecs each of whose packets gives one frame, unless it is damaged; so does each without others
than key frames."""
_SPARED = {"h264", "mpeg1video", "mpeg2video", "mpeg4"}
"""Codecs whose decoders pass over just those frames to which no other refers. Not HEVC: there, such
frames may be referred to from a higher temporal layer."""
_MISTIMED = ("avi",)
"""Containers that number packets as they are stored, whenever their frames are shown."""
_SIGNED = {"h264", "mpeg4"}
"""Codecs whose encoders sign the first packet, so that decoders can make up for their faults."""
_NEAR = 64  # frames up to a key frame over which packets are read rather than sought
_LEADS = (0.0, 1.0, 8.0)  # seconds before a key frame to seek to: not all containers have an index


class Untrue(Exception):
    """A file is otherwise than was noted of it."""


@dataclasses.dataclass(frozen=True)
class Keyframes:
    """The times of frames that follow one another, and which of them decoding may begin at.

    They are all frames of a file where `before` is None, else those of a window and, that many, the
    ones before it from a key frame on. `packed` is a text of the rest, which is short where times
    are regular.
    """

    before: int | None
    packed: str

    @classmethod
    def of(
        cls,
        before: int | None,
        times: Sequence[int] | np.ndarray,
        keys: Sequence[int],
        places: Sequence[int],
    ) -> "Keyframes":
        """Packs what `read` gives."""
        parts = [np.diff(np.array(part, "<i8"), prepend=0) for part in (times, keys, places)]
        data = np.concatenate([[len(times)], *parts]).astype("<i8").tobytes()
        return cls(before, base64.b85encode(zlib.compress(data, 9)).decode())

    def read(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The times int64 `[N]` in ticks of the stream, and of key frames the numbers among these
        and the places of their packets in the file, int64 `[K]` each; all but places rise.

        Raises:
          ValueError: the text is none that `of` makes.
        """
        times, keys, places = _read(self.packed)
        if self.before is None:
            return times, keys, places
        if type(self.before) is not int or not 0 <= self.before < len(times) or keys[0]:
            raise ValueError("no such window")
        return times, keys, places


@functools.lru_cache(maxsize=16)
def _read(packed: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    most = 8 * (1 + 3 * bounds.MAX_FRAMES)
    try:
        inflater = zlib.decompressobj()
        data = inflater.decompress(base64.b85decode(packed), most)
    except zlib.error as error:
        raise ValueError(str(error)) from None
    numbers = np.frombuffer(data, "<i8")
    count = int(numbers[0]) if len(numbers) else 0
    if not inflater.eof or not 0 < count < len(numbers) or (len(numbers) - 1 - count) % 2:
        raise ValueError("not as many numbers as it says")
    times, *pair = np.split(numbers[1:], [count, count + (len(numbers) - 1 - count) // 2])
    times, (keys, places) = np.cumsum(times), map(np.cumsum, pair)
    rising = (np.diff(times) > 0).all() and (np.diff(keys) > 0).all()
    if not (rising and keys[0] >= 0 and keys[-1] < count):
        raise ValueError("not rising")
    return times, keys, places


class Gathering:
    """Gathers the key frames and times of a stream, while it is read or decoded."""

    def __init__(self, container: Any, stream: Any):
        self._codec = stream.codec_context
        self._name = self._codec.codec.canonical_name
        self._alone = _rule(self._codec)
        self._mistimed = container.format.name in _MISTIMED
        self._keys: list[tuple[int, int]] = []  # time and place
        self._stored: list[int | None] = []
        self._shown: list[int | None] = []
        self._sizes = {(self._codec.height, self._codec.width)}
        self._broken = 0

    def key(self, packet: Any) -> bool:
        """Whether decoding may begin at a packet; it is noted if so."""
        if not packet.is_keyframe or packet.pts is None or not self._alone:
            return False
        if not self._alone(packet):
            return False
        self._keys.append((packet.pts, packet.pos or 0))
        return True

    def packet(self, packet: Any) -> None:
        """Takes a packet that is not decoded."""
        self.key(packet)
        if not packet.size:
            return
        units = _units(self._codec, packet)
        if packet.is_corrupt or (units is not None and not _is_whole(self._name, units)):
            self._broken += 1
        if not packet.is_discard:
            self._stored.append(packet.pts)

    def frame(self, frame: Any) -> None:
        """Takes a decoded frame."""
        self._shown.append(frame.pts)
        self._sizes.add((frame.height, frame.width))

    def decoded(self, damaged: int, before: int | None = None) -> Keyframes | str:
        """What can be noted once all was decoded, or why nothing can.

        Of a window, `before` is how many of the frames come before it.
        """
        if damaged:
            return "parts of it are damaged"
        if len(self._sizes) > 1:
            return "its frames are not all of the size that it says"
        return self._noted(self._shown, before)

    def stored(self) -> Keyframes | str:
        """What can be noted once all packets were read, or why that takes decoding them."""
        if self._broken:
            return "parts of it are damaged"
        if self._mistimed or not (self._name in _ONE_EACH or self._codec.codec.intra_only):
            return "its packets do not tell its frames"
        if None in self._stored:
            return "it does not say when its frames are shown"
        return self._noted(sorted(time for time in self._stored if time is not None), None)

    def _noted(self, shown: Sequence[int | None], before: int | None) -> Keyframes | str:
        if not self._alone:
            return f"frames of its codec, {self._name}, may refer to any before"
        times = [time for time in shown if time is not None]
        if len(times) < len(shown):
            return "it does not say when its frames are shown"
        numbers = {time: number for number, time in enumerate(times)}
        keys = {numbers[time]: place for time, place in self._keys if time in numbers}
        start = 0
        if before is not None:  # Frames before the first key frame may not be whole.
            start = min(keys, default=len(times))
            before -= start
        if not keys or before is not None and before < 0:
            return "it has no frame that stands alone"
        if any(after <= time for time, after in itertools.pairwise(times[start:])):
            return "its frames are not in the order of their times"
        found = sorted(keys)
        places = [keys[number] for number in found]
        return Keyframes.of(before, times[start:], [number - start for number in found], places)


class Walk:
    """Decodes single frames of an open file, from the key frames before them."""

    def __init__(self, container: Any, stream: Any, noted: Keyframes):
        self._container, self._stream = container, stream
        self._codec = stream.codec_context
        self._spares = self._codec.codec.canonical_name in _SPARED
        self._size = self._codec.height, self._codec.width
        self._before = noted.before or 0
        self._times, self._keys, self._places = noted.read()
        self._packets: Iterator[Any] = container.demux(stream)
        # The key frame that decoding came by last, or the start of the file.
        self._at = -1 if noted.before is None else -_NEAR - 1

    def frames(self, wanted: Iterable[int]) -> Iterator[tuple[int, Any]]:
        """Yields the frames of these rising numbers, each with its number.

        Raises:
          Untrue: one of them did not come out, or not as it should.
        """
        import av

        left = collections.deque(number + self._before for number in wanted)
        if left and left[-1] >= len(self._times):
            raise Untrue
        shown = {int(self._times[number]) for number in left}
        settled = True
        while left:
            key = self._key_before(left[0])
            if key > self._at:
                self.enter(key)
                self._codec.flush_buffers()
                # What refers to frames before the key frame does not decode, and is not shown.
                settled = False
            try:
                packet = next(self._packets, None)
                if packet is None:
                    raise Untrue
                self._pass(packet)
                self._spare(packet.pts in shown or packet.is_keyframe or not packet.size)
                decoded = packet.decode()
            except (av.FFmpegError, OSError):
                if settled:
                    raise Untrue from None
                continue
            for frame in decoded:
                if frame.pts is None:
                    raise Untrue
                settled = settled or frame.pts >= self._times[key]
                if left and settled and frame.pts >= self._times[left[0]]:
                    same_size = (frame.height, frame.width) == self._size
                    if frame.pts > self._times[left[0]] or frame.is_corrupt or not same_size:
                        raise Untrue
                    yield left.popleft() - self._before, frame

    def enter(self, key: int) -> Iterator[Any]:
        """The packets from a key frame on, which is the number of one among the times.

        Raises:
          Untrue: it is not found.
        """
        if self._at < -1 or key > 0 > self._at:
            self._packets = primed(self._packets, self._stream)
        if not (key - self._at <= _NEAR and self._find(self._packets, key)):
            for lead in _LEADS:
                if self._seek(key, lead):
                    break
            else:
                raise Untrue
        self._at = key
        return self._packets

    def _seek(self, key: int, lead: float) -> bool:
        import av

        with contextlib.suppress(av.FFmpegError, OSError, OverflowError):
            time = int(self._times[key]) - round(lead / self._stream.time_base)
            self._container.seek(time, stream=self._stream)
            return self._find(self._container.demux(self._stream), key)
        return False

    def _find(self, packets: Iterator[Any], key: int) -> bool:
        """Whether the packet of a key frame is among those that follow, which then are the next."""
        import av

        time, place = int(self._times[key]), int(self._places[bisect.bisect_left(self._keys, key)])
        with contextlib.suppress(av.FFmpegError, OSError):
            for packet in packets:
                if not packet.is_keyframe or packet.pts is None:
                    continue
                if packet.pts == time and (packet.pos or 0) == place:
                    self._packets = itertools.chain([packet], packets)
                    return True
                if packet.pts > time:
                    return False
        return False

    def _key_before(self, number: int) -> int:
        place = bisect.bisect_right(self._keys, number)
        return int(self._keys[place - 1]) if place else -1

    def _pass(self, packet: Any) -> None:
        """Notes that decoding goes on to another key frame, which need not be looked for."""
        if packet.is_keyframe and packet.pts is not None:
            number = int(np.searchsorted(self._times, packet.pts))
            place = bisect.bisect_left(self._keys, number)
            if place < len(self._keys) and self._keys[place] == number:
                self._at = max(self._at, number)

    def _spare(self, needed: bool) -> None:
        if self._spares:
            self._codec.skip_frame = "DEFAULT" if needed else "NONREF"


def primed(packets: Iterator[Any], stream: Any) -> Iterator[Any]:
    """The packets from the start of a file, once the decoder knows from the first who made it."""
    import av

    first = next(packets, None)
    if first is None:
        return packets
    codec = stream.codec_context
    if codec.codec.canonical_name in _SIGNED:
        # Of H.264 it stands in a unit of its own, which takes no time.
        notes = [unit for unit in _units(codec, first) or () if unit[:1] == b"\6"]
        size = _length_size(codec)
        heads = [len(unit).to_bytes(size, "big") if size else b"\0\0\1" for unit in notes]
        data = b"".join(head + unit for head, unit in zip(heads, notes, strict=True))
        packet = av.Packet(data) if data else first
        with contextlib.suppress(av.FFmpegError):
            codec.decode(packet)
        codec.flush_buffers()
    return itertools.chain([first], packets)


def _rule(codec: Any) -> Callable[[Any], bool] | None:
    """Says of a packet that is marked as a key frame whether it stands alone."""
    name = codec.codec.canonical_name
    if name in ("h264", "hevc"):
        return lambda packet: _stands_alone(name, _units(codec, packet) or ())
    if name in _ALONE or codec.codec.intra_only:
        return lambda packet: True
    return None


def _units(codec: Any, packet: Any) -> list[bytes] | None:
    """The units of a packet of H.264 or HEVC, the last empty where they do not add up to it.

    None of other codecs.
    """
    name = codec.codec.canonical_name
    if name not in ("h264", "hevc"):
        return None
    data, size = bytes(packet), _length_size(codec)
    if not size:
        # Start codes end where a unit begins; a zero before one belongs to it.
        return [unit for unit in data.split(b"\0\0\1")[1:] if unit]
    found, place = [], 0
    while place + size <= len(data):
        length = int.from_bytes(data[place : place + size], "big")
        unit = data[place + size : place + size + length]
        place += size + length
        if not length or place > len(data):
            break
        found.append(unit)
    return found if place == len(data) else [*found, b""]


def _length_size(codec: Any) -> int:
    """The bytes of the length before a unit of H.264 or HEVC; 0 where there are start codes."""
    extra, at = codec.extradata or b"", 4 if codec.codec.canonical_name == "h264" else 21
    return (extra[at] & 3) + 1 if extra[:1] == b"\1" and len(extra) > at else 0


def _is_whole(name: str, units: Sequence[bytes]) -> bool:
    """Whether a packet holds a picture, and nothing that is none of its units."""
    pictures = range(32) if name == "hevc" else range(1, 6)
    return all(units) and any(_kind(name, unit) in pictures for unit in units)


def _kind(name: str, unit: bytes) -> int:
    return unit[0] >> 1 & 63 if name == "hevc" else unit[0] & 31


def _stands_alone(name: str, units: Sequence[bytes]) -> bool:
    kinds = [_kind(name, unit) for unit in units if unit]
    if name == "hevc":
        # After its pictures for random access none that is shown later refers to one before.
        return next((16 <= kind <= 21 for kind in kinds if kind < 32), False)
    # Else the decoder begins anew at 5, or is told by 6.
    return 5 in kinds or any(_recovers(unit) for unit in units if unit and unit[0] & 31 == 6)


def _recovers(unit: bytes) -> bool:
    """Whether a unit of further information says that pictures are exact from here on."""
    data = iter(unit[1:].replace(b"\0\0\3", b"\0\0"))
    while (kind := _length(data)) is not None and (size := _length(data)) is not None:
        held = bytes(itertools.islice(data, size))
        if kind == 6 and held:
            return held[0] >> 5 == 0b110  # after no other frame, exactly, with no broken link
    return False


def _length(data: Iterator[int]) -> int | None:
    """A number as it stands there: its bytes added up, of which all but the last are 255."""
    total = 0
    for value in data:
        total += value
        if value < 255:
            return total
    return None
