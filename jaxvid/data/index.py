"""The index of a split, which says where each record and each of its frames lies.

- `<split>.index.npz`: per record its shard, place, number of frames, frame rate, label and path
  (all paths in one, and where each ends: padded to the longest they could take any memory);
- `<split>.frames.npy`: per frame its place within the record and its CRC-32, so that a reader
  fetches and checks just the frames that it samples.

Optical flow of a split has an index of its own, `<split>.flow.index.npz`, of shards of its own, or
of those of the split where these hold both.
"""

import dataclasses
import io
import math
import os
import pathlib
import re
import weakref
from collections.abc import Sequence
from typing import IO, Any

import numpy as np

from jaxvid.base import arrays, blocks, stores, whole
from jaxvid.base.errors import JaxvidError
from jaxvid.base.progress import Progress
from jaxvid.data import bounds, sequence_example, shards
from jaxvid.data.shards import Entry

VERSION = 1  # of the index files
_MAX_INDEX = 1 << 30  # bytes
_HEAD = 4096  # bytes that the head of a table has at most
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


def write(
    folder: pathlib.Path,
    split: str,
    names: Sequence[str],
    entries: Sequence[Entry],
    origin: str = "",
    flow: str = "",
) -> None:
    """Writes the two index files of a split, the one that makes it complete last.

    `origin` is kept for `Records.origin`: a digest of what the records were made from. `flow` is
    how the optical flow in them was computed, if they hold some and it is known.
    """
    columns: dict[str, Any] = {
        name: np.array([getattr(entry, name) for entry in entries], kind)
        for name, kind in _COLUMNS.items()
    }
    more = [(n, label) for n, entry in enumerate(entries) for label in entry.labels[1:]]
    texts = [entry.path.encode(errors="surrogatepass") for entry in entries]
    categories = sorted({name for entry in entries for name in entry.annotated})
    if len(categories) > bounds.MAX_CATEGORIES:
        raise JaxvidError(
            f"{folder}: the records of {split!r} name {len(categories)} categories of labels, and "
            f"there may be {bounds.MAX_CATEGORIES}"
        )
    annotated: dict[str, Any] = {}
    if categories:
        bits = [sum(1 << categories.index(name) for name in e.annotated) for e in entries]
        annotated = {"categories": np.array(categories), "annotated": np.array(bits, np.int64)}
    table = [entry.frames for entry in entries] or [np.zeros((0, 3), np.uint32)]
    for name, fill in {
        f"{split}.frames.npy": lambda file: np.save(file, np.concatenate(table)),
        f"{split}.index.npz": lambda file: np.savez(
            file,
            version=VERSION,
            origin=origin,
            flow=flow,
            shards=np.array(names, np.str_),
            sizes=np.array([file.size for file in shards.find(folder, names) if file], np.int64),
            paths=np.frombuffer(b"".join(texts), np.uint8),
            path_ends=np.cumsum([len(each) for each in texts], dtype=np.int64),
            more_labels=np.array(more, np.int64).reshape(-1, 2),
            **annotated,
            **columns,
        ),
    }.items():
        with whole.file(folder / name, durable=True) as file:
            fill(file)


@dataclasses.dataclass(frozen=True)
class Index:
    """What `<split>.index.npz` says.

    `origin` tells builds apart; `flow` is how optical flow was computed, where that is known.
    `shards` are the files' names and `sizes` their bytes. `columns` are arrays over the records, by
    the names of `_COLUMNS` and `path`. `labels` are all labels of each record, `annotated` the
    categories of labels that each was annotated for, none where it does not say. `starts`, one more
    than records, says where in the table of frames those of each begin.
    """

    origin: str
    flow: str
    shards: list[str]
    sizes: list[int]
    columns: dict[str, np.ndarray]
    starts: np.ndarray
    labels: list[tuple[int, ...]]
    annotated: list[tuple[str, ...]]


def stem(split: str, modality: str) -> str:
    """What the files of a split, or of its optical flow, begin with."""
    return f"{split}.flow" if modality == "flow" else split


