"""Video records: sharded TFRecord files in DMVR's layout, with an index that finds any of them.

A split lies in one folder:

- `<split>-00000-of-00008.tfrecord`, ...: `tf.train.SequenceExample`s, as DMVR reads them;
- `<split>.index.npz` and `<split>.frames.npy`: where each record and each frame lies;
- `labels.txt`: the class names, one a line, shared by all splits of the folder.

Optical flow of a split lies beside it, as a split called `<split>.flow`.

Shards that others wrote have no index; it is made on first use by reading them once.
"""

import os
import pathlib
import struct
import zlib
from collections.abc import Sequence

import numpy as np

from jaxvid.base import blocks, paths, stores, text
from jaxvid.base.errors import JaxvidError
from jaxvid.data import bounds, categories, index, shards
from jaxvid.data.crc32c import masked


class Records:
    """The records of one split, each reachable by number.

    Arrays over the records: `num_frames` int32, `fps` float32 (NaN: unknown), `label` int64 (-1:
    none), `height` and `width` int32, `path` str. `labels` lists all labels of each, of which
    `label` is the first, and `annotated` the categories that each was annotated for; `categories`
    are those of the classes. `classes` are the names in `labels.txt`, empty without one;
    `num_shards` and `num_bytes` are those of the files; `origin` tells builds apart; `remote` ones
    lie in an object store. Reading is thread safe and an instance can be pickled.

    With the modality `flow` frames are pairs, as in `jaxvid.data.flow`, and `flow` says how they
    were computed, where that is known.
    """

    encoded = True

    def __init__(self, folder: str | os.PathLike, split: str, modality: str = "rgb"):
        self.folder = paths.anywhere(folder, "folder")
        self._arguments = (folder, split, modality)
        self.channels = 2 if modality == "flow" else 3
        found = index.load(self.folder, split, modality)
        self.split = split = index.stem(split, modality)
        columns = self._columns = found.columns
        self.origin, self.flow = found.origin, found.flow
        self.labels, self.annotated = found.labels, found.annotated
        self._shards, self._starts = found.shards, found.starts
        self.num_shards, self.num_bytes = len(found.shards), sum(found.sizes)
        self.num_frames: np.ndarray = columns["num_frames"]
        self.fps: np.ndarray = columns["fps"]
        self.label: np.ndarray = columns["label"]
        self.height: np.ndarray = columns["height"]
        self.width: np.ndarray = columns["width"]
        self.path: np.ndarray = columns["path"]
        listed = shards.find(self.folder, found.shards)
        for name, size, file in zip(found.shards, found.sizes, listed, strict=True):
            if file is None or file.size != size:
                shard = self.folder / name
                raise JaxvidError(
                    f"{shard} is not the file that {split}.index.npz describes (missing, or not "
                    f"{size} bytes long); build the records again"
                )
        self._found = dict(zip(found.shards, listed, strict=True))
        self.remote = isinstance(self.folder, stores.StorePath)
        self._reader = reader_of(self.folder)
        self._frames = index.FrameTable(self.folder, split, int(found.starts[-1]), self._reader)
        self.classes = read_classes(self.folder / "labels.txt")
        self.categories = self._read_categories()

    def _read_categories(self) -> tuple[str, ...]:
        """The category of each class, none where no record says what was annotated."""
        named = {name for names in self.annotated for name in names}
        if not named:
            return ()
        found = categories.read(self.folder, self.classes)
        if not named <= set(found):
            path = self.folder / categories.FILE
            raise JaxvidError(
                f"{path} names no category {min(named - set(found))!r}, which records were "
                "annotated for: write the category of each class of labels.txt there, one a line"
            )
        return found

    def __len__(self) -> int:
        return len(self.num_frames)

    def __getstate__(self) -> dict:
        return {"arguments": self._arguments}

    def __setstate__(self, state: dict) -> None:
        Records.__init__(self, *state["arguments"])

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
        (data,) = self._spans(shard, [(offset - shards.HEAD, offset + length + shards.FOOT)])
        size = struct.pack("<Q", length)
        whole = len(data) == shards.HEAD + length + shards.FOOT and data[:8] == size
        if (
            not whole
            or struct.unpack_from("<I", data, 8)[0] != masked(size)
            or struct.unpack_from("<I", data, shards.HEAD + length)[0]
            != masked(memoryview(data)[shards.HEAD : shards.HEAD + length])
        ):
            raise JaxvidError(f"{self.name(number)} is corrupt; build the records again")
        return data[shards.HEAD : shards.HEAD + length]

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
        if not wanted.size:
            return []
        first = int(self._starts[number])
        table = self._frames[first + int(wanted[0]) : first + int(wanted[-1]) + 1]
        table = table[wanted - wanted[0]].tolist()
        height, width = int(self.height[number]), int(self.width[number])
        most = min(size, bounds.MAX_PICTURE)
        spans = [
            (offset + start, offset + start + (length if length <= most else 0))
            for start, length, _ in table
        ]
        images = self._spans(shard, spans)
        for frame, (_, length, crc), image in zip(wanted, table, images, strict=True):
            if len(image) != length or zlib.crc32(image) != crc:
                raise JaxvidError(
                    f"{self.name(number)} is corrupt at frame {frame}; build the records again"
                )
            if problem := bounds.picture_problem(image, height, width):
                raise JaxvidError(
                    f"{self.name(number)} frame {frame} {problem}: leave the record out, or "
                    f"delete {self.split}.index.npz if it was made of other shards"
                )
        return [images[place] for place in order]

    def _spans(self, shard: pathlib.Path, spans: list[tuple[int, int]]) -> list[bytes]:
        """The bytes of a shard from each start to its stop; fewer where the file ends."""
        found = self._found[shard.name]
        if self._reader and isinstance(shard, stores.StorePath) and found:
            try:
                return self._reader.read(shard, found, spans)
            except OSError as error:
                raise stores.Unreachable(
                    f"{shard} cannot be read ({error.strerror}): see to the store and run again"
                ) from None
        with shards.open_shard(shard) as file:
            return [shards.read_at(file, start, stop - start) for start, stop in spans]

    def _place(self, number: int) -> tuple[pathlib.Path, int, int]:
        shard = self.folder / self._shards[self._columns["shard"][number]]
        return shard, int(self._columns["offset"][number]), int(self._columns["length"][number])


def reader_of(folder: pathlib.Path) -> blocks.Reader | None:
    """What reads parts of files in a store; of those of a disk it is None."""
    return blocks.Reader() if isinstance(folder, stores.StorePath) else None


def read_classes(path: pathlib.Path) -> tuple[str, ...]:
    """Reads class names, one a line; no file means no names."""
    return text.read_names(path) if path.exists() else ()
