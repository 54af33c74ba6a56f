"""`tf.train.SequenceExample` as bytes, written and read without TensorFlow.

Only what video records hold is covered: a context of integers, floats and strings, and lists of
JPEG frames, of which one is written and one is read. Reading finds where each frame lies instead of
copying it, so that a few frames of a long video cost little. The feature names are DMVR's, with
MediaPipe's for rate and size.
"""

import dataclasses
import struct
from collections.abc import Iterator, Sequence
from typing import Any, Protocol, overload

import numpy as np

from jaxvid.base.errors import JaxvidError
from jaxvid.data import bounds

FRAMES = "image/encoded"
FLOW = "flow/encoded"
LABEL_INDEX = "clip/label/index"
LABEL_TEXT = "clip/label/text"
ANNOTATED = "clip/label/annotated"
FILENAME = "video/filename"
START = "clip/start/timestamp"
END = "clip/end/timestamp"
FRAME_RATE = "image/frame_rate"
HEIGHT = "image/height"
WIDTH = "image/width"

Value = bytes | int | float
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_ASKED_FOR = (LABEL_INDEX, ANNOTATED, FILENAME, START, END, FRAME_RATE, HEIGHT, WIDTH)
_SHORT = 1 << 16
_MAX_FIELDS = 4 * bounds.MAX_FRAMES  # three for each frame, and one more for other things
_MAX_NAMES = 10_000  # in the context


@dataclasses.dataclass(frozen=True)
class Example:
    """What one record says.

    `context` maps a name to its values; `frames` is int64 [num_frames, 2]: offset and length of
    each JPEG within the record.
    """

    context: dict[str, list[Value]]
    frames: np.ndarray


class Sliced(Protocol):
    """Bytes, in memory or elsewhere, of which a slice is read at a time."""

    def __len__(self) -> int: ...

    @overload
    def __getitem__(self, place: int, /) -> int: ...

    @overload
    def __getitem__(self, place: slice, /) -> bytes | bytearray | memoryview: ...


def encode(
    context: dict[str, Value | Sequence[Value]], frames: Sequence[bytes], feature: str = FRAMES
) -> bytes:
    """Writes a SequenceExample of `context`, names with a value or several, and JPEG `frames`.

    `feature` is what the list of frames is called.
    """
    features = b"".join(
        _field(1, _field(1, name.encode()) + _field(2, _feature(context[name])))
        for name in sorted(context)
    )
    listed = b"".join(_field(1, _feature(frame)) for frame in frames)
    entry = _field(1, feature.encode()) + _field(2, listed)
    return _field(1, features) + _field(2, _field(1, entry))


def decode(record: Sliced, feature: str = FRAMES) -> Example:
    """Reads context and places of the frames in the list called `feature`.

    `record` may be anything that has a length and gives bytes for a slice. What no reader asks for
    is left out of the context where it is long. Raises `JaxvidError` where the bytes are no
    SequenceExample, or one with more frames or values than `bounds` says.
    """
    return _Reader(record, feature).example()


def _varint(value: int) -> bytes:
    value &= (1 << 64) - 1  # negative numbers are two's complement
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _field(number: int, payload: bytes) -> bytes:
    return bytes([number << 3 | _BYTES]) + _varint(len(payload)) + payload


def _feature(value: Value | Sequence[Value]) -> bytes:
    values: Sequence[Any] = value if isinstance(value, list | tuple) else [value]
    if not values:
        return b""
    if isinstance(values[0], bytes):
        return _field(1, b"".join(_field(1, one) for one in values))
    if isinstance(values[0], float):
        return _field(2, _field(1, struct.pack(f"<{len(values)}f", *values)))
    return _field(3, _field(1, b"".join(map(_varint, values))))


