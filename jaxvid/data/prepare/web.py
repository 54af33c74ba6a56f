"""OmniSource and Sports-1M: what was found on the web for classes.

OmniSource's 200 classes are some of Kinetics-400's. Beside its clips, lists name pictures and
videos of the web, each set a split of its own: `webimage`, `googleimage`, `insimage`, `insvideo`,
and `rawclips` of the untrimmed videos. Sports-1M has addresses of YouTube with one class number or
more, and 487 names in their order.
"""

import hashlib
import pathlib
import re

from jaxvid.base import text
from jaxvid.base.errors import JaxvidError
from jaxvid.data.prepare.annotations import Annotations, field
from jaxvid.data.prepare.entries import Classes, Entry, Listing
from jaxvid.data.prepare.media import stem
from jaxvid.data.prepare.options import Options

_CLIPS = {"train": "k200_train.txt", "val": "k200_val.txt"}
_SETS = {
    "webimage": ("googleimage_200", "insimage_200"),
    "googleimage": ("googleimage_200",),
    "insimage": ("insimage_200",),
    "insvideo": ("insvideo_200",),
}
"""The lists of the web by split, and the folders that their paths are in."""
_RAW = "*kinetics_raw_200*.json"
_ADDRESS = re.compile(r"https?://(?:www\.)?youtube\.com/watch\?v=([\w-]+)")
_SPORTS = "0df67a130a1adb5b1c5177a070f3b347eb638ed05b3d16999514c50b548bedd9"
"""SHA-256 of Sports-1M's 487 names with line breaks between, which gives them their order."""


def parse_omnisource(files: Annotations, options: Options) -> Listing:
    """Reads the lists of clips and of those sets of the web that are there.

    Of a set's lists the one without videos of the validation set is taken.

    Raises:
      JaxvidError: there are none, or their classes are not 200.
    """
    names = [line for _, line in files.lines(files.need("k200_actions.txt"))]
    if len(names) != 200:
        raise JaxvidError(f"k200_actions.txt has {len(names)} classes and not 200")
    classes = Classes(names)
    listing = Listing(classes.names)
    for split, pattern in _CLIPS.items():
        path = files.find(pattern, split=split)
        if path is not None:
            folder = f"kinetics_200_{split}"
            rows = _rows(files, path, classes, (folder,))
            listing.add(split, path, rows)
    for split, folders in _SETS.items():
        path = files.find(f"*{split}_200_wodup.txt", f"{split}_200.txt")
        if path is not None:
            listing.add(split, path, _rows(files, path, classes, folders))
    path = files.find(_RAW)
    if path is not None:
        listing.add("rawclips", path, _raw(files, path, classes))
    if not listing.splits:
        raise files.lacking()
    return listing


def _rows(
    files: Annotations, path: pathlib.Path, classes: Classes, folders: tuple[str, ...]
) -> list[Entry]:
    """The rows `path label` of a list, whose paths start from one of some folders."""
    entries = []
    for where, line in files.lines(path):
        name, _, label = line.rpartition(" ")
        entries.append(Entry(name, (name,), (classes.number(label, where),), near=folders))
    return entries


def _raw(files: Annotations, path: pathlib.Path, classes: Classes) -> list[Entry]:
    """The clips of untrimmed videos of which a teacher was sure: `part_3.mp4` of their folder."""
    entries = []
    for place, row in enumerate(files.json(path, list)):
        where = f"{path} entry {place}"
        folder = field(row, "video_dir", str, where)
        label = classes.number(str(field(row, "label", int, where)), where)
        for number in field(row, "positive_clip_inds", list, where):
            name = f"{folder}/part_{number}"
            near = ("kinetics_raw_200_train",)
            entries.append(Entry(name, (name,), (label,), near=near, video=stem(folder)))
    return entries


def parse_sports1m(files: Annotations, options: Options) -> Listing:
    """Reads the two partitions, and the names of the classes.

    Raises:
      JaxvidError: there are none, or they are not the official ones.
    """
    order = files.need("labels.txt")
    names = [line for _, line in files.lines(order)]
    digest = hashlib.sha256("\n".join(names).encode()).hexdigest()
    if digest != _SPORTS:
        raise JaxvidError(f"{order} is not the official list of 487 names: take it")
    classes = Classes(names)
    listing = Listing(classes.names)
    for split in ("train", "test"):
        path = files.find(f"{split}_partition.txt", split=split)
        if path is None:
            continue
        entries = []
        for where, line in files.lines(path):
            address, _, numbers = line.partition(" ")
            match = _ADDRESS.fullmatch(address)
            if match is None:
                raise JaxvidError(f"{where}: {text.quoted(address)} is no address of a video")
            labels = [classes.number(number.strip(), where) for number in numbers.split(",")]
            entries.append(Entry(match[1], (match[1],), tuple(dict.fromkeys(labels))))
        listing.add(split, path, entries)
    if not listing.splits:
        raise files.lacking()
    return listing
