"""Object stores: paths like `gs://bucket/key` and `s3://bucket/key`, and all that is asked there.

The only module that knows fsspec, whose clients (gcsfs, s3fs) talk to the stores. What they could
do by themselves is decided here once: nothing that was listed is kept, as others write too; a
request that fails or stalls is made again, and one that reads is not waited for longer than reading
takes. In the end what a store refuses is an `OSError`, as it is of a disk.

A store has no folders, no renames and no locks. A folder is there as long as something is in it, a
file is replaced at once or not at all, and `jaxvid.base.leases` stands in for locks.
"""

import contextlib
import errno
import fnmatch
import functools
import io
import logging
import os
import pathlib
import stat
from collections.abc import Callable, Coroutine, Generator, Iterable, Iterator, Sequence
from types import TracebackType
from typing import IO, Any, NamedTuple

from jaxvid.base.errors import JaxvidError

CLIENTS = {"gs": "gcsfs", "s3": "s3fs"}
"""The libraries that the schemes need."""

_TALKATIVE = ("aiobotocore", "botocore", "fsspec", "gcsfs", "s3fs")
_STALL = 2.0  # Seconds without an answer, of the first try; each other one is given twice as many.
_SLOWEST = 1 << 20  # Bytes a second.
_TRIES = 6
_AT_ONCE = 16  # Files that are copied at a time.
_FINAL = (
    FileNotFoundError,
    FileExistsError,
    PermissionError,
    IsADirectoryError,
    NotADirectoryError,
    ImportError,
    TypeError,
)
_CODES = {FileNotFoundError: errno.ENOENT, PermissionError: errno.EACCES}
_FINAL_CODES = {errno.EINVAL, errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG}
_NO_SUCH_RANGE = 416
_FINAL_NAMES = {"NoCredentialsError", "PartialCredentialsError", "ParamValidationError"}


