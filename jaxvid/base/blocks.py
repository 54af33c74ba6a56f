"""Parts of files in an object store: in few requests, all at once, and kept on this machine's disk.

A request takes tens of milliseconds before its first byte comes, in which a line carries megabytes.
So what is wanted of a file is read in blocks of `BLOCK` bytes, and blocks with at most `GAP` others
between them in one request. Blocks are kept in the folder `stores` of the cache, up to
`JAXVID_STORE_CACHE_GB` gigabytes (10 unless it is set; 0 keeps none); those that were not used for
the longest time go first. Any number of processes share them. A block is a file of its own with its
checksum, under a name that a file with another content does not have.
"""

import contextlib
import hashlib
import os
import threading
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from jaxvid.base import paths, stores
from jaxvid.base.environment import read_number

BLOCK = 128 << 10
GAP = 2
_GIGABYTES = 10.0
_FREED = 0.9  # The share of the room to which a full cache is cleared.


class Reader:
    """Reads parts of the files of a store; thread safe, and made anew where it is pickled."""

    def __init__(self, room: int | None = None, folder: Path | None = None):
        self._room = room_from(os.environ) if room is None else room
        self._folder = folder
        if self._room and folder is None:
            self._folder = paths.cache() / "stores"
        self._lock = threading.Lock()
        self._written = self._room  # Unknown: the first block that is kept counts them.

    def __reduce__(self) -> tuple:
        return Reader, (self._room, self._folder)

    def read(
        self, path: stores.StorePath, found: stores.Found, spans: Sequence[tuple[int, int]]
    ) -> list[bytes]:
        """The bytes of each span, from a start to a stop within the file, which listed as `found`.

        Raises what the store says as `OSError`.
        """
        folder = self._place(path, found)
        wanted = sorted({n for start, stop in spans for n in _blocks(start, stop)})
        have = {n: data for n in wanted if (data := self._kept(folder, n)) is not None}
        runs = _runs([n for n in wanted if n not in have])
        ranges = [(BLOCK * first, min(BLOCK * (last + 1), found.size)) for first, last in runs]
        for (first, last), data in zip(runs, stores.read_ranges(path, ranges), strict=True):
            for n in range(first, last + 1):
                have[n] = data[BLOCK * (n - first) : BLOCK * (n - first + 1)]
                self._keep(folder, n, have[n])
        return [_cut(have, start, stop) for start, stop in spans]

    def _place(self, path: stores.StorePath, found: stores.Found) -> Path | None:
        """The folder for the blocks of a file, or None where none are kept."""
        if self._folder is None or not found.mark:
            return None
        key = hashlib.sha256(f"{path}\0{found.mark}\0{found.size}".encode()).hexdigest()
        return self._folder / key[:2] / key[2:]

    def _kept(self, folder: Path | None, number: int) -> bytes | None:
        if folder is None:
            return None
        path = folder / str(number)
        try:
            data = path.read_bytes()
            os.utime(path)
        except OSError:
            return None
        whole = zlib.crc32(data[:-4]).to_bytes(4, "big") == data[-4:]
        return data[:-4] if whole else None

    def _keep(self, folder: Path | None, number: int, data: bytes) -> None:
        """Keeps a block; a full disk costs the block, not the run."""
        if folder is None:
            return
        unfinished = folder / f"{number}.{os.getpid()}.{threading.get_ident()}.part"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            unfinished.write_bytes(data + zlib.crc32(data).to_bytes(4, "big"))
            unfinished.replace(folder / str(number))
        except OSError:
            with contextlib.suppress(OSError):
                unfinished.unlink()
            return
        with self._lock:
            self._written += len(data)
            # Others write too: what all have written is counted now and then.
            if self._written > self._room / 16:
                self._written = 0
                self._clear()

    def _clear(self) -> None:
        """Removes the blocks that were not used for the longest time, where there are too many."""
        assert self._folder is not None
        known = sorted(_files(self._folder))
        size = sum(each for _, each, _ in known)
        if size <= self._room - self._room // 16:
            return
        for _, each, path in known:
            if size <= _FREED * (self._room - self._room // 16):
                break
            with contextlib.suppress(OSError):
                os.unlink(path)
            size -= each


def room_from(environment: Mapping[str, str]) -> int:
    """The bytes of `JAXVID_STORE_CACHE_GB`.

    Raises:
      JaxvidError: it is no number from 0 on.
    """
    gigabytes = read_number(
        environment,
        "JAXVID_STORE_CACHE_GB",
        "the gigabytes of this machine's disk that may hold parts of files from object stores, or "
        "0 for none",
    )
    return int((_GIGABYTES if gigabytes is None else gigabytes) * 1e9)


def _blocks(start: int, stop: int) -> range:
    return range(start // BLOCK, -(-stop // BLOCK))


def _runs(numbers: Sequence[int]) -> list[tuple[int, int]]:
    """The first and the last of each run of blocks that are read in one request."""
    runs: list[tuple[int, int]] = []
    for number in numbers:
        if runs and number - runs[-1][1] <= GAP + 1:
            runs[-1] = runs[-1][0], number
        else:
            runs.append((number, number))
    return runs


def _cut(blocks: Mapping[int, bytes], start: int, stop: int) -> bytes:
    numbers = _blocks(start, stop)
    data = b"".join(blocks[n] for n in numbers)
    begin = start - BLOCK * numbers.start
    return data[begin : begin + stop - start]


def _files(folder: Path) -> Iterator[tuple[float, int, str]]:
    """When each file below a folder was used last, its bytes, and its path."""
    for parent, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(parent, name)
            with contextlib.suppress(OSError):
                found = os.stat(path)
                yield found.st_mtime, found.st_size, path