def feature_of(stem: str) -> str:
    """What records call the list of frames in files that begin so."""
    return sequence_example.FLOW if stem.endswith(".flow") else sequence_example.FRAMES


def load(folder: pathlib.Path, split: str, modality: str = "rgb") -> Index:
    """Reads and checks the index of a split, which is made first where there is none.

    Raises:
      JaxvidError: there are no such records, or the index is damaged or contradicts itself.
    """
    path = folder / f"{stem(split, modality)}.index.npz"
    if not (path.exists() or path.is_symlink()):
        _make(folder, split, modality)
    try:
        file = arrays.read_npz(path, _MAX_INDEX)
        if file["version"].tolist() != VERSION:
            raise JaxvidError(f"{path} is of another version; build the records again")
        columns = {name: _column(file[name], kind) for name, kind in _COLUMNS.items()}
        columns["path"] = _paths(file)
        names, sizes = file["shards"], _column(file["sizes"], np.int64)
        origin, flow = str(file["origin"]), str(file.get("flow", ""))
        # Those beyond the first of each record; indices written before there were any lack it.
        more = file.get("more_labels", np.zeros((0, 2), np.int64))
        annotated = _annotated(file, len(columns["path"]))
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
    return Index(
        origin=origin,
        flow=flow,
        shards=names.tolist(),
        sizes=sizes.tolist(),
        columns=columns,
        starts=starts,
        labels=[*map(tuple, labels)],
        annotated=annotated,
    )


def _column(array: np.ndarray, kind: type) -> np.ndarray:
    """A column of an index as its own kind, if that holds it."""
    dtype: np.dtype = np.dtype(kind)
    if array.dtype.kind not in ("f" if dtype.kind == "f" else "iu"):
        raise ValueError(f"it has {array.dtype} where {dtype} is expected")
    if dtype.kind == "i" and array.size:
        info = np.iinfo(dtype)
        if array.min() < info.min or array.max() > info.max:
            raise ValueError(f"it has numbers that {dtype} does not hold")
    with np.errstate(over="ignore"):
        return array.astype(dtype)


def _annotated(file: dict[str, np.ndarray], count: int) -> list[tuple[str, ...]]:
    """The categories of each record; indices written before there were any lack them."""
    if "annotated" not in file:
        return [()] * count
    bits, names = _column(file["annotated"], np.int64), file["categories"]
    listed = names.ndim == 1 and names.dtype.kind == "U" and len(names) <= bounds.MAX_CATEGORIES
    inside = count and bits.shape == (count,) and 0 <= bits.min() <= bits.max() < 1 << len(names)
    if not (listed and inside):
        raise ValueError("its categories are not those of its records")
    held = {
        bit: tuple(name for n, name in enumerate(names.tolist()) if bit >> n & 1)
        for bit in np.unique(bits).tolist()
    }
    return [held[bit] for bit in bits.tolist()]


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
    shard, offset, length = columns["shard"], columns["offset"], columns["length"]
    if not 0 <= shard.min() <= shard.max() < len(names):
        return False
    ends = sizes[shard] - shards.FOOT
    return bool(
        (columns["num_frames"] >= 0).all()
        and (offset >= shards.HEAD).all()
        and (length >= 0).all()
        and (length <= ends).all()
        and (offset <= ends - length).all()
    )


def _make(folder: pathlib.Path, split: str, modality: str) -> None:
    """Makes the index of shards that came without one."""
    own, split = split, stem(split, modality)
    feature = feature_of(split)
    # Others' records may hold pictures and flow side by side.
    beside = own != split and not any(folder.glob(f"{split}-?????-of-?????*"))
    names, sizes = _find_shards(folder, own if beside else split)
    if not isinstance(folder, stores.StorePath):
        _check_count(folder, split, names)  # Before anything is read that takes its time.
    entries: list[Entry] = []
    progress = Progress(math.ceil(sum(sizes) / 1e6), f"indexing {split}", "MB")
    for number, name in enumerate(names):
        for entry in shards.scan(folder / name, number, feature):
            if beside and not entry.num_frames:
                raise JaxvidError(
                    f"{folder} has no optical flow of {own!r}: build it with `python -m "
                    "jaxvid.data.build --flow=tvl1`"
                )
            entries.append(entry)
            if len(entries) > bounds.MAX_RECORDS:
                raise _too_many(folder, split)
            progress.update(round(entry.length / 1e6))
    progress.close()
    try:
        write(folder, split, names, entries)
    except OSError as error:
        raise JaxvidError(
            f"{folder} has no {split}.index.npz and it cannot be written there ({error.strerror}); "
            "copy the records to a folder that can be written"
        ) from None


