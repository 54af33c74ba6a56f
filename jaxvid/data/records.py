"""Video records: sharded TFRecord files in DMVR's layout, with an index that finds any of them.

A split lies in one folder:

- `<split>-00000-of-00008.tfrecord`, ...: `tf.train.SequenceExample`s, as DMVR reads them;
- `<split>.index.npz`: per record its shard, place, number of frames, frame rate, label and path;
- `<split>.frames.npy`: per frame its place within the record and its CRC-32, so that a reader
  fetches and checks just the frames that it samples;
- `labels.txt`: the class names, one a line, shared by all splits of the folder.

Shards that others wrote have no index; it is made on first use by reading them once.
"""

import contextlib
import dataclasses
import io
import math
import os
import pathlib
import re
import struct
import zlib
from collections.abc import Iterator, Sequence
from typing import BinaryIO

import numpy as np

from jaxvid import paths, text
from jaxvid.data import sequence_example
from jaxvid.data.crc32c import masked
from jaxvid.errors import JaxvidError
from jaxvid.progress import Progress

VERSION = 1  # of the index files
MAX_LENGTH = 2**31 - 1  # of one record: protocol buffers end there
_MAX_SIDE = 65_535  # of a JPEG
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
        if not index.exists():
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
            if not shard.exists() or shard.stat().st_size != size:
                raise JaxvidError(
                    f"{shard} is not the file that {index.name} describes (missing, or not {size} "
                    "bytes long); build the records again"
                )
        frames = self.folder / f"{split}.frames.npy"
        try:
            self._frames = np.load(frames, mmap_mode="r", allow_pickle=False)
        except Exception as error:  # numpy's reader of headers raises many kinds
            raise JaxvidError(
                f"{frames} cannot be read ({_line(error)}); build the records again"
            ) from None
        sound = isinstance(self._frames, np.ndarray) and self._frames.dtype == np.uint32
        if not sound or self._frames.shape != (starts[-1], 3):
            raise JaxvidError(f"{frames} does not belong to {index.name}; build the records again")
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
        table = self._frames[self._starts[number] + wanted].tolist()
        images = []
        with _open(shard) as file:
            for frame, (start, length, crc) in zip(wanted, table, strict=True):
                image = _read_at(file, offset + start, length) if length <= size else b""
                if len(image) != length or zlib.crc32(image) != crc:
                    raise JaxvidError(
                        f"{self.name(number)} is corrupt at frame {frame}; build the records again"
                    )
                images.append(image)
        return [images[place] for place in order]

    def _place(self, number: int) -> tuple[pathlib.Path, int, int]:
        shard = self.folder / self._shards[self._columns["shard"][number]]
        return shard, int(self._columns["offset"][number]), int(self._columns["length"][number])


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
    size = path.stat().st_size
    with open(path, "rb") as file:
        offset = place = 0
        while offset < size:
            head = file.read(_HEAD)
            whole = len(head) == _HEAD and struct.unpack_from("<I", head, 8)[0] == masked(head[:8])
            length = struct.unpack_from("<Q", head)[0] if whole else 0
            if not whole or offset + _HEAD + length + _FOOT > size:
                raise JaxvidError(f"{path} record {place} is corrupt or cut short; fetch it again")
            data = file.read(length)
            if struct.unpack("<I", file.read(_FOOT))[0] != masked(data):
                raise JaxvidError(f"{path} record {place} is corrupt; fetch it again")
            try:
                yield _entry(shard, offset + _HEAD, data)
            except JaxvidError as error:
                raise JaxvidError(f"{path} record {place}: {error}") from None
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
    table = [entry.frames for entry in entries] or [np.zeros((0, 3), np.uint32)]
    for name, write in {
        f"{split}.frames.npy": lambda file: np.save(file, np.concatenate(table)),
        f"{split}.index.npz": lambda file: np.savez(
            file,
            version=VERSION,
            origin=origin,
            shards=np.array(names, np.str_),
            sizes=np.array([(folder / name).stat().st_size for name in names], np.int64),
            path=np.array([entry.path for entry in entries], np.str_),
            more_labels=np.array(more, np.int64).reshape(-1, 2),
            **columns,
        ),
    }.items():
        partial = folder / f".{name}.{os.getpid()}"
        with open(partial, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, folder / name)


