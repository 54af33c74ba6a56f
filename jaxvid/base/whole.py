"""Files that are there whole or not at all: written beside their place, and put there by a rename.

The unfinished file has one hidden name for each place, and is locked while it is written. So what a
kill leaves of it is overwritten by the next that writes there, and two processes that write the
same file do so one after the other. In an object store nothing is ever half there: what is
written becomes whole on this machine's disk, in the folder for temporary files, and is copied.
"""

import contextlib
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from jaxvid.base import locks, stores

ENDING = ".part"
_PAUSE = 30.0  # seconds


@contextlib.contextmanager
def file(path: str | os.PathLike, *, durable: bool = False) -> Iterator[IO[bytes]]:
    """Opens what becomes the file `path` when the block ends, if it ends well.

    A link stays one, and what it leads to is written. `durable` files outlast a loss of power right
    after. Raises what the system says.
    """
    if isinstance(path, stores.StorePath):
        with stores.unfinished(path) as unfinished:
            yield unfinished
        return
    path = Path(os.path.realpath(path))
    lock = locks.take(locks.neighbour(path, ENDING), wait=True)
    unfinished = open(lock.descriptor, "wb+")  # noqa: SIM115 - closed below, where it may fail
    try:
        unfinished.truncate(0)
        yield unfinished
        unfinished.flush()
        if durable:
            os.fsync(unfinished.fileno())
        os.replace(lock.path, path)
    except BaseException:
        with contextlib.suppress(OSError):
            lock.path.unlink()
        raise
    finally:
        # After an error what is still held back is written once more, and refused once more.
        with contextlib.suppress(OSError):
            unfinished.close()
    if durable:
        flush(path.parent)


def arrays(path: str | os.PathLike, **named: Any) -> None:
    """Writes a `.npz` file of arrays, as `numpy.savez` does; see `file`."""
    import numpy as np

    with file(path) as unfinished:
        np.savez(unfinished, **named)


@contextlib.contextmanager
def folder(path: str | os.PathLike) -> Iterator[Path]:
    """Makes what becomes the new folder `path` when the block ends, if it ends well.

    Only for who holds the lock of `path`, as it clears what a kill has left. In a store a kill may
    leave some of its files, of which that is missing which was written last.
    """
    if isinstance(path, stores.StorePath):
        with stores.unfinished_folder(path) as unfinished:
            yield unfinished
        return
    path = Path(path)
    unfinished = locks.neighbour(path, ENDING)
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    try:
        yield unfinished
        os.replace(unfinished, path)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


@contextlib.contextmanager
def workplace(path: Path) -> Iterator[Path]:
    """Makes the new folder `path` for the time of the block, of which `put` takes what is ready.

    Of a store it lies on this machine's disk. What a kill has left there is cleared.
    """
    if isinstance(path, stores.StorePath):
        with stores.copies() as folder:
            yield folder
        return
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def put(file: Path, path: Path) -> None:
    """Moves a whole file from a `workplace` to where it belongs."""
    if isinstance(path, stores.StorePath):
        stores.upload(file, path)
        file.unlink()
    else:
        os.replace(file, path)


def text(path: str | os.PathLike, content: str, *, durable: bool = False) -> None:
    """Writes a text file as UTF-8; see `file`."""
    with file(path, durable=durable) as unfinished:
        unfinished.write(content.encode("utf-8"))


def flush(path: str | os.PathLike) -> None:
    """Waits until a file, or the list of what a folder holds, is on disk."""
    if isinstance(path, stores.StorePath):  # Where it is as soon as it is written.
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_folder(path: Path, *, strict: bool = False) -> None:
    """Removes a folder with all that is in it; as far as the system lets it, unless `strict`."""
    with contextlib.nullcontext() if strict else contextlib.suppress(OSError):
        if isinstance(path, stores.StorePath):
            stores.remove_folder(path)
        else:
            shutil.rmtree(path, ignore_errors=not strict)


class Growing:
    """A file that grows at its end: bytes are written, and flushed to let others see them.

    In a store a file can only be replaced as a whole. So `flush` does that there at most every
    `_PAUSE` seconds, unless it is to be `now`; `close` always does. What was there is kept.
    """

    def __init__(self, path: Path):
        self._path, self._flushed = path, time.monotonic()
        self._copy = contextlib.ExitStack()
        if isinstance(path, stores.StorePath):
            self._file = self._copy.enter_context(stores.unfinished(path))
            self._file.write(path.read_bytes() if path.exists() else b"")
        else:
            self._file = open(path, "ab")  # noqa: SIM115 - as long as it grows

    def write(self, data: bytes) -> None:
        self._file.write(data)

    def flush(self, *, now: bool = False) -> None:
        self._file.flush()
        late = time.monotonic() - self._flushed > _PAUSE
        if isinstance(self._path, stores.StorePath) and (now or late):
            stores.upload(Path(self._file.name), self._path)
            self._flushed = time.monotonic()

    def close(self) -> None:
        self._copy.close()
        self._file.close()
