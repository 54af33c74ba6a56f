"""Shards: TFRecord files of `tf.train.SequenceExample`s, written and read record by record."""

import contextlib
import dataclasses
import math
import os
import pathlib
import stat
import struct
import zlib
from collections.abc import Iterator, Sequence
from typing import IO, TypeVar, overload

import numpy as np

from jaxvid.base import stores
from jaxvid.base.errors import JaxvidError
from jaxvid.data import bounds, sequence_example
from jaxvid.data.crc32c import crc32c, mask, masked

HEAD, FOOT = 12, 4
"""Bytes of a TFRecord around its data: their length and its checksum before, theirs after."""
_V = TypeVar("_V", bound=sequence_example.Value)
_LONG = 64 << 20  # bytes of a record that is not read as a whole


@dataclasses.dataclass(frozen=True)
class Entry:
    """One record of the index.

    `offset` is where the data starts in its shard, `length` their bytes. `fps` is NaN and `labels`
    empty where the record does not say. `frames` is uint32 [num_frames, 3]: offset within the
    record, length, and CRC-32 of each JPEG. `annotated` are the categories of labels that were
    looked for, none where the record does not say.
    """

    shard: int
    offset: int
    length: int
    fps: float
    labels: tuple[int, ...]
    path: str
    height: int
    width: int
    frames: np.ndarray
    annotated: tuple[str, ...] = ()

    @property
    def num_frames(self) -> int:
        return len(self.frames)

    @property
    def label(self) -> int:
        """The first of the labels, or -1."""
        return self.labels[0] if self.labels else -1


def names(split: str, count: int) -> list[str]:
    """Names the shards of a split: `<split>-00000-of-00008.tfrecord`, ..."""
    return [f"{split}-{number:05d}-of-{count:05d}.tfrecord" for number in range(count)]


def append(
    file: IO[bytes],
    frames: Sequence[bytes],
    *,
    shard: int,
    labels: Sequence[int],
    texts: Sequence[str],
    path: str,
    fps: float,
    height: int | None = None,
    width: int | None = None,
    annotated: Sequence[str] = (),
    feature: str = sequence_example.FRAMES,
) -> Entry:
    """Appends one video to an open shard and returns its line of the index.

    `frames` are JPEGs in presentation order, `fps` their rate (NaN: unknown), `labels` the numbers
    of the classes and `texts` their names, `annotated` the categories of classes that were looked
    for. A size that is not given is that of the first frame. `feature` is what the frames' list is
    called.
    """
    known = math.isfinite(fps) and fps > 0
    context: dict[str, sequence_example.Value | Sequence[sequence_example.Value]] = {
        sequence_example.LABEL_INDEX: tuple(labels),
        sequence_example.LABEL_TEXT: tuple(name.encode() for name in texts),
        sequence_example.FILENAME: path.encode(errors="surrogateescape"),
    }
    if annotated:
        context[sequence_example.ANNOTATED] = tuple(name.encode() for name in annotated)
    if height is not None and width is not None:
        context[sequence_example.HEIGHT], context[sequence_example.WIDTH] = height, width
    if known:
        context[sequence_example.FRAME_RATE] = float(fps)
        context[sequence_example.START] = 0
        context[sequence_example.END] = round(1e6 * len(frames) / fps)
    data = sequence_example.encode(context, frames, feature)
    offset = file.tell() + HEAD
    size = struct.pack("<Q", len(data))
    file.write(size + struct.pack("<I", masked(size)))
    file.write(data)
    file.write(struct.pack("<I", masked(data)))
    return _entry(shard, offset, data, feature)


def scan(path: pathlib.Path, shard: int, feature: str = sequence_example.FRAMES) -> Iterator[Entry]:
    """Yields the index lines of a shard, all checksums checked, from its bytes alone.

    Their frames are those in the list called `feature`.
    """
    with stores.at_hand(path) as local, open(local, "rb") as file:
        for place, (offset, length) in enumerate(places(file, path)):
            data: bytes | _Pages
            if length <= _LONG:
                data = read_at(file, offset, length)
                checksum = masked(data)
            else:
                data = _Pages(file, offset, length)
                crc = 0
                for start in range(0, length, 1 << 22):
                    crc = crc32c(data[start : start + (1 << 22)], crc)
                checksum = mask(crc)
            if read_at(file, offset + length, FOOT) != struct.pack("<I", checksum):
                raise JaxvidError(f"{path} record {place} is corrupt; fetch it again")
            try:
                yield _entry(shard, offset, data, feature)
            except JaxvidError as error:
                raise JaxvidError(f"{path} record {place}: {error}") from None


def places(file: IO[bytes], path: pathlib.Path) -> Iterator[tuple[int, int]]:
    """Where the data of each record of a shard starts, and how long it is, from their heads."""
    size = os.fstat(file.fileno()).st_size
    offset = place = 0
    while offset < size:
        head = read_at(file, offset, HEAD)
        whole = len(head) == HEAD and struct.unpack_from("<I", head, 8)[0] == masked(head[:8])
        length = struct.unpack_from("<Q", head)[0] if whole else 0
        if not whole or offset + HEAD + length + FOOT > size:
            raise JaxvidError(f"{path} record {place} is corrupt or cut short; fetch it again")
        if length > bounds.MAX_RECORD:
            raise JaxvidError(
                f"{path} record {place}: it is larger than 2 GiB, the most that a SequenceExample "
                "may have"
            )
        yield offset + HEAD, length
        offset += HEAD + length + FOOT
        place += 1


