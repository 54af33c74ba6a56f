"""Diving48, Moments in Time and Multi-Moments in Time.

Diving48's labels are numbers; the frames that its lists name are not used, as files differ from
them by one: a file's own length holds. A row of Moments in Time is a path, a class and the votes;
one of Multi-Moments a name and as many class numbers as it has.
"""

import pathlib
from collections.abc import Callable, Iterator

from jaxvid.base import text
from jaxvid.base.errors import JaxvidError
from jaxvid.data.prepare.annotations import Annotations, field
from jaxvid.data.prepare.entries import Classes, Entry, Listing, in_order
from jaxvid.data.prepare.options import Options

_LISTS = {
    "train": ("trainingSet.csv", "trainingSet.txt"),
    "val": ("validationSet.csv", "validationSet.txt"),
}


def parse_diving48(labels: tuple[str, ...], files: Annotations, options: Options) -> Listing:
    """Reads the two lists of version 2, and the vocabulary where it is.

    Raises:
      JaxvidError: there are none, or they are not the official ones.
    """
    classes = Classes(labels)
    order = files.find("Diving48_vocab.json")
    if order is not None:
        dives = files.json(order, list)
        if not all(isinstance(words, list) for words in dives):
            raise JaxvidError(f"{order} is no list of lists of words: take the official file")
        classes.check(["+".join(map(str, words)) for words in dives], str(order))

    def read(_: str, path: pathlib.Path) -> Iterator[Entry]:
        for place, row in enumerate(files.json(path, list)):
            where = f"{path} entry {place}"
            name = field(row, "vid_name", str, where)
            number = str(field(row, "label", int, where))
            yield Entry(name, (name,), (classes.number(number, where),), video=name)

    lists = {split: (f"Diving48_V2_{split}.json",) for split in ("train", "test")}
    return files.by_split(classes, lists, read)


def parse_mit(labels: tuple[str, ...], files: Annotations, options: Options) -> Listing:
    """Reads the two lists of Moments in Time.

    Raises:
      JaxvidError: there are none, or they are of another version.
    """
    return _parse(labels, files, lambda classes, cells, where: [classes.find(cells[0], where)])


def parse_mmit(labels: tuple[str, ...], files: Annotations, options: Options) -> Listing:
    """Reads the two lists of Multi-Moments in Time, whose rows have one class or more.

    Raises:
      JaxvidError: there are none, or they are of another version.
    """
    return _parse(
        labels, files, lambda classes, cells, where: [classes.number(c, where) for c in cells if c]
    )


def _parse(
    labels: tuple[str, ...],
    files: Annotations,
    classes_of: Callable[[Classes, list[str], str], list[str]],
) -> Listing:
    """Reads lists of names, of which `classes_of` reads the classes in the cells behind."""
    classes = Classes(labels)
    _check_categories(classes, files)

    def read(_: str, path: pathlib.Path) -> Iterator[Entry]:
        for where, (name, *cells) in files.cells(path):
            if not any(cells):
                raise JaxvidError(f"{where}: {text.quoted(name)} has no class beside it")
            yield Entry(name, (name,), tuple(dict.fromkeys(classes_of(classes, cells, where))))

    return files.by_split(classes, _LISTS, read)


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
