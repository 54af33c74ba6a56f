"""Reads a set of records again, says what is damaged, and makes it again from the videos.

python -m jaxvid.data.verify --records=data/mine
python -m jaxvid.data.verify --records=data/mine --videos=clips --labels=train.csv
"""

import argparse
import contextlib
import dataclasses
import os
import pathlib
import re
import struct
import zlib
from collections.abc import Iterator, Sequence
from typing import IO

import numpy as np

from jaxvid.base import locks, paths, stores, text
from jaxvid.base.errors import JaxvidError
from jaxvid.base.exits import exit_on_error
from jaxvid.base.progress import Progress
from jaxvid.data import building, index, manifest, records, shards
from jaxvid.data.crc32c import masked

_SHARD = re.compile(r"(.+)-\d{5}-of-\d{5}(?:\.tfrecords?)?")


@dataclasses.dataclass(frozen=True)
class Damage:
    """What is wrong with one file of a split."""

    file: str
    said: str

    def __str__(self) -> str:
        return f"{self.file} {self.said}"


def splits(folder: pathlib.Path) -> list[str]:
    """The splits of which a folder holds shards."""
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    found = sorted({match[1] for name in names if (match := _SHARD.fullmatch(name))})
    if not found:
        raise JaxvidError(f"{folder} holds no records: give a folder that build wrote")
    return found


def verify(folder: str | os.PathLike, split: str) -> list[Damage]:
    """Reads all of a split; names what is damaged: files, records in them, frames in these.

    A manifest holds checksums of whole files. Where there is none, as of records that others wrote
    or older versions, those within the shards are what is looked at.
    """
    return _Split(paths.anywhere(folder, "--records"), split).check()


class _Split:
    """A split that is read again; `damages` is what was found so far.

    The index, its table of frames and the manifest are None where they are not there or damaged.
    """

    def __init__(self, folder: pathlib.Path, split: str):
        self._folder, self._split = folder, split
        self.damages: list[Damage] = []
        self._manifest: manifest.Manifest | None = None
        self._index: index.Index | None = None
        self._table: index.FrameTable | None = None
        with self._damaged(f"{split}.manifest.json"):
            self._manifest = manifest.read(folder, split)
        name = f"{split}.index.npz"
        if (folder / name).exists():
            with self._damaged(name):
                self._index = index.load(folder, split)
        elif self._manifest:
            self.damages.append(Damage(name, "is missing"))
        if self._index:
            with self._damaged(f"{split}.frames.npy"):
                rows = int(self._index.starts[-1])
                self._table = index.FrameTable(folder, split, rows, records.reader_of(folder))

    def check(self) -> list[Damage]:
        """Reads the shards and the names of the classes."""
        digests = dict(self._manifest.digests) if self._manifest else {}
        labels = digests.pop("labels.txt", None)
        if labels and self._digest("labels.txt") not in (labels, None):
            self.damages.append(Damage("labels.txt", "has other bytes than were built"))
        names = list(digests) or (self._index.shards if self._index else self._shards_there())
        progress = Progress(len(names), f"verifying {self._split}", "shards")
        total = 0
        for number, name in enumerate(names):
            total += self._check_shard(number, name, digests.get(name))
            progress.update()
        progress.close()
        if self._index and not self.damages and total != len(self._index.labels):
            said = f"lists {len(self._index.labels)} records of {total}"
            self.damages.append(Damage(f"{self._split}.index.npz", said))
        return self.damages

    def _shards_there(self) -> list[str]:
        there = (path.name for path in self._folder.iterdir())
        matches = (_SHARD.fullmatch(name) for name in sorted(there))
        return [match[0] for match in matches if match and match[1] == self._split]

    def _digest(self, name: str) -> str | None:
        """The digest of a file; None where it is missing, which is noted."""
        try:
            return manifest.digest(self._folder / name)
        except FileNotFoundError:
            self.damages.append(Damage(name, "is missing"))
            return None

    @contextlib.contextmanager
    def _damaged(self, file: str) -> Iterator[None]:
        """Notes what is wrong with a file in place of raising it."""
        try:
            yield
        except JaxvidError as error:
            said = str(error).removeprefix(f"{self._folder / file} ")
            self.damages.append(Damage(file, said))

    def _check_shard(self, number: int, name: str, digest: str | None) -> int:
        """Notes what is wrong with a shard; returns how many records it has."""
        before = len(self.damages)
        try:
            with stores.at_hand(self._folder / name) as local:
                found = list(self._entries(local, number, name))
                if len(self.damages) == before and digest not in (None, manifest.digest(local)):
                    self.damages.append(Damage(name, "has other bytes than were built"))
        except FileNotFoundError:
            self.damages.append(Damage(name, "is missing"))
            return 0
        if len(self.damages) == before and self._index:
            self._compare(name, found)
        return len(found)

    def _entries(self, local: pathlib.Path, number: int, name: str) -> Iterator[shards.Entry]:
        """What a shard says of its records, up to where it is damaged, which is noted."""
        try:
            yield from shards.scan(local, number, index.feature_of(self._split))
        except JaxvidError as error:
            known = list(self._damaged_records(local, number))
            said = str(error).removeprefix(f"{local} ").partition(";")[0]
            self.damages += [Damage(name, each) for each in known or [said]]

    def _rows(self, number: int) -> list[int]:
        """The numbers of a shard's records, in their order within it."""
        assert self._index
        columns = self._index.columns
        rows = np.flatnonzero(columns["shard"] == number)
        return rows[np.argsort(columns["offset"][rows])].tolist()

    def _damaged_records(self, local: pathlib.Path, number: int) -> Iterator[str]:
        """Says which records of a shard, and which of their frames, are not what the index says."""
        if self._index is None:
            return
        columns = self._index.columns
        size = self._index.sizes[number]
        if local.stat().st_size != size:
            yield f"has {local.stat().st_size} bytes, not {size}"
        with shards.open_shard(local) as file:
            for place, row in enumerate(self._rows(number)):
                offset, length = int(columns["offset"][row]), int(columns["length"][row])
                if not _is_whole(file, offset, length):
                    path = text.shown(columns["path"][row])
                    yield f"record {place} ({path}) is damaged{self._damaged_frames(file, row)}"

    def _damaged_frames(self, file: IO[bytes], row: int) -> str:
        if self._index is None or self._table is None:
            return ""
        start, stop = self._index.starts[row : row + 2].tolist()
        offset = int(self._index.columns["offset"][row])
        wrong = [
            str(frame)
            for frame, (place, length, crc) in enumerate(self._table[start:stop].tolist())
            if zlib.crc32(shards.read_at(file, offset + place, length)) != crc
        ]
        return f": frame{'s' * (len(wrong) > 1)} {', '.join(wrong)}" if wrong else ": no frame"

    def _compare(self, name: str, found: Sequence[shards.Entry]) -> None:
        """Notes where index and table do not say of a whole shard what it says itself."""
        assert self._index
        rows = self._rows(found[0].shard) if found else []
        for row, entry in zip(rows, found, strict=False):
            starts = self._index.starts
            if self._table and not np.array_equal(
                self._table[int(starts[row]) : int(starts[row + 1])], entry.frames
            ):
                said = f"says otherwise of {entry.path} than {name} does"
                self.damages.append(Damage(f"{self._split}.frames.npy", said))
                return
            if not _is_as_listed(self._index, row, entry):
                said = f"says otherwise of {entry.path} than {name} does"
                self.damages.append(Damage(f"{self._split}.index.npz", said))
                return


