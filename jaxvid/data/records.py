"""Video records: sharded TFRecord files in DMVR's layout, with an index that finds any of them.

A split lies in one folder:

- `<split>-00000-of-00008.tfrecord`, ...: `tf.train.SequenceExample`s, as DMVR reads them;
- `<split>.index.npz`: per record its shard, place, number of frames, frame rate, label and path
  (all paths in one, and where each ends: padded to the longest they could take any memory);
- `<split>.frames.npy`: per frame its place within the record and its CRC-32, so that a reader
  fetches and checks just the frames that it samples;
- `labels.txt`: the class names, one a line, shared by all splits of the folder.

Shards that others wrote have no index; it is made on first use by reading them once.
"""

import contextlib
import dataclasses
import math
import os
import pathlib
import re
import stat
import struct
import weakref
import zlib
from collections.abc import Iterator, Sequence
from typing import BinaryIO

import numpy as np

from jaxvid.base import arrays, paths, text, whole
from jaxvid.base.errors import JaxvidError
from jaxvid.base.progress import Progress
from jaxvid.data import bounds, sequence_example
from jaxvid.data.crc32c import crc32c, mask, masked

VERSION = 1  # of the index files
_MAX_INDEX = 1 << 30  # bytes
_LONG = 64 << 20  # bytes of a record that is not read as a whole
_HEAD, _FOOT = 12, 4  # of a TFRecord: length and its checksum before, the data's checksum after
_COLUMNS = {
    "shard": np.int32,
    "offset": np.int64,
    "length": np.int64,
    "num_frames": np.int32,
    "fps": np.float32,
    "label": np.int64,
    "height": np.int32,
    "width": np.int32,
}


