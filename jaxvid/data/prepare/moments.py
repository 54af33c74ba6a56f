"""Diving48, Moments in Time and Multi-Moments in Time.

Diving48's labels are numbers; the frames that its lists name are not used, as files differ from
them by one: a file's own length holds. A row of Moments in Time is a path, a class and the votes;
one of Multi-Moments a name and as many class numbers as it has.
"""

from jaxvid.base import text
from jaxvid.base.errors import JaxvidError
from jaxvid.data.prepare.annotations import Annotations, field
from jaxvid.data.prepare.entries import Classes, Entry, Listing, in_order
from jaxvid.data.prepare.options import Options

_SPLITS = {"train": "training", "val": "validation"}


def parse_diving48(labels: tuple[str, ...], files: Annotations, options: Options) -> Listing:
    """Reads the two lists of version 2, and the vocabulary where it is.

    Raises:
      JaxvidError: there are none, or they are not the official ones.
    """
    classes = Classes(labels)
    listing = Listing(classes.names)
    order = files.find("Diving48_vocab.json")
    if order is not None:
        dives = files.json(order, list)
        if not all(isinstance(words, list) for words in dives):
            raise JaxvidError(f"{order} is no list of lists of words: take the official file")
        classes.check(["+".join(map(str, words)) for words in dives], str(order))
    for split in ("train", "test"):
        path = files.find(f"Diving48_V2_{split}.json", split=split)
        if path is None:
            continue
        entries = []
        for place, row in enumerate(files.json(path, list)):
            where = f"{path} entry {place}"
            name = field(row, "vid_name", str, where)
            number = str(field(row, "label", int, where))
            entries.append(Entry(name, (name,), (classes.number(number, where),), video=name))
        listing.add(split, path, entries)
    if not listing.splits:
        raise files.lacking()
    return listing


def parse_mit(labels: tuple[str, ...], files: Annotations, options: Options) -> Listing:
    """Reads the two lists of Moments in Time.

    Raises:
      JaxvidError: there are none, or they are of another version.
    """
    classes = Classes(labels)
    listing = Listing(classes.names)
    _check_categories(classes, files)
    for split, word in _SPLITS.items():
        path = files.find(f"{word}Set.csv", split=split)
        if path is None:
            continue
        entries = []
        for where, cells in files.cells(path):
            if len(cells) < 2:
                raise JaxvidError(f"{where}: {text.quoted(cells[0])} has no class beside it")
            entries.append(Entry(cells[0], (cells[0],), (classes.find(cells[1], where),)))
        listing.add(split, path, entries)
    if not listing.splits:
        raise files.lacking()
    return listing


def parse_mmit(labels: tuple[str, ...], files: Annotations, options: Options) -> Listing:
    """Reads the two lists of Multi-Moments in Time, whose rows have one class or more.

    Raises:
      JaxvidError: there are none, or they are of another version.
    """
    classes = Classes(labels)
    listing = Listing(classes.names)
    _check_categories(classes, files)
    for split, word in _SPLITS.items():
        path = files.find(f"{word}Set.csv", f"{word}Set.txt", split=split)
        if path is None:
            continue
        entries = []
        for where, cells in files.cells(path):
            names = tuple(classes.number(cell, where) for cell in cells[1:] if cell)
            if not names:
                raise JaxvidError(f"{where}: {text.quoted(cells[0])} has no class beside it")
            entries.append(Entry(cells[0], (cells[0],), tuple(dict.fromkeys(names))))
        listing.add(split, path, entries)
    if not listing.splits:
        raise files.lacking()
    return listing


def _check_categories(classes: Classes, files: Annotations) -> None:
    """Refuses a list of another version, as the numbers of its classes are others."""
    path = files.find("moments_categories.txt")
    if path is None:
        return
    numbers = {}
    for where, line in files.lines(path):
        name, _, number = line.rpartition(",")
        if not number.strip().isdecimal():
            raise JaxvidError(f"{where}: {text.quoted(line)} is no class,number")
        numbers[name] = int(number)
    classes.check(in_order(numbers, str(path)), str(path))