class _Pages:
    """The bytes of a long record, of which only a little is held at a time."""

    def __init__(self, file: IO[bytes], offset: int, length: int):
        self._file, self._offset, self._length = file, offset, length
        self._page, self._data = -1, b""

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, place: int) -> int: ...

    @overload
    def __getitem__(self, place: slice) -> bytes: ...

    def __getitem__(self, place: int | slice) -> int | bytes:
        if isinstance(place, slice):
            start, stop, _ = place.indices(self._length)
            return read_at(self._file, self._offset + start, stop - start)
        page = place >> 16
        if page != self._page:
            size = min(1 << 16, self._length - (page << 16))
            self._page, self._data = page, self[page << 16 : (page << 16) + size]
        try:
            return self._data[place & 0xFFFF]
        except IndexError:
            raise JaxvidError("it was cut short while it was read") from None


def _entry(shard: int, offset: int, data: bytes | _Pages, feature: str) -> Entry:
    """Reads what the index holds of a record from its own bytes."""
    example = sequence_example.decode(data, feature)
    view = memoryview(data) if isinstance(data, bytes) else data
    frames = np.empty((len(example.frames), 3), np.uint32)
    frames[:, :2] = example.frames
    places = example.frames.tolist()
    frames[:, 2] = [zlib.crc32(view[start : start + size]) for start, size in places]

    def first(name: str, kind: type[_V] | tuple[type[_V], ...]) -> _V | None:
        value = next(iter(example.context.get(name, ())), None)
        return value if isinstance(value, kind) else None

    fps = first(sequence_example.FRAME_RATE, (int, float))
    start, end = first(sequence_example.START, int), first(sequence_example.END, int)
    if fps is None and start is not None and end is not None and end > start:
        fps = 1e6 * len(frames) / (end - start)
    height = width = 0
    if places:
        place, length = places[0]
        # What the context says of it may be the size that the video once had.
        size = bounds.picture_size(bytes(view[place : place + length]))
        if size is None:
            raise JaxvidError("its first frame is no image that can be read")
        if problem := bounds.size_problem(*size):
            raise JaxvidError(f"{problem}; leave it out")
        height, width = size
    labels = example.context.get(sequence_example.LABEL_INDEX, ())
    if len(labels) > bounds.MAX_LABELS:
        raise JaxvidError(
            f"it has {len(labels)} labels, and there are at most {bounds.MAX_LABELS} classes; "
            "leave it out"
        )
    path = first(sequence_example.FILENAME, bytes)
    if path is not None and len(path) > bounds.MAX_PATH:
        raise JaxvidError(
            f"its {sequence_example.FILENAME} has {len(path)} bytes, more than the "
            f"{bounds.MAX_PATH} of a path; leave it out"
        )
    return Entry(
        shard=shard,
        offset=offset,
        length=len(data),
        fps=float(fps) if fps is not None and 0 < fps <= bounds.MAX_FPS else math.nan,
        labels=tuple(label for label in labels if isinstance(label, int)),
        # Bytes that are not UTF-8 stay apart as escapes, and numpy cuts a NUL off an end.
        path="" if path is None else path.decode(errors="backslashreplace").replace("\0", "\\x00"),
        height=height,
        width=width,
        frames=frames,
        annotated=tuple(
            name.decode(errors="backslashreplace")
            for name in example.context.get(sequence_example.ANNOTATED, ())[: bounds.MAX_CATEGORIES]
            if isinstance(name, bytes)
        ),
    )


def find(folder: pathlib.Path, names: Sequence[str]) -> list[stores.Found | None]:
    """The files of these names in a folder; None for what is none."""
    if isinstance(folder, stores.StorePath):
        listed = stores.listing(folder)
        return [listed.get(name) for name in names]
    sizes = [size_of(folder / name) for name in names]
    return [None if size is None else stores.Found(size, "") for size in sizes]


def size_of(path: pathlib.Path) -> int | None:
    """How many bytes a file has; None for what is none, as a pipe that would be waited for."""
    try:
        found = path.stat()
    except (OSError, ValueError):  # missing, or no name that a file can have
        return None
    return found.st_size if stat.S_ISREG(found.st_mode) else None


@contextlib.contextmanager
def open_shard(shard: pathlib.Path) -> Iterator[IO[bytes]]:
    """Opens a shard, and says in one sentence why it cannot be read."""
    try:
        with open(shard, "rb", buffering=0) as file:
            yield file
    except OSError as error:
        raise JaxvidError(
            f"{shard} cannot be read ({error.strerror}): put it back, or build the records again"
        ) from None


def read_at(file: IO[bytes], offset: int, length: int) -> bytes:
    """Reads bytes from their place; fewer where the file ends."""
    file.seek(offset)
    return file.read(length)