def _read_varint(view: Sliced, at: int, stop: int) -> tuple[int, int]:
    value = shift = 0
    while at < stop and shift < 64:
        byte = view[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & (1 << 64) - 1, at
        shift += 7
    raise JaxvidError("the record is not a SequenceExample: a number in it does not end")


class _Reader:
    """Walks through a message; what it meets of it is counted, so that it ends soon."""

    def __init__(self, record: Sliced, feature: str):
        self._feature = feature
        self._view = memoryview(record) if isinstance(record, bytes | bytearray) else record
        self._left = _MAX_FIELDS

    def example(self) -> Example:
        context: dict[str, list[Value]] = {}
        frames: list[tuple[int, int]] = []
        for number, start, stop in self._messages(0, len(self._view)):
            for _, entry_start, entry_stop in self._messages(start, stop):
                name, value_start, value_stop = self._map_entry(entry_start, entry_stop)
                if number == 1:
                    if len(context) >= _MAX_NAMES:
                        raise JaxvidError(f"the record has more than {_MAX_NAMES} features")
                    if name in _ASKED_FOR or value_stop - value_start <= _SHORT:
                        context[name] = self._values(name, value_start, value_stop)
                elif number == 2 and name == self._feature:
                    for _, one_start, one_stop in self._messages(value_start, value_stop):
                        frames.append(self._bytes_place(one_start, one_stop))
                        if len(frames) > bounds.MAX_FRAMES:
                            raise JaxvidError(f"it has more than {bounds.MAX_FRAMES} frames")
        return Example(context, np.array(frames, np.int64).reshape(-1, 2))

    def _fields(self, at: int, stop: int) -> Iterator[tuple[int, int, int, int]]:
        """Yields (field number, wire type, start, stop) of the fields between two places."""
        view = self._view
        while at < stop:
            self._left -= 1
            if self._left < 0:
                raise JaxvidError(f"the record has more than {_MAX_FIELDS} fields")
            tag, at = _read_varint(view, at, stop)
            kind = tag & 7
            start = at
            if kind == _VARINT:
                _, at = _read_varint(view, at, stop)
            elif kind == _FIXED64:
                at += 8
            elif kind == _FIXED32:
                at += 4
            elif kind == _BYTES:
                length, start = _read_varint(view, at, stop)
                at = start + length
            else:
                raise JaxvidError(f"the record is not a SequenceExample: it has wire type {kind}")
            if at > stop:
                raise JaxvidError("the record is not a SequenceExample: a field runs past its end")
            yield tag >> 3, kind, start, at

    def _messages(self, at: int, stop: int) -> Iterator[tuple[int, int, int]]:
        for number, kind, start, end in self._fields(at, stop):
            if kind == _BYTES:
                yield number, start, end

    def _map_entry(self, at: int, stop: int) -> tuple[str, int, int]:
        name, place = "", (stop, stop)
        for number, start, end in self._messages(at, stop):
            if number == 1:
                if end - start > _SHORT:
                    raise JaxvidError(f"the record has a name of {end - start} bytes")
                name = bytes(self._view[start:end]).decode(errors="replace")
            elif number == 2:
                place = (start, end)
        return name, *place

    def _bytes_place(self, at: int, stop: int) -> tuple[int, int]:
        for number, start, end in self._messages(at, stop):
            if number == 1:
                for inner, first, last in self._messages(start, end):
                    if inner == 1:
                        if last - first > bounds.MAX_PICTURE:
                            raise JaxvidError(f"it has a frame of {last - first} bytes")
                        return first, last - first
        raise JaxvidError(
            f"the record's {self._feature!r} holds something other than encoded images"
        )

    def _values(self, name: str, at: int, stop: int) -> list[Value]:
        view = self._view
        # Ten bytes each, at most.
        if stop - at > 10 * bounds.MAX_LABELS + _SHORT:
            raise JaxvidError(f"it has {stop - at} bytes of {name!r}, more than a record may have")
        values: list[Value] = []
        for kind, start, end in self._messages(at, stop):
            for _, wire, first, last in self._fields(start, end):
                if kind == 1:
                    values.append(bytes(view[first:last]))
                elif kind == 2:  # packed or not, the floats lie side by side
                    usable = (last - first) // 4 * 4
                    values.extend(np.frombuffer(view[first : first + usable], "<f4").tolist())
                elif wire == _VARINT:
                    values.append(_signed(_read_varint(view, first, last)[0]))
                else:
                    while first < last:
                        number, first = _read_varint(view, first, last)
                        values.append(_signed(number))
        return values


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value