class StorePath(pathlib.PosixPath):
    """A path in a store, with what this library asks of paths.

    The system's own functions (`os`, `open`) and `pathlib.Path(path)` know nothing of stores.
    `open`, and with it what reads and writes text or bytes, holds all of a file in memory: large
    ones go through `at_hand` and `upload`.
    """

    def __str__(self) -> str:
        scheme, _, key = super().__str__().partition(":/")
        return f"{scheme}://{key}"

    @property
    def parent(self) -> "StorePath":
        """The folder above; a bucket's is itself."""
        return self if len(self.parts) < 3 else super().parent

    @property
    def parents(self) -> Sequence["StorePath"]:
        """The folders above, up to the bucket."""
        above = []
        path = self
        while path.parent != path:
            path = path.parent
            above.append(path)
        return above

    def is_absolute(self) -> bool:
        return True

    def absolute(self) -> "StorePath":
        return self

    def resolve(self, strict: bool = False) -> "StorePath":
        return self

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        return _stat(_ask(self, "info", str(self)))

    def lstat(self) -> os.stat_result:
        return self.stat()

    def exists(self, *, follow_symlinks: bool = True) -> bool:
        with contextlib.suppress(FileNotFoundError):
            self.stat()
            return True
        return False

    def is_file(self, *, follow_symlinks: bool = True) -> bool:
        with contextlib.suppress(FileNotFoundError):
            return stat.S_ISREG(self.stat().st_mode)
        return False

    def is_dir(self, *, follow_symlinks: bool = True) -> bool:
        with contextlib.suppress(FileNotFoundError):
            return stat.S_ISDIR(self.stat().st_mode)
        return False

    def is_symlink(self) -> bool:
        return False

    def iterdir(self) -> Generator["StorePath", None, None]:
        """What the folder holds, in order of the names; none where there is no such folder."""
        yield from [self / name for name in sorted(listing(self))]

    def glob(  # type: ignore[override]  # of names alone
        self, pattern: str, **_: Any
    ) -> Iterator["StorePath"]:
        """Those of `iterdir` whose names are like the pattern, which has no `/`."""
        return (each for each in self.iterdir() if fnmatch.fnmatchcase(each.name, pattern))

    def rglob(  # type: ignore[override]  # of names alone
        self, pattern: str, **_: Any
    ) -> Iterator["StorePath"]:
        """All files below the folder whose names are like the pattern."""
        names = (
            name
            for name in below(self)
            if fnmatch.fnmatchcase(pathlib.PurePath(name).name, pattern)
        )
        return (self / name for name in names)

    def open(  # type: ignore[override]  # pathlib's has an overload for each mode
        self,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
    ) -> IO[Any]:
        """A file in memory, which is written to the store when it is closed."""
        if "w" in mode:
            file: io.BytesIO = _Written(self, b"")
        elif "a" in mode:
            file = _Written(self, self.read_bytes() if self.exists() else b"")
        else:
            file = io.BytesIO(_read(self))
        if "b" in mode:
            return file
        return _Text(file, encoding or "utf-8", errors, newline)

    def touch(self, mode: int = 0o666, exist_ok: bool = True) -> None:
        if not self.exists():
            write(self, b"")

    def mkdir(self, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        """Does nothing: a folder is there as soon as something is in it."""

    def rmdir(self) -> None:
        """Does nothing: a folder goes with the last that is in it."""

    def unlink(self, missing_ok: bool = False) -> None:
        if not missing_ok:
            self.stat()
        with contextlib.suppress(FileNotFoundError):
            _ask(self, "rm_file", str(self))

    def replace(self, target: str | os.PathLike) -> "StorePath":
        """Moves a file within the store: it is there twice for a moment, and never not at all."""
        _ask(self, "cp_file", str(self), str(target), size=self.stat().st_size)
        self.unlink(missing_ok=True)
        return StorePath(target)


_MANY = 16 << 20
"""Bytes that are waited for of a listing, of which it is not known how long it is."""


class Found(NamedTuple):
    """A file of a listing: its bytes, and a mark that changes with its content."""

    size: int
    mark: str


class Unreachable(JaxvidError):
    """A store could not be reached in time: nothing is wrong with what lies there."""


class _Written(io.BytesIO):
    """A file in memory that is written to its place when it is closed, unless by an error."""

    def __init__(self, path: StorePath, content: bytes):
        super().__init__()
        self.write(content)
        self._path: StorePath | None = path

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None:
            self.drop()
        self.close()

    def drop(self) -> None:
        """Lets nothing be written."""
        self._path = None

    def close(self) -> None:
        path, self._path = self._path, None
        if path is not None:
            write(path, self.getvalue())
        super().close()


class _Text(io.TextIOWrapper):
    """A text in memory, which is written as `_Written` is."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None and isinstance(self.buffer, _Written):
            self.buffer.drop()
        self.close()


def listing(folder: StorePath) -> dict[str, Found]:
    """What lies in a folder, by name, in one request for a thousand; a folder there has size -1."""
    with contextlib.suppress(FileNotFoundError):
        found = _ask(folder, "ls", str(folder), detail=True, size=_MANY)
        own = _key(folder)
        names = {info["name"].rstrip("/"): info for info in found}
        return {
            name.rpartition("/")[2]: _found(info) for name, info in names.items() if name != own
        }
    return {}


def below(folder: StorePath) -> dict[str, Found]:
    """All files below a folder, by their paths from there, in one request for a thousand."""
    own = _key(folder)
    found = _ask(folder, "find", str(folder), detail=True, size=_MANY)
    return {name.removeprefix(f"{own}/"): _found(info) for name, info in found.items()}


def path_of(text: str | os.PathLike) -> pathlib.Path:
    """The path that the text of one stands for, of a store or of the disk."""
    if os.fspath(text).startswith(tuple(f"{scheme}://" for scheme in CLIENTS)):
        return StorePath(text)
    return pathlib.Path(text)


def read_ranges(path: StorePath, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
    """Bytes of a file, each from a start to a stop, all asked for at once."""
    import asyncio

    client = _client(path)

    async def read_all() -> list[bytes]:
        return await asyncio.gather(
            *(
                _patiently(
                    functools.partial(client._cat_file, str(path), start=start, end=stop),
                    stop - start,
                )
                for start, stop in ranges
            )
        )

    return _wait(path, client, read_all)


def _read(path: StorePath) -> bytes:
    """All of a file, in one request, so that it is of one moment."""
    try:
        return bytes(_ask(path, "cat_file", str(path), start=0))
    except OSError as error:
        # Of an empty file there is no range.
        if error.errno != errno.EINVAL or path.stat().st_size:
            raise
        return b""


def write(path: StorePath, data: bytes, *, new: bool = False) -> None:
    """Writes a file; raises `FileExistsError` where it is to be `new` and is there already."""
    how = {"mode": "create"} if new else {}
    try:
        _ask(path, "pipe_file", str(path), data, size=len(data), **how)
    except FileNotFoundError:
        raise FileNotFoundError(errno.ENOENT, "there is no such bucket", str(path)) from None
    except OSError:
        if new and path.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from None
        raise


def try_to_write(folder: StorePath) -> None:
    """Writes a file into a folder and removes it; raises `OSError` where that may not be."""
    path = folder / f".jaxvid-try-{os.urandom(4).hex()}"
    write(path, b"")
    path.unlink(missing_ok=True)


def upload(local: pathlib.Path, path: StorePath) -> None:
    """Copies a file to the store: in its place there is the old one or all of the new one."""
    _ask(path, "put_file", str(local), str(path), size=local.stat().st_size)


def upload_folder(local: pathlib.Path, folder: StorePath) -> None:
    """Copies all files below a folder to the store, that which was written last as the last."""
    files = [path for path in local.rglob("*") if path.is_file()]
    *others, last = sorted(files, key=lambda path: path.stat().st_mtime_ns)

    def copy(path: pathlib.Path) -> None:
        upload(path, folder / path.relative_to(local).as_posix())

    _side_by_side(copy, others)
    copy(last)


def download_folder(folder: StorePath, local: pathlib.Path) -> None:
    """Copies all files below a folder of the store."""
    found = below(folder)

    def copy(name: str) -> None:
        inner = local / name
        inner.parent.mkdir(parents=True, exist_ok=True)
        _ask(folder, "get_file", str(folder / name), str(inner), size=found[name].size)

    _side_by_side(copy, found)


def remove_folder(folder: StorePath) -> None:
    """Removes all files below a folder."""
    _side_by_side(lambda name: (folder / name).unlink(missing_ok=True), below(folder))


@contextlib.contextmanager
def unfinished(path: StorePath) -> Iterator[IO[bytes]]:
    """Opens a file of the disk that is copied to its place when the block ends, if it ends well."""
    import tempfile

    with tempfile.NamedTemporaryFile(prefix="jaxvid-") as file:
        yield file
        file.flush()
        upload(pathlib.Path(file.name), path)


@contextlib.contextmanager
def unfinished_folder(folder: StorePath) -> Iterator[pathlib.Path]:
    """As `unfinished`, of a folder."""
    with copies() as local:
        yield local
        upload_folder(local, folder)


@contextlib.contextmanager
def copies() -> Iterator[pathlib.Path]:
    """An empty folder of the disk for as long as the block lasts."""
    import tempfile

    with tempfile.TemporaryDirectory(prefix="jaxvid-") as name:
        yield pathlib.Path(name)


@contextlib.contextmanager
def at_hand(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """A file of a disk with what `path` holds: itself, or a copy for as long as the block lasts."""
    if not isinstance(path, StorePath):
        yield pathlib.Path(path)
        return
    with copies() as folder:
        local = folder / path.name
        _ask(path, "get_file", str(path), str(local), size=path.stat().st_size)
        yield local


def _side_by_side(work: Callable[[Any], None], items: Iterable[Any]) -> None:
    from concurrent import futures

    with futures.ThreadPoolExecutor(_AT_ONCE) as pool:
        for done in [pool.submit(work, item) for item in items]:
            done.result()


def _key(path: StorePath) -> str:
    """A path as the clients name it: bucket and key."""
    return str(path).partition("://")[2]


def _found(info: dict[str, Any]) -> Found:
    if info["type"] == "directory":
        return Found(-1, "")
    return Found(int(info["size"]), str(info.get("ETag") or info.get("etag") or ""))


def _stat(info: dict[str, Any]) -> os.stat_result:
    """What a client says of a file, as systems say it."""
    import datetime

    when = info.get("LastModified") or info.get("mtime") or info.get("updated") or 0.0
    if isinstance(when, str):
        when = datetime.datetime.fromisoformat(when)
    seconds = when.timestamp() if isinstance(when, datetime.datetime) else float(when)
    mode = (stat.S_IFDIR if info["type"] == "directory" else stat.S_IFREG) | 0o777
    size, whole = int(info["size"] or 0), int(seconds)
    times = (whole, whole, whole)
    return os.stat_result(
        (mode, 0, 0, 1, 0, 0, size, *times),
        {"st_mtime": seconds, "st_mtime_ns": round(1e9 * seconds)},
    )


def _client(path: StorePath) -> Any:
    return _client_of(str(path).partition("://")[0], os.getpid())


@functools.cache
def _client_of(scheme: str, process: int) -> Any:
    """The one client of a scheme in this process."""
    try:
        import fsspec

        kind = fsspec.get_filesystem_class(scheme)
    except ImportError:
        raise JaxvidError(
            f"{scheme}:// needs {CLIENTS[scheme]}: pip install 'jaxvid[stores]'"
        ) from None
    how: dict[str, Any] = {"use_listings_cache": False, "skip_instance_cache": True}
    if scheme == "s3":
        how["config_kwargs"] = {
            "connect_timeout": 5,
            "read_timeout": 10,
            "max_pool_connections": 64,
            "retries": {"total_max_attempts": 1},  # Which would multiply with s3fs's.
        }
        _retry_what_s3_failed_at()
    for name in _TALKATIVE:  # What matters they also raise.
        logging.getLogger(name).setLevel(logging.CRITICAL)
    client = kind(**how)
    if hasattr(client, "connect"):  # Else the first request would have to wait for it.
        client.connect()
    return client


def _retry_what_s3_failed_at() -> None:
    """Lets s3fs make each part of an upload again, by itself, where the store was at fault."""
    from s3fs.core import set_custom_error_handler

    def at_fault(error: Exception) -> bool:
        response = getattr(error, "response", None) or {}
        return int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)) >= 500

    set_custom_error_handler(at_fault)


def _ask(path: StorePath, what: str, *args: Any, size: int = 0, **how: Any) -> Any:
    """Lets a client do something, of which about `size` bytes have to travel."""
    client = _client(path)
    call = functools.partial(getattr(client, f"_{what}"), *args, **how)
    return _wait(path, client, lambda: _patiently(call, size))


def _wait(path: StorePath, client: Any, work: Callable[[], Coroutine]) -> Any:
    """The result of what is done in the thread of the clients; raises `OSError` of `path`."""
    from fsspec import asyn

    try:
        return asyn.sync(client.loop, work)
    except OSError as error:
        if error.filename is not None:
            raise
        code = next((code for kind, code in _CODES.items() if isinstance(error, kind)), error.errno)
        said = os.strerror(errno.ENOENT) if code == errno.ENOENT else str(error.strerror or error)
        raise OSError(code or errno.EIO, _first_line(said), str(path)) from error


async def _patiently(call: Callable[[], Coroutine], size: int) -> Any:
    """Makes a request again where it fails or stalls, with longer and longer pauses."""
    import asyncio

    for attempt in range(_TRIES):
        try:
            return await asyncio.wait_for(call(), (_STALL + size / _SLOWEST) * 2**attempt)
        except Exception as error:  # Clients raise what the libraries below them do.
            if _is_final(error):
                raise
            if getattr(error, "code", None) == _NO_SUCH_RANGE:  # gcsfs's own class
                raise OSError(errno.EINVAL, "there is no such range") from error
            if attempt == _TRIES - 1:
                said = str(error) or type(error).__name__
                raise OSError(errno.EIO, f"{_TRIES} tries failed, the last with {said}") from error
        await asyncio.sleep(0.1 * 2**attempt)
    raise AssertionError


def _is_final(error: Exception) -> bool:
    """Whether the same request would fail again."""
    if type(error).__name__ in _FINAL_NAMES:
        raise PermissionError(errno.EACCES, _first_line(str(error))) from error
    return isinstance(error, _FINAL) or getattr(error, "errno", None) in _FINAL_CODES


def _first_line(text: str) -> str:
    return next(iter(text.strip().splitlines()), "")