def _load_index(
    path: pathlib.Path,
) -> tuple[str, list[str], list[int], dict, np.ndarray, list[tuple[int, ...]]]:
    try:
        with np.load(path, allow_pickle=False) as file:
            if int(file["version"]) != VERSION:
                raise JaxvidError(f"{path} is of another version; build the records again")
            columns = {name: file[name].astype(kind) for name, kind in _COLUMNS.items()}
            columns["path"] = file["path"]
            names, sizes = file["shards"].tolist(), file["sizes"].tolist()
            origin = str(file["origin"])
            # Those beyond the first of each record; indices written before there were any lack it.
            more = file["more_labels"] if "more_labels" in file else np.zeros((0, 2), np.int64)
    except JaxvidError:
        raise
    except Exception as error:  # numpy, zipfile and zlib raise many kinds on a damaged file
        raise JaxvidError(
            f"{path} cannot be read ({_line(error)}); build the records again"
        ) from None
    count = len(columns["path"])
    shards = columns["shard"]
    consistent = len(names) == len(sizes) and all(
        column.shape == (count,) for column in columns.values()
    )
    consistent &= more.shape == (len(more), 2) and more.dtype == np.int64
    consistent = consistent and bool(((more[:, 0] >= 0) & (more[:, 0] < count)).all())
    consistent = consistent and (not count or 0 <= shards.min() <= shards.max() < len(names))
    if consistent and count:
        ends = np.array(sizes, np.int64)[shards] - _FOOT
        offset, length = columns["offset"], columns["length"]
        consistent = bool(
            (columns["num_frames"] >= 0).all()
            and (offset >= _HEAD).all()
            and (length >= 0).all()
            and (length <= ends).all()
            and (offset <= ends - length).all()
        )
    if not consistent:
        raise JaxvidError(f"{path} contradicts itself; build the records again")
    labels = [(label,) if label >= 0 else () for label in columns["label"].tolist()]
    for number, label in more.tolist():
        labels[number] += (label,)
    starts = np.concatenate([[0], np.cumsum(columns["num_frames"], dtype=int)])
    return origin, names, sizes, columns, starts, labels


def _index_foreign(folder: pathlib.Path, split: str) -> None:
    """Makes the index of shards that came without one."""
    pattern = re.compile(re.escape(split) + r"-(\d{5})-of-(\d{5})(\.tfrecords?)?")
    present = sorted(folder.iterdir()) if folder.is_dir() else []
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
    sizes = [(folder / name).stat().st_size for name in names]
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


def _entry(shard: int, offset: int, data: bytes) -> Entry:
    """Reads what the index holds of a record from its own bytes."""
    if len(data) > MAX_LENGTH:
        raise JaxvidError("it is larger than 2 GiB, the most that a SequenceExample may have")
    example = sequence_example.decode(data)
    view = memoryview(data)
    frames = np.empty((len(example.frames), 3), np.uint32)
    frames[:, :2] = example.frames
    frames[:, 2] = [zlib.crc32(view[start : start + size]) for start, size in example.frames]

    def first(name: str, kind: type | tuple[type, ...]) -> sequence_example.Value | None:
        value = next(iter(example.context.get(name, ())), None)
        return value if isinstance(value, kind) else None

    fps = first(sequence_example.FRAME_RATE, (int, float))
    start, end = first(sequence_example.START, int), first(sequence_example.END, int)
    if fps is None and start is not None and end is not None and end > start:
        fps = 1e6 * len(frames) / (end - start)
    height, width = first(sequence_example.HEIGHT, int), first(sequence_example.WIDTH, int)
    if len(frames) and not (0 < (height or 0) <= _MAX_SIDE and 0 < (width or 0) <= _MAX_SIDE):
        place = example.frames[0]
        height, width = _jpeg_size(data[place[0] : place.sum()])
    labels = example.context.get(sequence_example.LABEL_INDEX, ())
    path = first(sequence_example.FILENAME, bytes)
    return Entry(
        shard=shard,
        offset=offset,
        length=len(data),
        fps=math.nan if fps is None else float(fps),
        labels=tuple(label for label in labels if isinstance(label, int)),
        # Bytes that are not UTF-8 stay apart as escapes, and numpy cuts a NUL off an end.
        path="" if path is None else path.decode(errors="backslashreplace").replace("\0", "\\x00"),
        height=height if len(frames) else 0,
        width=width if len(frames) else 0,
        frames=frames,
    )


def _jpeg_size(image: bytes) -> tuple[int, int]:
    from PIL import Image

    try:
        # Pillow's other readers are never asked: some of them run programs.
        with Image.open(io.BytesIO(image), formats=("JPEG", "PNG")) as opened:
            return opened.height, opened.width
    except Exception:  # Pillow raises many kinds
        raise JaxvidError("its first frame is no image that can be read") from None
