"""Files that are there whole or not at all: written beside their place, and put there by a rename.

The unfinished file has one hidden name for each place, and is locked while it is written. So what a
kill leaves of it is overwritten by the next that writes there, and two processes that write the
same file do so one after the other.
"""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from jaxvid.base import locks

ENDING = ".part"


@contextlib.contextmanager
def file(path: str | os.PathLike, *, durable: bool = False) -> Iterator[BinaryIO]:
    """Opens what becomes the file `path` when the block ends, if it ends well.

    A link stays one, and what it leads to is written. `durable` files outlast a loss of power right
    after. Raises what the system says.
    """
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

    Only for who holds the lock of `path`, as it clears what a kill has left.
    """
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


def text(path: str | os.PathLike, content: str, *, durable: bool = False) -> None:
    """Writes a text file as UTF-8; see `file`."""
    with file(path, durable=durable) as unfinished:
        unfinished.write(content.encode("utf-8"))


def flush(path: str | os.PathLike) -> None:
    """Waits until a file, or the list of what a folder holds, is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