def _is_whole(file: IO[bytes], offset: int, length: int) -> bool:
    """Whether the checksums around the data of a record are those of what is there."""
    size = struct.pack("<Q", length)
    head = size + struct.pack("<I", masked(size))
    found = shards.read_at(file, offset - shards.HEAD, shards.HEAD + length + shards.FOOT)
    data, foot = found[shards.HEAD : -shards.FOOT], found[-shards.FOOT :]
    return found[: shards.HEAD] == head and foot == struct.pack("<I", masked(data))


def _is_as_listed(listed: index.Index, row: int, entry: shards.Entry) -> bool:
    columns = listed.columns
    numbers = ("shard", "offset", "length", "num_frames", "height", "width")
    return (
        all(columns[name][row] == getattr(entry, name) for name in numbers)
        and np.array_equal(columns["fps"][row], np.float32(entry.fps), equal_nan=True)
        and (columns["path"][row], listed.labels[row]) == (entry.path, entry.labels)
        and set(listed.annotated[row]) == set(entry.annotated)
    )


def _asked(args: argparse.Namespace) -> list[str]:
    """The splits that flags mean: of a list those of its name, with their optical flow."""
    if args.split:
        return [args.split]
    if not args.labels:
        return splits(args.records)
    own, there = args.labels.stem, splits(args.records)
    return [name for name in (own, index.stem(own, "flow")) if name in there] or [own]


def main(arguments: Sequence[str] | None = None) -> None:
    """The command `python -m jaxvid.data.verify`."""
    parser = argparse.ArgumentParser(
        prog="python -m jaxvid.data.verify",
        description="Reads a set of records again and names what is damaged: which file, which "
        "record in it, which of its frames. With --videos and --labels it makes that again, to "
        "the same bytes, and leaves what is whole as it is.",
        epilog="The exit code is 0 only if nothing is damaged in the end.",
    )
    add = parser.add_argument
    add("--records", required=True, metavar="DIR", help="folder of the records")
    add("--split", metavar="NAME", help="only this split (default: that of the CSV, else all)")
    add("--videos", metavar="DIR", help="folder that they were built from")
    add("--labels", metavar="FILE", help="CSV that they were built from")
    add("--workers", type=int, metavar="N", help="processes that make shards again (default: one "
        "for each core)")  # fmt: skip
    with exit_on_error():
        args = parser.parse_args(arguments)
        paths.arguments(args, "records", "labels", door=paths.anywhere)
        paths.arguments(args, "videos")
        if (args.videos is None) != (args.labels is None):
            raise JaxvidError("--videos and --labels go together: give both, or leave both out")
        paths.readable(args.records, "--records")
        left = []
        for split in _asked(args):
            damages = _show(args.records, split)
            if damages and args.labels:
                with locks.hold(args.records, "--records"):
                    building.rebuild(
                        args.videos,
                        args.labels,
                        args.records,
                        split,
                        {damage.file for damage in damages},
                        args.workers,
                    )
                damages = _show(args.records, split)
            left += damages
        if left:
            raise JaxvidError(
                f"{len({damage.file for damage in left})} files are damaged, as said above: copy "
                "them from where they are whole, or give --videos and --labels to make them again"
            )


def _show(folder: pathlib.Path, split: str) -> list[Damage]:
    damages = verify(folder, split)
    for damage in damages:
        text.say(f"{split}: {damage}")
    if not damages:
        text.say(f"{split}: all of it is whole")
    return damages


if __name__ == "__main__":
    main()
