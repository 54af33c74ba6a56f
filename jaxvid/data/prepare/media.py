"""Entries and the media on disk, brought together by their names."""

import collections
import dataclasses
import os
import pathlib
from collections.abc import Collection, Sequence

from jaxvid.base.errors import JaxvidError
from jaxvid.data.info import EXTENSIONS
from jaxvid.data.pictures import ENDINGS, frame_files
from jaxvid.data.prepare.entries import Entry, plain
from jaxvid.data.prepare.tree import Tree
from jaxvid.data.windows import WHOLE

_SPLITS = {
    "train": ("train", "training", "videostrain"),
    "val": ("val", "valid", "validation", "validate", "videosval"),
    "test": ("test", "testing"),
}
"""Folders that hold a split, as `plain` spells them."""
_ENDINGS = frozenset((*EXTENSIONS, *ENDINGS))
_REPLACED = "replacement"  # begins the folders of files that stand in for damaged ones


@dataclasses.dataclass(frozen=True)
class Match:
    """An entry and the path of its media, None where it has none.

    `broken` says what is wrong with a file that is there.
    """

    entry: Entry
    path: str | None
    broken: str = ""

    @property
    def name(self) -> str:
        """What records and messages call it: its path, with the part that it is."""
        return self.entry.window.name(self.path or "")


@dataclasses.dataclass
class Matches:
    """The matches of a split, in the order of its list, and how they came about.

    `respelled` counts those found under another spelling, `several` those of which more than one
    file was there and one was chosen, `shared` those whose file another entry has.
    """

    matches: list[Match] = dataclasses.field(default_factory=list)
    respelled: int = 0
    several: int = 0
    shared: int = 0

    @property
    def found(self) -> list[Match]:
        """Those whose media can be used."""
        return [match for match in self.matches if match.path and not match.broken]

    @property
    def missing(self) -> list[Match]:
        """Those that have none."""
        return [match for match in self.matches if match.path is None]


class Media:
    """What a folder holds, by name. `exact` names differ where their case or signs do.

    `classes` are names that a folder may have: a file in the folder of another class than an entry
    asks for is not its file. Of names `by_path` the folders tell them apart, as of `part_0.mp4`:
    nothing is found by its last part alone, unless all of a list is.
    """

    def __init__(self, tree: Tree, classes: Collection[str], exact: bool, by_path: bool):
        self._root, self._by_path = tree.root, by_path
        self._classes = {plain(name) for name in classes}
        self._paths = [*tree.videos, *tree.folders, *tree.pictures]
        self._tails: dict[int, dict[str, list[str]]] = {}
        self._plain: dict[str, list[str]] = collections.defaultdict(list)
        for path in () if exact else self._paths:
            self._plain[plain(stem(path))].append(path)

    def match(self, split: str, entries: Sequence[Entry]) -> Matches:
        """Finds the media of a split's entries; a file is one entry's, but where it has parts."""
        done = Matches()
        taken: set[str] = set()
        near = _SPLITS.get(split, (plain(split),))
        foreign = self._foreign(entries) if self._by_path else 0
        for entry in entries:
            path, respelled, several = self._find(entry, near, foreign)
            if path in taken:
                done.shared += 1
                path = None
            elif path is not None and entry.window == WHOLE:
                taken.add(path)
            if path is None:
                done.matches.append(Match(entry, None))
                continue
            done.respelled += respelled
            done.several += several
            done.matches.append(Match(entry, path, self._problem(path, entry.frames)))
        return done

    def _foreign(self, entries: Sequence[Entry]) -> int:
        """How many folders at the start of names are another machine's.

        They are the fewest without which half of the names are found that can be found at all. All
        names of a list are cut alike, so that none that is missing finds another's file.
        """
        names = [name for entry in entries for name in entry.files]
        found = {
            count: sum(bool(self._whole(_without(name, count))) for name in names)
            for count in range(1 + max(name.count("/") for name in names))
        }
        return next(count for count in found if 2 * found[count] >= max(found.values()))

    def _find(
        self, entry: Entry, near: Sequence[str], foreign: int
    ) -> tuple[str | None, bool, bool]:
        """The path of an entry's media, whether it is spelled otherwise, and one of several."""
        for respelled in (False, True):
            for name in entry.files:
                paths = self._called(_without(name, foreign), respelled)
                if paths:
                    paths = sorted(paths, key=lambda path: self._rank(path, name, entry, near))
                    return paths[0], respelled, len(paths) > 1
        return None, False, False

    def _called(self, name: str, respelled: bool) -> list[str]:
        """The paths that end in a name with its folders, else in its last part."""
        if respelled:
            found = self._plain.get(plain(stem(name)), [])
        elif whole := self._whole(name):
            return whole
        elif self._by_path:
            return []
        else:
            found = self._ending(1).get(stem(name), [])
        return [path for path in found if self._fits(path, name)]

    def _whole(self, name: str) -> list[str]:
        """The paths that end in a name with all its folders."""
        depth = name.count("/") + 1
        return self._ending(depth).get(_tail(name, depth), [])

    def _ending(self, depth: int) -> dict[str, list[str]]:
        """The paths by their last parts, so many of them."""
        if depth not in self._tails:
            table: dict[str, list[str]] = collections.defaultdict(list)
            for path in self._paths:
                table[_tail(path, depth)].append(path)
            self._tails[depth] = dict(table)
        return self._tails[depth]

    def _fits(self, path: str, name: str) -> bool:
        """Whether a file does not lie in the folder of another class than the one asked for."""
        wanted, there = plain(_folder(name)), plain(_folder(path))
        return not wanted or wanted == there or there not in self._classes

    def _rank(self, path: str, name: str, entry: Entry, near: Sequence[str]) -> tuple:
        """What decides among several files of one name: the least is taken."""
        folders = [plain(part) for part in path.split(os.sep)[:-1]]
        wanted = [plain(part) for part in name.split("/")[:-1]]
        alike = 0
        while alike < min(len(folders), len(wanted)) and folders[-1 - alike] == wanted[-1 - alike]:
            alike += 1
        return (
            -alike,
            not any(plain(folder) in folders for folder in entry.near),
            not any(folder.startswith(_REPLACED) for folder in folders),
            not any(folder in near for folder in folders),
            len(folders),
            path,
        )

    def _problem(self, path: str, frames: int | None) -> str:
        """What can be seen to be wrong with a file or folder without decoding it."""
        place = pathlib.Path(self._root, path)
        try:
            if place.is_file():
                return "" if place.stat().st_size else "is empty"
            if frames is None:
                return ""
            there = len(frame_files(place)[0])
            return f"has {there} frames, the list says {frames}" if there < frames else ""
        except OSError as error:
            return f"cannot be read ({error.strerror})"
        except JaxvidError as error:
            return str(error)


def stem(path: str) -> str:
    """The last part of a path, without what the name of a video or picture ends in."""
    name = path.rsplit("/", 1)[-1]
    return os.path.splitext(name)[0] if has_ending(name) else name


def has_ending(path: str) -> bool:
    """Whether a name ends as that of a video or picture does."""
    return os.path.splitext(path)[1].lower() in _ENDINGS


def _tail(path: str, depth: int) -> str:
    """The last parts of a path, as `stem` has the last of them."""
    return "/".join((*path.split("/")[-depth:-1], stem(path)))


def _without(name: str, count: int) -> str:
    """A name without so many folders at its start, or its last part."""
    parts = name.split("/")
    return "/".join(parts[count:] or parts[-1:])


def _folder(path: str) -> str:
    return path.split("/")[-2] if "/" in path else ""