def _find_shards(folder: pathlib.Path, split: str) -> tuple[list[str], list[int]]:
    """Names and bytes of the shards of a split, which have to be all there."""
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
    sizes = []
    for name, file in zip(names, shards.find(folder, names), strict=True):
        if file is None:
            raise JaxvidError(f"{folder / name} is no file; put the shard in its place")
        sizes.append(file.size)
    return names, sizes


def _check_count(folder: pathlib.Path, split: str, names: Sequence[str]) -> None:
    """Refuses more records than anyone has, by their heads alone."""
    count = 0
    for name in names:
        with shards.open_shard(folder / name) as file:
            for _ in shards.places(file, folder / name):
                count += 1
                if count > bounds.MAX_RECORDS:
                    raise _too_many(folder, split)


def _too_many(folder: pathlib.Path, split: str) -> JaxvidError:
    return JaxvidError(
        f"{folder} has more than {bounds.MAX_RECORDS} records of {split!r}; make splits of them"
    )


class FrameTable:
    """Rows of `<split>.frames.npy`, uint32 [3] each as in `Entry`, read as they are asked for.

    A file that is mapped and then cut would end the process without a word. One in a store is read
    by `reader`.
    """

    def __init__(
        self, folder: pathlib.Path, split: str, rows: int, reader: blocks.Reader | None = None
    ):
        path = folder / f"{split}.frames.npy"
        self._reader = reader
        self._found: stores.Found | None = None
        try:
            self._open(path, rows)
        except (OSError, ValueError) as error:
            raise JaxvidError(
                f"{path} does not belong to {split}.index.npz ({_line(error)}); build the records "
                "again"
            ) from None

    def _open(self, path: pathlib.Path, rows: int) -> None:
        if isinstance(path, stores.StorePath):
            self._open_remote(path, rows)
            return
        if shards.size_of(path) is None:
            raise ValueError("it is missing, or no file")
        with open(path, "rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            self._read_head(file, path, size, rows)
            self._file = os.dup(file.fileno())
        weakref.finalize(self, os.close, self._file)

    def _open_remote(self, path: stores.StorePath, rows: int) -> None:
        (found,) = shards.find(path.parent, [path.name])
        if found is None:
            raise ValueError("it is missing")
        self._found = found
        (head,) = self._spans(path, [(0, min(found.size, _HEAD))])
        self._read_head(io.BytesIO(head), path, found.size, rows)

    def _read_head(self, file: IO[bytes], path: pathlib.Path, size: int, rows: int) -> None:
        shape, dtype, _ = arrays.read_header(file, path.name, size, size)
        if shape != (rows, 3) or dtype != np.uint32:
            raise ValueError(f"it has {dtype} {list(shape)}")
        self._path, self._start, self._rows = path, file.tell(), rows

    def _spans(self, path: pathlib.Path, spans: list[tuple[int, int]]) -> list[bytes]:
        if isinstance(path, stores.StorePath):
            assert self._reader and self._found
            return self._reader.read(path, self._found, spans)
        return [os.pread(self._file, stop - start, start) for start, stop in spans]

    def __len__(self) -> int:
        return self._rows

    def __getitem__(self, rows: int | slice) -> np.ndarray:
        if not isinstance(rows, slice):
            return self[rows : rows + 1][0]
        start, stop, _ = rows.indices(self._rows)
        begin, end = self._start + 12 * start, self._start + 12 * stop
        (data,) = self._spans(self._path, [(begin, end)])
        if len(data) != end - begin:
            raise JaxvidError(f"{self._path} has been cut short; build the records again")
        return np.frombuffer(data, np.uint32).reshape(-1, 3)


def _line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
