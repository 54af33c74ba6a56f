"""Something-Something and Jester: videos by number, or folders of frames; the names are templates.

Version 1 and Jester are CSVs with `;` and without a header, and a list of classes whose order
counts. Version 2 is JSON: the class of a video is its `template` without brackets, not its `label`,
and the classes' numbers may be texts.
"""

import pathlib
from collections.abc import Iterator

from jaxvid.base import text
from jaxvid.base.errors import JaxvidError
from jaxvid.data.prepare.annotations import Annotations, field
from jaxvid.data.prepare.entries import Classes, Entry, Listing, in_order
from jaxvid.data.prepare.options import Options

_SPLITS = {"train": "train", "val": "validation", "test": "test"}


def parse_csv(
    prefix: str, labels: tuple[str, ...], files: Annotations, options: Options
) -> Listing:
    """Reads the CSVs of Something-Something v1 or Jester, whose names begin with `prefix`.

    Raises:
      JaxvidError: there are none, or they are not the official ones.
    """
    classes = Classes(labels)
    order = files.find(f"{prefix}-labels.csv")
    if order is not None:
        classes.check([line for _, line in files.lines(order)], str(order))

    def read(split: str, path: pathlib.Path) -> Iterator[Entry]:
        for where, line in files.lines(path):
            number, separator, label = line.partition(";")
            if not number.isdecimal() or (split != "test" and not separator):
                raise JaxvidError(f"{where}: {text.quoted(line)} is no id;label")
            yield Entry(number, (number,), (classes.find(label, where),) if label else ())

    lists = {split: (f"{prefix}-{word}.csv",) for split, word in _SPLITS.items()}
    return files.by_split(classes, lists, read)


def parse_json(labels: tuple[str, ...], files: Annotations, options: Options) -> Listing:
    """Reads the JSON files of Something-Something v2, and the answers of its test where they are.

    Raises:
      JaxvidError: there are none, or they are not the official ones.
    """
    classes = Classes(labels)
    order = files.find("something-something-v2-labels.json", "labels.json")
    if order is not None:
        numbers = files.json(order, dict)
        classes.check(in_order(_numbers(numbers, order), str(order)), str(order))

    def read(split: str, path: pathlib.Path) -> list[Entry]:
        answers = _answers(files, classes) if split == "test" else {}
        entries = []
        for place, row in enumerate(files.json(path, list)):
            where = f"{path} entry {place}"
            number = str(field(row, "id", (str, int), where))
            if split == "test":
                names = (answers[number],) if number in answers else ()
            else:
                template = field(row, "template", str, where)
                label = template.replace("[", "").replace("]", "")
                names = (classes.find(label, where),)
            entries.append(Entry(number, (number,), names))
        if answers and not all(entry.labels for entry in entries):
            raise JaxvidError(f"test-answers.csv lacks videos of {path}: take the official file")
        return entries

    lists = {
        split: (f"something-something-v2-{word}.json", f"{word}.json")
        for split, word in _SPLITS.items()
    }
    return files.by_split(classes, lists, read)


def _numbers(numbers: dict[str, object], order: pathlib.Path) -> dict[str, int]:
    found = {}
    for name, number in numbers.items():
        if not str(number).isdecimal():
            raise JaxvidError(f"{order}: {text.quoted(name)} has no number: take the official file")
        found[name] = int(str(number))
    return found


def _answers(files: Annotations, classes: Classes) -> dict[str, str]:
    """The classes of the test videos by id, where `test-answers.csv` gives them."""
    path = files.find("test-answers.csv")
    if path is None:
        return {}
    found = {}
    for where, line in files.lines(path):
        number, _, label = line.partition(";")
        found[number] = classes.find(label, where)
    return found
