"""One command at a time writes to a folder or a file; who comes second is told who is there.

A lock is held by the operating system on an open file and ends with its process, however that ends:
one of a dead process never stands in the way. The file says who holds it. It lies inside a folder
that is filled where it stands, since the folder above may be closed to the user, and beside what
comes into being by one rename, since that is not there yet. Whoever holds a lock removes its file
at the end, so that nothing is left of it; one that a kill left is taken over. In an object store,
where nothing ends with a process, such a file is a lease; see `jaxvid.base.leases`.
"""

import contextlib
import datetime
import hashlib
import json
import os
import re
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from jaxvid.base import leases, paths, stores
from jaxvid.base.errors import JaxvidError
from jaxvid.base.text import say

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # Windows, where two commands at once are not kept apart.
    fcntl = None

NAME = ".jaxvid-lock"
"""The file in a folder by which it is locked; it is none of what the folder holds."""

_PATIENCE = 0.5  # Seconds for a holder to write who it is, and between two looks at a lock.
_LONGEST = 160  # Characters of a command that are shown.


class _Held(Exception):
    """Another process holds the lock; `who` says which."""

    def __init__(self, who: str):
        self.who = who


class Lock(NamedTuple):
    """An open file that is locked, and where it lies."""

    descriptor: int
    path: Path


@contextlib.contextmanager
def hold(
    path: str | os.PathLike, what: str, *, beside: bool = False, wait: bool = False
) -> Iterator[None]:
    """Lets no other process write to `path` meanwhile.

    Args:
      path: a folder, which is made where it is missing; or, `beside`, what will be put in place by
        a rename, of which the folder above is made. What was made and is left empty goes again.
      what: the flag or field that named it, such as `--out`; '' where the path says all.
      beside: whether the lock lies beside `path` and not in it.
      wait: say who is there and wait for its end, in place of refusing.

    Raises:
      JaxvidError: another process is there, and the error names its machine, number, start and
        command; or the system lets no lock be made there, which is an OSError without `what`.
    """
    path = path if isinstance(path, stores.StorePath) else Path(path)
    file = neighbour(path, NAME) if beside else path / NAME
    if isinstance(file, stores.StorePath):
        with paths.writing(path, what) if what else contextlib.nullcontext():
            lease = leases.take(file, f"{what}={path}" if what else str(path), _card(), wait)
        with contextlib.closing(lease):
            yield
        return
    made: list[Path] = []
    try:
        with paths.writing(path, what) if what else contextlib.nullcontext():
            made += _make(file.parent)
            lock = _acquire(file, f"{what}={path}" if what else str(path), wait)
        try:
            yield
        finally:
            _release(lock)
    finally:
        for folder in made:
            with contextlib.suppress(OSError):  # It holds something, or is another's by now.
                folder.rmdir()


def neighbour(path: Path, ending: str) -> Path:
    """Returns a hidden name in the same folder that stands for `path`, whatever its length."""
    name = path.name
    if len(os.fsencode(name)) > 200:  # Of 255 bytes that most file systems have room for.
        name = hashlib.sha256(os.fsencode(name)).hexdigest()
    return path.with_name(f".{name.lstrip('.')}{ending}")


def take(file: Path, wait: bool) -> Lock:
    """Opens `file`, which is made where it is missing, and locks it.

    Raises `_Held` where another process has it and it is not waited for. On a file system without
    locks, as some clusters have, the file is opened all the same.
    """
    while True:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
        try:
            _lock(descriptor, wait)
            # The last holder may have removed it, and then it keeps nobody away any more.
            if _is_there(descriptor, file):
                return Lock(descriptor, file)
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _lock(descriptor: int, wait: bool) -> None:
    if fcntl is None:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        raise _Held(_who(descriptor)) from None
    except OSError as error:
        _say_once(
            f"note: this file system has no locks ({error.strerror}): see to it that only one "
            "command at a time writes here"
        )


def _is_there(descriptor: int, file: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(file))
    except FileNotFoundError:
        return False


def _acquire(file: Path, what: str, wait: bool) -> Lock:
    told = False
    while True:
        try:
            lock = take(file, wait=False)
        except FileNotFoundError:  # Who left made the folder, and took it away again.
            _make(file.parent)
        except _Held as held:
            if not wait:
                raise JaxvidError(
                    f"{what} is being written by {held.who}: wait for its end, or choose another "
                    "place"
                ) from None
            if not told:
                say(f"waiting for {held.who}, which writes {what}", error=True)
                told = True
            time.sleep(_PATIENCE / 5)
        else:
            with contextlib.suppress(OSError):  # A full disk: the lock holds all the same.
                os.ftruncate(lock.descriptor, 0)
                os.pwrite(lock.descriptor, json.dumps(_card()).encode(), 0)
            return lock


def _release(lock: Lock) -> None:
    """Removes the file while it is still held, so that no other process can have taken it."""
    with contextlib.suppress(OSError):
        if _is_there(lock.descriptor, lock.path):
            lock.path.unlink()
    os.close(lock.descriptor)


def _make(folder: Path) -> list[Path]:
    """Makes a folder and those above it; returns the ones that were missing, innermost first."""
    missing = []
    for each in (folder, *folder.parents):
        if each.exists():
            break
        missing.append(each)
    folder.mkdir(parents=True, exist_ok=True)
    return missing


def _card() -> dict[str, Any]:
    """Says who this process is, for others to read."""
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return {"host": socket.gethostname(), "pid": os.getpid(), "since": now, "command": _command()}


def _command() -> str:
    """How this process was started, without what only its user may know."""
    words = [os.path.basename(sys.executable or "python"), *getattr(sys, "orig_argv", sys.argv)[1:]]
    text = re.sub(r"(://)[^/@\s]*@", r"\1", " ".join(words))
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _who(descriptor: int) -> str:
    """Who holds a lock, from what its file says; the holder may be about to write that."""
    end = time.monotonic() + _PATIENCE
    while True:
        try:
            return leases.described(os.pread(descriptor, 4096, 0))
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            if time.monotonic() > end:
                return "another process"
            time.sleep(0.01)


def _say_once(text: str, said: set[str] = set()) -> None:  # noqa: B006 - it is to be kept
    if text not in said:
        said.add(text)
        say(text, error=True)
