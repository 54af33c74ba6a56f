"""The one door through which every path enters that a user writes: flags, config fields, arguments.

Each function takes `what`, the flag, field or argument as the user writes it (`--out`,
`config.init`), and raises `JaxvidError` with one sentence that names it and the way out.
"""

import contextlib
import errno
import os
import re
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from jaxvid.base import stores
from jaxvid.base.errors import JaxvidError
from jaxvid.base.text import shown

if TYPE_CHECKING:
    import argparse

# Also as pathlib bends it: Path("gs://bucket") is gs:/bucket. One letter alone may be a drive.
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.:-]+):/|[A-Za-z]://")
_STREAMS = ("ftp", "http", "https", "rtmp", "rtmps", "rtp", "rtsp", "rtsps", "srt", "tcp", "udp")


def local(text: str | os.PathLike, what: str) -> Path:
    """The path of a local file or folder, whether it exists or not, with `~` as the user's home.

    A folder that really is called `gs:` or `~name` is reached as `./gs:` or `./~name`.
    """
    text = os.fsdecode(text)
    if not text:
        raise JaxvidError(f"{what} is empty: give a path")
    if "\0" in text:
        raise JaxvidError(f"{what}={text!r} has a NUL character, which no path can have: remove it")
    scheme = _SCHEME.match(text)
    if scheme:
        said = f"{what}={shown(text)}"
        name = (scheme[1] or "").lower()
        if name == "file":
            raise JaxvidError(f"{said} is an address: leave file:// out and give the path itself")
        if name in _STREAMS:
            raise JaxvidError(f"{said} is not a local folder or file: fetch it and give its path")
        raise JaxvidError(
            f"{said} is not a local folder or file: mount the bucket and give its path"
        )
    path = Path(_home(text, what) if text.startswith("~") else text)
    # `./~name` has lost its dot: whoever passes it through here again must get the same.
    meant = str(path).startswith("~") or _SCHEME.match(str(path))
    return path.absolute() if meant else path


def anywhere(text: str | os.PathLike, what: str) -> Path:
    """As `local`, or a path in an object store: `gs://bucket/key` or `s3://bucket/key`."""
    said = os.fsdecode(text)
    scheme = _SCHEME.match(said)
    name = ((scheme and scheme[1]) or "").lower()
    if name not in stores.CLIENTS:
        return local(text, what)
    key = said.partition(":")[2].strip("/")
    if not key or "\0" in key:
        raise JaxvidError(f"{what}={shown(said)} names no bucket: write {name}://bucket/folder")
    return stores.StorePath(f"{name}://{key}")


def arguments(
    args: "argparse.Namespace",
    *names: str,
    door: Callable[[str | os.PathLike, str], Path] = local,
) -> None:
    """Lets those of a command's arguments in that are paths; one that was not given stays None."""
    for name in names:
        if getattr(args, name) is not None:
            setattr(args, name, door(getattr(args, name), f"--{name.replace('_', '-')}"))


def in_utf8(path: str | os.PathLike, what: str, reader: str) -> Path:
    """As `anywhere`, of a path for a library that takes no names but those in UTF-8."""
    path = anywhere(path, what)
    try:
        os.fspath(path.absolute()).encode()
    except UnicodeEncodeError:
        raise JaxvidError(
            f"{what}={path} has a name that is not UTF-8, which {reader} cannot open: rename it, "
            "or choose another"
        ) from None
    return path


def readable(path: str | os.PathLike, what: str) -> Path:
    """As `anywhere`, of a file or folder that is there and may be read."""
    path = anywhere(path, what)
    try:
        folder = stat.S_ISDIR(path.stat().st_mode)
    except FileNotFoundError:
        raise JaxvidError(f"{what}={path} does not exist: give one that does") from None
    except (OSError, ValueError) as error:
        raise _unreadable(path, what, error) from None
    if isinstance(path, stores.StorePath):
        return path
    if not os.access(path, os.R_OK | (os.X_OK if folder else 0)):
        raise _unreadable(path, what, PermissionError(errno.EACCES, os.strerror(errno.EACCES)))
    return path


def writable(folder: str | os.PathLike, what: str) -> Path:
    """As `anywhere`, of a folder in which files can be made, to be asked before long work begins.

    It may be missing and its parents too, as long as they can be made; they are not made yet, so
    that a command which is refused later leaves nothing behind.
    """
    folder = anywhere(folder, what)
    with writing(folder, what):
        if isinstance(folder, stores.StorePath):
            stores.try_to_write(folder)
        else:
            _try_to_write(_existing(folder))
    return folder


def writable_file(path: str | os.PathLike, what: str) -> Path:
    """As `writable`, of a file: its folder can be written, and it is no folder itself."""
    path = anywhere(path, what)
    if path.is_dir():
        raise JaxvidError(f"{what}={path} is a folder: give the path of a file")
    writable(path.parent, what)
    return path


@contextlib.contextmanager
def writing(path: str | os.PathLike, what: str) -> Iterator[None]:
    """Says in one sentence what the system refused inside: a full disk, a read-only folder, ..."""
    try:
        yield
    except OSError as error:
        said = f"cannot write {what}={path} ({reason(error, path)})"
        raise JaxvidError(f"{said}: make room or choose another {what}") from error


def reason(error: BaseException, path: str | os.PathLike = "") -> str:
    """What the system refused, in few words, and of which file where that is not `path` itself."""
    said = getattr(error, "strerror", None) or str(error) or type(error).__name__
    name = getattr(error, "filename", None)
    if name is None or isinstance(name, int) or os.fsdecode(name) == os.fsdecode(path):
        return said
    return f"{said}: {os.fsdecode(name)}"


def cache() -> Path:
    """The folder for what is downloaded or generated once: that of XDG_CACHE_HOME, else of HOME."""
    root = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(root):  # Such a one is to be ignored, by the standard it comes from.
        try:
            root = _home("~/.cache", "the cache folder")
        except JaxvidError:
            raise JaxvidError(
                "there is no home folder to keep a cache in: set HOME or XDG_CACHE_HOME to a full "
                "path"
            ) from None
    return Path(root, "jaxvid")


def _home(text: str, what: str) -> str:
    user = text.partition("/")[0]
    # Python takes an empty HOME for the root, and a relative one as it is.
    lost = user == "~" and not os.path.isabs(os.environ.get("HOME", "/"))
    expanded = text if lost else os.path.expanduser(text)
    if expanded.startswith("~") and user == "~":
        raise JaxvidError(
            f"{what}={text}: there is no home folder that ~ stands for: set HOME to a full path, "
            "or give the path itself"
        )
    if expanded.startswith("~"):
        raise JaxvidError(
            f"{what}={text}: there is no user {user[1:]}: write ./{text} if that is its name"
        )
    return expanded


def _existing(folder: Path) -> Path:
    """The folder, or the nearest above it that exists; raises OSError where it cannot be made."""
    for place in (folder, *folder.parents):
        try:
            os.lstat(place)
        except (FileNotFoundError, NotADirectoryError):
            continue
        if not place.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), os.fspath(place))
        return place
    return Path()


def _try_to_write(folder: Path) -> None:
    """Writes a file without a name, as a full disk refuses only what has a content."""
    import tempfile

    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(4096))
    except OSError as error:  # Without the name that the file happened to have.
        raise OSError(error.errno, error.strerror, os.fspath(folder)) from None


def _unreadable(path: Path, what: str, error: BaseException) -> JaxvidError:
    return JaxvidError(f"{what}={path} cannot be read ({reason(error, path)}): give another path")
