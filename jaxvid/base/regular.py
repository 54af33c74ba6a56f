"""Files that are files: what a pipe or a device would give may never come, or never end."""

import errno
import io
import os
import stat
from pathlib import Path


def open_to_read(path: str | Path) -> io.FileIO:
    """Opens a regular file, unbuffered; raises `OSError` where it is none, and never waits."""
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, flags)
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        kind = errno.EISDIR if stat.S_ISDIR(mode) else 0
        raise OSError(kind, os.strerror(kind) if kind else "it is no regular file", str(path))
    return os.fdopen(descriptor, "rb", buffering=0)
