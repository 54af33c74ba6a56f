"""UCF101 and HMDB51: videos in folders of classes, and three official ways to split them.

UCF101's test lists have no labels: the folder is the class. The names of a few of its files differ
from the lists' in case. HMDB51 has a file for each class and fold, in which each video has a code:
1 for training, 2 for test, 0 for neither.
"""

import re

from jaxvid.base import text
from jaxvid.base.errors import JaxvidError
from jaxvid.data.prepare.annotations import Annotations
from jaxvid.data.prepare.entries import Classes, Entry, Listing, in_order
from jaxvid.data.prepare.options import Options

_CODES = {"1": "train", "2": "test", "0": ""}


def parse_ucf101(labels: tuple[str, ...], files: Annotations, options: Options) -> Listing:
    """Reads `classInd.txt` and the two lists of a fold.

    Raises:
      JaxvidError: one is missing, or they are not the official ones.
    """
    classes = Classes(labels)
    listing = Listing(classes.names, edition=f"ucf101-{options.fold}")
    order = files.find("classInd.txt")
    if order is not None:
        numbers = {}
        for where, line in files.lines(order):
            number, _, name = line.partition(" ")
            if not number.isdecimal():
                raise JaxvidError(f"{where}: {text.quoted(line)} is no number and class")
            numbers[name] = int(number) - 1
        classes.check(in_order(numbers, str(order)), str(order))
    for split in ("train", "test"):
        path = files.need(f"{split}list{options.fold:02d}.txt", split=split)
        entries = []
        for where, line in files.lines(path):
            name = re.sub(r" [0-9]+$", "", line)
            folder, slash, _ = name.partition("/")
            if not slash:
                raise JaxvidError(f"{where}: {text.quoted(line)} is no path below a class")
            entries.append(Entry(name, (name,), (classes.find(folder, where),)))
        listing.add(split, path, entries)
    return listing


def parse_hmdb51(labels: tuple[str, ...], files: Annotations, options: Options) -> Listing:
    """Reads the 51 files of a fold.

    Raises:
      JaxvidError: one is missing, or a line has no code.
    """
    classes = Classes(labels)
    listing = Listing(classes.names)
    unused = 0
    for label in classes.names:
        path = files.need(f"{label}_test_split{options.fold}.txt")
        found: dict[str, list[Entry]] = {"train": [], "test": []}
        for where, line in files.lines(path):
            name, _, code = line.rpartition(" ")
            if code not in _CODES or not name:
                raise JaxvidError(f"{where}: {text.quoted(line)} is no video and code 0, 1 or 2")
            if split := _CODES[code]:
                name = f"{label}/{name.strip()}"
                found[split].append(Entry(name, (name,), (label,)))
            else:
                unused += 1
        for split, entries in found.items():
            listing.splits.setdefault(split, []).extend(entries)
            listing.sources[split] = [str(path.parent)]
    listing.notes.append(f"used neither in training nor in test, as the lists say: {unused:,}")
    return listing
