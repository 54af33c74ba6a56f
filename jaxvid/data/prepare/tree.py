"""One walk of a folder: what may be annotations, videos, folders of frames, pictures, archives."""

import collections
import dataclasses
import os
import pathlib

from jaxvid.base import text
from jaxvid.base.progress import Progress
from jaxvid.data.info import EXTENSIONS
from jaxvid.data.pictures import is_picture

_ANNOTATIONS = frozenset((".csv", ".json", ".txt"))
_ARCHIVES = {
    ".7z": "7z",
    ".gz": "tar",
    ".rar": "unrar",
    ".tar": "tar",
    ".tgz": "tar",
    ".zip": "unzip",
}
"""Endings of archives, and the program that unpacks them."""


@dataclasses.dataclass
class Tree:
    """What lies in a folder and below, as paths from it; `folders` hold pictures.

    `archives` counts archives by their ending.
    """

    root: pathlib.Path
    annotations: list[str] = dataclasses.field(default_factory=list)
    videos: list[str] = dataclasses.field(default_factory=list)
    folders: list[str] = dataclasses.field(default_factory=list)
    pictures: list[str] = dataclasses.field(default_factory=list)
    archives: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)

    def describe(self) -> str:
        """What was found, in words."""
        kinds = {
            "videos": len(self.videos),
            "folders of pictures": len(self.folders),
            **{f"{ending} archives": count for ending, count in sorted(self.archives.items())},
        }
        return ", ".join(f"{count} {kind}" for kind, count in kinds.items() if count) or "no media"


def walk(root: pathlib.Path, but: pathlib.Path, pictures: bool = False) -> Tree:
    """Walks a folder once, behind links too, each real folder once, and not into `but`.

    Single `pictures` are kept only where they are asked for: frames are many.
    """
    tree = Tree(root)
    progress = Progress(None, f"walking {root}", " files")
    seen: set[tuple[int, int]] = set()
    if but.is_dir():
        place = but.stat()
        seen.add((place.st_dev, place.st_ino))
    waiting = collections.deque([""])
    while waiting:
        folder = waiting.popleft()
        below = os.path.join(root, folder)
        try:
            place = os.stat(below)
            if (place.st_dev, place.st_ino) in seen:
                continue
            seen.add((place.st_dev, place.st_ino))
            with os.scandir(below) as entries:
                found = sorted((entry.name, entry.is_dir()) for entry in entries)
        except OSError as error:
            text.say(f"warning: {below} is left out ({error.strerror})", error=True)
            continue
        progress.update(len(found))
        holds = False
        for name, is_folder in found:
            if name.startswith("."):
                continue  # A system's note about a file.
            path = os.path.join(folder, name)
            ending = os.path.splitext(name)[1].lower()
            if is_folder:
                waiting.append(path)
            elif is_picture(name):
                holds = True
                if pictures:
                    tree.pictures.append(path)
            elif ending in EXTENSIONS:
                tree.videos.append(path)
            elif ending in _ANNOTATIONS:
                tree.annotations.append(path)
            elif ending in _ARCHIVES:
                tree.archives[ending] += 1
        if holds and folder:
            tree.folders.append(folder)
    progress.close()
    return tree


def unpacked_by(ending: str) -> str:
    """The program that unpacks an archive of that ending."""
    return _ARCHIVES[ending]