@dataclasses.dataclass(frozen=True)
class Entry:
    """One record of the index.

    `offset` is where the data starts in its shard, `length` their bytes. `fps` is NaN and `labels`
    empty where the record does not say. `frames` is uint32 [num_frames, 3]: offset within the
    record, length, and CRC-32 of each JPEG.
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

    @property
    def num_frames(self) -> int:
        return len(self.frames)

    @property
    def label(self) -> int:
        """The first of the labels, or -1."""
        return self.labels[0] if self.labels else -1


class Records:
    """The records of one split, each reachable by number.

    Arrays over the records: `num_frames` int32, `fps` float32 (NaN: unknown), `label` int64 (-1:
    none), `height` and `width` int32, `path` str. `labels` lists all labels of each, of which
    `label` is the first. `classes` are the names in `labels.txt`, empty without one; `num_shards`
    and `num_bytes` are those of the files; `origin` tells builds apart. Reading is thread safe and
    an instance can be pickled.
    """

    encoded = True

    def __init__(self, folder: str | os.PathLike, split: str):
        self.folder = paths.local(folder, "folder")
        self.split = split
        index = self.folder / f"{split}.index.npz"
        if not os.path.lexists(index):
            _index_foreign(self.folder, split)
        self.origin, names, sizes, columns, starts, self.labels = _load_index(index)
        self._shards, self._columns, self._starts = names, columns, starts
        self.num_shards, self.num_bytes = len(names), sum(sizes)
        self.num_frames: np.ndarray = columns["num_frames"]
        self.fps: np.ndarray = columns["fps"]
        self.label: np.ndarray = columns["label"]
        self.height: np.ndarray = columns["height"]
        self.width: np.ndarray = columns["width"]
        self.path: np.ndarray = columns["path"]
        for name, size in zip(names, sizes, strict=True):
            shard = self.folder / name
            if _size(shard) != size:
                raise JaxvidError(
                    f"{shard} is not the file that {index.name} describes (missing, or not {size} "
                    "bytes long); build the records again"
                )
        frames = self.folder / f"{split}.frames.npy"
        try:
            self._frames = _Table(frames, int(starts[-1]))
        except (OSError, ValueError) as error:
            raise JaxvidError(
                f"{frames} does not belong to {index.name} ({_line(error)}); build the records "
                "again"
            ) from None
        self.classes = read_classes(self.folder / "labels.txt")

    def __len__(self) -> int:
        return len(self.num_frames)

    def __getstate__(self) -> dict:
        return {"folder": self.folder, "split": self.split}

    def __setstate__(self, state: dict) -> None:
        self.__init__(state["folder"], state["split"])

    def name(self, number: int) -> str:
        """Says where a record lies, for messages: shard, record within it, and video."""
        shard = self._columns["shard"][number]
        place = np.count_nonzero(
            (self._columns["shard"] == shard)
            & (self._columns["offset"] < self._columns["offset"][number])
        )
        # A record may name any path, with line breaks too.
        path = text.shown(self.path[number])
        return f"{self.folder / self._shards[shard]} record {place} ({path})"

    def read(self, number: int) -> bytes:
        """Reads one whole SequenceExample and checks both checksums of its TFRecord."""
        shard, offset, length = self._place(number)
        with _open(shard) as file:
            data = _read_at(file, offset - _HEAD, _HEAD + length + _FOOT)
        size = struct.pack("<Q", length)
        whole = len(data) == _HEAD + length + _FOOT and data[:8] == size
        if (
            not whole
            or struct.unpack_from("<I", data, 8)[0] != masked(size)
            or struct.unpack_from("<I", data, _HEAD + length)[0]
            != masked(memoryview(data)[_HEAD : _HEAD + length])
        ):
            raise JaxvidError(f"{self.name(number)} is corrupt; build the records again")
        return data[_HEAD : _HEAD + length]

    def frames(self, number: int, indices: Sequence[int] | np.ndarray) -> list[bytes]:
        """Reads the JPEGs of the frames `indices` only, each checked; repeats are read once."""
        shard, offset, size = self._place(number)
        indices = np.asarray(indices, np.int64)
        if indices.size and not 0 <= indices.min() <= indices.max() < self.num_frames[number]:
            raise JaxvidError(
                f"{self.name(number)} has {self.num_frames[number]} frames; "
                f"frames {indices.min()} to {indices.max()} were asked for"
            )
        wanted, order = np.unique(indices, return_inverse=True)
        images: list[bytes] = []
        if not wanted.size:
            return images
        first = int(self._starts[number])
        table = self._frames[first + int(wanted[0]) : first + int(wanted[-1]) + 1]
        table = table[wanted - wanted[0]].tolist()
        height, width = int(self.height[number]), int(self.width[number])
        most = min(size, bounds.MAX_PICTURE)
        with _open(shard) as file:
            for frame, (start, length, crc) in zip(wanted, table, strict=True):
                image = _read_at(file, offset + start, length) if length <= most else b""
                if len(image) != length or zlib.crc32(image) != crc:
                    raise JaxvidError(
                        f"{self.name(number)} is corrupt at frame {frame}; build the records again"
                    )
                if problem := bounds.picture_problem(image, height, width):
                    raise JaxvidError(
                        f"{self.name(number)} frame {frame} {problem}: leave the record out, or "
                        f"delete {self.split}.index.npz if it was made of other shards"
                    )
                images.append(image)
        return [images[place] for place in order]

    def _place(self, number: int) -> tuple[pathlib.Path, int, int]:
        shard = self.folder / self._shards[self._columns["shard"][number]]
        return shard, int(self._columns["offset"][number]), int(self._columns["length"][number])


class _Table:
    """Rows of `<split>.frames.npy`, uint32 [3] each, read as they are asked for.

    A file that is mapped and then cut would end the process without a word.
    """

    def __init__(self, path: pathlib.Path, rows: int):
        if _size(path) is None:
            raise ValueError("it is missing, or no file")
        with open(path, "rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            shape, dtype, _ = arrays.read_header(file, path.name, size, size)
            if shape != (rows, 3) or dtype != np.uint32:
                raise ValueError(f"it has {dtype} {list(shape)}")
            self._path, self._start, self._rows = path, file.tell(), rows
            self._file = os.dup(file.fileno())
        weakref.finalize(self, os.close, self._file)

    def __len__(self) -> int:
        return self._rows

    def __getitem__(self, rows: int | slice) -> np.ndarray:
        if not isinstance(rows, slice):
            return self[rows : rows + 1][0]
        start, stop, _ = rows.indices(self._rows)
        wanted = 12 * (stop - start)
        data = os.pread(self._file, wanted, self._start + 12 * start)
        if len(data) != wanted:
            raise JaxvidError(f"{self._path} has been cut short; build the records again")
        return np.frombuffer(data, np.uint32).reshape(-1, 3)


class _Pages:
    """The bytes of a long record, of which only a little is held at a time."""

    def __init__(self, file: BinaryIO, offset: int, length: int):
        self._file, self._offset, self._length = file, offset, length
        self._page, self._data = -1, b""

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, place: int | slice) -> int | bytes:
        if isinstance(place, slice):
            start, stop, _ = place.indices(self._length)
            return _read_at(self._file, self._offset + start, stop - start)
        page = place >> 16
        if page != self._page:
            size = min(1 << 16, self._length - (page << 16))
            self._page, self._data = page, self[page << 16 : (page << 16) + size]
        try:
            return self._data[place & 0xFFFF]
        except IndexError:
            raise JaxvidError("it was cut short while it was read") from None


def _size(path: pathlib.Path) -> int | None:
    """How many bytes a file has; None for what is none, as a pipe that would be waited for."""
    try:
        found = path.stat()
    except (OSError, ValueError):  # missing, or no name that a file can have
        return None
    return found.st_size if stat.S_ISREG(found.st_mode) else None


@contextlib.contextmanager
def _open(shard: pathlib.Path) -> Iterator[BinaryIO]:
    """Opens a shard, and says in one sentence why it cannot be read."""
    try:
        with open(shard, "rb", buffering=0) as file:
            yield file
    except OSError as error:
        raise JaxvidError(
            f"{shard} cannot be read ({error.strerror}): put it back, or build the records again"
        ) from None


def _line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _read_at(file: BinaryIO, offset: int, length: int) -> bytes:
    file.seek(offset)
    return file.read(length)


def shard_names(split: str, count: int) -> list[str]:
    """Names the shards of a split: `<split>-00000-of-00008.tfrecord`, ..."""
    return [f"{split}-{number:05d}-of-{count:05d}.tfrecord" for number in range(count)]


def read_classes(path: pathlib.Path) -> tuple[str, ...]:
    """Reads class names, one a line; no file means no names."""
    return text.read_names(path) if path.exists() else ()


def append(
    file: BinaryIO,
    frames: Sequence[bytes],
    *,
    shard: int,
    labels: Sequence[int],
    texts: Sequence[str],
    path: str,
    fps: float,
    height: int | None = None,
    width: int | None = None,
) -> Entry:
    """Appends one video to an open shard and returns its line of the index.

    `frames` are JPEGs in presentation order, `fps` their rate (NaN: unknown), `labels` the numbers
    of the classes and `texts` their names. A size that is not given is that of the first frame.
    """
    known = math.isfinite(fps) and fps > 0
    context: dict[str, sequence_example.Value | Sequence[sequence_example.Value]] = {
        sequence_example.LABEL_INDEX: tuple(labels),
        sequence_example.LABEL_TEXT: tuple(name.encode() for name in texts),
        sequence_example.FILENAME: path.encode(errors="surrogateescape"),
    }
    if height is not None and width is not None:
        context[sequence_example.HEIGHT], context[sequence_example.WIDTH] = height, width
    if known:
        context[sequence_example.FRAME_RATE] = float(fps)
        context[sequence_example.START] = 0
        context[sequence_example.END] = round(1e6 * len(frames) / fps)
    data = sequence_example.encode(context, frames)
    offset = file.tell() + _HEAD
    size = struct.pack("<Q", len(data))
    file.write(size + struct.pack("<I", masked(size)))
    file.write(data)
    file.write(struct.pack("<I", masked(data)))
    return _entry(shard, offset, data)


def scan(path: pathlib.Path, shard: int) -> Iterator[Entry]:
    """Yields the index lines of a shard, all checksums checked, from its bytes alone."""
    with open(path, "rb") as file:
        for place, (offset, length) in enumerate(_places(file, path)):
            if length <= _LONG:
                data = _read_at(file, offset, length)
                checksum = masked(data)
            else:
                data = _Pages(file, offset, length)
                crc = 0
                for start in range(0, length, 1 << 22):
                    crc = crc32c(data[start : start + (1 << 22)], crc)
                checksum = mask(crc)
            if _read_at(file, offset + length, _FOOT) != struct.pack("<I", checksum):
                raise JaxvidError(f"{path} record {place} is corrupt; fetch it again")
            try:
                yield _entry(shard, offset, data)
            except JaxvidError as error:
                raise JaxvidError(f"{path} record {place}: {error}") from None


def _places(file: BinaryIO, path: pathlib.Path) -> Iterator[tuple[int, int]]:
    """Where the data of each record of a shard starts, and how long it is, from their heads."""
    size = os.fstat(file.fileno()).st_size
    offset = place = 0
    while offset < size:
        head = _read_at(file, offset, _HEAD)
        whole = len(head) == _HEAD and struct.unpack_from("<I", head, 8)[0] == masked(head[:8])
        length = struct.unpack_from("<Q", head)[0] if whole else 0
        if not whole or offset + _HEAD + length + _FOOT > size:
            raise JaxvidError(f"{path} record {place} is corrupt or cut short; fetch it again")
        if length > bounds.MAX_RECORD:
            raise JaxvidError(
                f"{path} record {place}: it is larger than 2 GiB, the most that a SequenceExample "
                "may have"
            )
        yield offset + _HEAD, length
        offset += _HEAD + length + _FOOT
        place += 1


def write_index(
    folder: pathlib.Path,
    split: str,
    names: Sequence[str],
    entries: Sequence[Entry],
    origin: str = "",
) -> None:
    """Writes the two index files of a split, the one that makes it complete last.

    `origin` is kept for `Records.origin`: a digest of what the records were made from.
    """
    columns = {
        name: np.array([getattr(entry, name) for entry in entries], kind)
        for name, kind in _COLUMNS.items()
    }
    more = [(n, label) for n, entry in enumerate(entries) for label in entry.labels[1:]]
    texts = [entry.path.encode(errors="surrogatepass") for entry in entries]
    table = [entry.frames for entry in entries] or [np.zeros((0, 3), np.uint32)]
    for name, write in {
        f"{split}.frames.npy": lambda file: np.save(file, np.concatenate(table)),
        f"{split}.index.npz": lambda file: np.savez(
            file,
            version=VERSION,
            origin=origin,
            shards=np.array(names, np.str_),
            sizes=np.array([(folder / name).stat().st_size for name in names], np.int64),
            paths=np.frombuffer(b"".join(texts), np.uint8),
            path_ends=np.cumsum([len(each) for each in texts], dtype=np.int64),
            more_labels=np.array(more, np.int64).reshape(-1, 2),
            **columns,
        ),
    }.items():
        with whole.file(folder / name, durable=True) as file:
            write(file)


def _load_index(
    path: pathlib.Path,
) -> tuple[str, list[str], list[int], dict, np.ndarray, list[tuple[int, ...]]]:
    try:
        file = arrays.read_npz(path, _MAX_INDEX)
        if file["version"].tolist() != VERSION:
            raise JaxvidError(f"{path} is of another version; build the records again")
        columns = {name: _column(file[name], kind) for name, kind in _COLUMNS.items()}
        columns["path"] = _paths(file)
        names, sizes = file["shards"], _column(file["sizes"], np.int64)
        origin = str(file["origin"])
        # Those beyond the first of each record; indices written before there were any lack it.
        more = file.get("more_labels", np.zeros((0, 2), np.int64))
    except JaxvidError:
        raise
    except KeyError as error:
        raise JaxvidError(f"{path} has no {error}; build the records again") from None
    except (OSError, ValueError) as error:
        raise JaxvidError(
            f"{path} cannot be read ({_line(error)}); build the records again"
        ) from None
    if not _consistent(columns, names, sizes, more):
        raise JaxvidError(f"{path} contradicts itself; build the records again")
    sizes_seen = np.stack([columns["height"], columns["width"]], 1)[columns["num_frames"] > 0]
    for height, width in np.unique(sizes_seen, axis=0).tolist():
        if problem := bounds.size_problem(height, width):
            raise JaxvidError(f"{path} has a video that may not be read: {problem}; leave it out")
    fps = columns["fps"]
    fps[~((fps > 0) & (fps <= bounds.MAX_FPS))] = np.nan
    labels = [[label] if label >= 0 else [] for label in columns["label"].tolist()]
    for number, label in more.tolist():
        labels[number].append(label)
    starts = np.concatenate([[0], np.cumsum(columns["num_frames"], dtype=int)])
    return origin, names.tolist(), sizes.tolist(), columns, starts, [*map(tuple, labels)]


def _column(array: np.ndarray, kind: type) -> np.ndarray:
    """A column of an index as its own kind, if that holds it."""
    kind = np.dtype(kind)
    if array.dtype.kind not in ("f" if kind.kind == "f" else "iu"):
        raise ValueError(f"it has {array.dtype} where {kind} is expected")
    if kind.kind == "i" and array.size:
        info = np.iinfo(kind)
        if array.min() < info.min or array.max() > info.max:
            raise ValueError(f"it has numbers that {kind} does not hold")
    with np.errstate(over="ignore"):
        return array.astype(kind)


def _paths(file: dict[str, np.ndarray]) -> np.ndarray:
    """The paths of an index, as they are written today or as they once were."""
    if "path" in file:
        return file["path"].astype(object)
    data, ends = file["paths"].tobytes(), _column(file["path_ends"], np.int64)
    lengths = np.diff(ends, prepend=0)
    if ends.ndim != 1 or (lengths < 0).any() or len(data) != (ends[-1] if ends.size else 0):
        raise ValueError("its paths do not end where it says")
    found = np.empty(len(ends), object)
    for number, (end, length) in enumerate(zip(ends.tolist(), lengths.tolist(), strict=True)):
        found[number] = data[end - length : end].decode(errors="surrogatepass")
    return found


def _consistent(
    columns: dict[str, np.ndarray], names: np.ndarray, sizes: np.ndarray, more: np.ndarray
) -> bool:
    """Whether the arrays of an index fit together, and stay within its shards."""
    count = len(columns["path"]) if columns["path"].ndim == 1 else -1
    if any(column.shape != (count,) for column in columns.values()):
        return False
    if names.dtype.kind != "U" or names.ndim != 1 or sizes.shape != names.shape:
        return False
    if any(name != pathlib.PurePath(name).name or "\0" in name for name in names.tolist()):
        return False
    if more.shape != (len(more), 2) or more.dtype != np.int64:
        return False
    if not ((more[:, 0] >= 0) & (more[:, 0] < count)).all():
        return False
    if not count:
        return True
    shards, offset, length = columns["shard"], columns["offset"], columns["length"]
    if not 0 <= shards.min() <= shards.max() < len(names):
        return False
    ends = sizes[shards] - _FOOT
    return bool(
        (columns["num_frames"] >= 0).all()
        and (offset >= _HEAD).all()
        and (length >= 0).all()
        and (length <= ends).all()
        and (offset <= ends - length).all()
    )


def _index_foreign(folder: pathlib.Path, split: str) -> None:
    """Makes the index of shards that came without one."""
    pattern = re.compile(re.escape(split) + r"-(\d{5})-of-(\d{5})(\.tfrecords?)?")
    try:
        present = sorted(folder.iterdir()) if folder.is_dir() else []
    except OSError as error:
        raise JaxvidError(f"{folder} cannot be read ({error.strerror})") from None
    found = [match for path in present if (match := pattern.fullmatch(path.name))]
    if not found:
        splits = sorted({m[1] for p in present if (m := re.match(r"(.+)-\d{5}-of-", p.name))})
        known = f"it has the splits {', '.join(splits)}" if splits else "it has no records"
        raise JaxvidError(
            f"{folder} has no {split}-*.tfrecord: {known}; make them with "
            "`python -m jaxvid.data.build`"
        )
    if (folder / f".build-{split}").exists():
        raise JaxvidError(f"the build of {split!r} in {folder} was interrupted; run it again")
    total = int(found[0][2])
    if len(found) != total or {int(match[1]) for match in found} != set(range(total)):
        raise JaxvidError(
            f"{folder} holds {len(found)} of the {total} shards of {split!r} and no index; fetch "
            "the missing ones, or run the interrupted build again"
        )
    names = [match[0] for match in found]
    sizes = [_size(folder / name) for name in names]
    for name, size in zip(names, sizes, strict=True):
        if size is None:
            raise JaxvidError(f"{folder / name} is no file; put the shard in its place")
    # Before anything is read that takes its time.
    count = 0
    for name in names:
        with _open(folder / name) as file:
            for _ in _places(file, folder / name):
                count += 1
                if count > bounds.MAX_RECORDS:
                    raise JaxvidError(
                        f"{folder} has more than {bounds.MAX_RECORDS} records of {split!r}; make "
                        "splits of them"
                    )
    entries = []
    progress = Progress(math.ceil(sum(sizes) / 1e6), f"indexing {split}", "MB")
    for shard, name in enumerate(names):
        for entry in scan(folder / name, shard):
            entries.append(entry)
            progress.update(round(entry.length / 1e6))
    progress.close()
    try:
        write_index(folder, split, names, entries)
    except OSError as error:
        raise JaxvidError(
            f"{folder} has no {split}.index.npz and it cannot be written there ({error.strerror}); "
            "copy the records to a folder that can be written"
        ) from None


def _entry(shard: int, offset: int, data: bytes | _Pages) -> Entry:
    """Reads what the index holds of a record from its own bytes."""
    example = sequence_example.decode(data)
    view = memoryview(data) if isinstance(data, bytes) else data
    frames = np.empty((len(example.frames), 3), np.uint32)
    frames[:, :2] = example.frames
    places = example.frames.tolist()
    frames[:, 2] = [zlib.crc32(view[start : start + size]) for start, size in places]

    def first(name: str, kind: type | tuple[type, ...]) -> sequence_example.Value | None:
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
    )
