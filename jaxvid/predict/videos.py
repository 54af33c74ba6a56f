"""The video files of a folder."""

import collections
import os
import pathlib
from collections.abc import Iterator

from jaxvid.base import paths
from jaxvid.base.errors import JaxvidError
from jaxvid.base.text import say
from jaxvid.data.info import EXTENSIONS
from jaxvid.data.pictures import is_picture


def find_videos(path: str | os.PathLike) -> tuple[list[pathlib.Path], int]:
    """The video files of a folder and all below it, sorted, and how many other files there are.

    Links to folders are followed, each real folder once. A file stands for itself, whatever its
    name ends in, and so does a folder of frames, which holds pictures and no video.

    Raises:
      JaxvidError: there is no such file or folder, or no video in the folder.
    """
    path = paths.readable(paths.local(path, "--video"), "--video")
    if not path.is_dir():
        return [path], 0
    files = list(_files_below(path))
    videos = [
        file
        for file in files
        # What begins with a dot is a system's note about a file, not a video.
        if file.suffix.lower() in EXTENSIONS and not file.name.startswith(".")
    ]
    if not videos and any(file.parent == path and is_picture(file.name) for file in files):
        return [path], 0
    if not videos:
        raise JaxvidError(
            f"--video={path} holds no file that ends as a video does (.mp4, .avi, .mkv, ...): "
            "name a file to have it read whatever its ending"
        )
    return sorted(videos), len(files) - len(videos)


def _files_below(top: pathlib.Path) -> Iterator[pathlib.Path]:
    """All files of a folder and of those below it, also behind links, each real folder once.

    Links come last, so that a folder goes by its own path where it has one.
    """
    seen: set[tuple[int, int]] = set()
    waiting = collections.deque([os.fspath(top)])
    while waiting:
        for folder, inner, names in os.walk(waiting.popleft(), onerror=_say_unreadable):
            place = os.stat(folder)
            if (place.st_dev, place.st_ino) in seen:
                inner.clear()
                continue
            seen.add((place.st_dev, place.st_ino))
            inner.sort()
            below = [os.path.join(folder, name) for name in inner]
            waiting.extend(link for link in below if os.path.islink(link))
            yield from (pathlib.Path(folder, name) for name in names)


def _say_unreadable(error: OSError) -> None:
    say(f"warning: {error.filename} is left out ({error.strerror})", error=True)
