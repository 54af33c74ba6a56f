"""Categories of classes, of which a video may be annotated for some only, as those of HVU are.

The category of each class stands in `categories.txt`, line for line with `labels.txt`. HVU's own
classes are known without it.
"""

import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from jaxvid.base import text
from jaxvid.base.errors import JaxvidError, listed
from jaxvid.data import table

FILE = "categories.txt"
HVU = ("action", "attribute", "concept", "event", "object", "scene")


def read(folder: pathlib.Path, classes: Sequence[str]) -> tuple[str, ...]:
    """The category of each class by the folder's `categories.txt`, none where that is missing.

    Raises:
      JaxvidError: it has another number of lines than there are classes, or one that is no name.
    """
    path = folder / FILE
    if not path.is_file():
        return ()
    lines = text.read_lines(path, "categories")
    if len(lines) != len(classes):
        raise JaxvidError(
            f"{path} has {len(lines)} lines for {len(classes)} classes: write the category of each "
            "class of labels.txt, one a line"
        )
    return tuple(
        text.check_name(line, f"{path} line {number}", "category")
        for number, line in enumerate(lines, 1)
    )


def of_rows(
    rows: Sequence[table.Row],
    numbers: Mapping[str, Sequence[int]],
    classes: Sequence[str],
    folder: pathlib.Path,
    source: pathlib.Path,
) -> tuple[str, ...]:
    """The category of each class of a list, none where the list does not say what is annotated.

    Args:
        rows: those of the list.
        numbers: the classes of each row's label.
        classes: all of them.
        folder: where `categories.txt` may lie.
        source: the list, for messages.

    Raises:
      JaxvidError: a class has no category, or a row a category that none has, or a label of one
        for which it was not annotated.
    """
    if not any(row.annotated for row in rows):
        return ()
    found = read(folder, classes) or _of_hvu(classes)
    if not found:
        raise JaxvidError(
            f"{source} says what was annotated, but {folder / FILE} is missing: write the category "
            "of each class of labels.txt there, one a line"
        )
    known = frozenset(found)
    for row in rows:
        where = f"{source} line {row.line}"
        for name in row.annotated:
            if name not in known:
                raise JaxvidError(
                    f"{where}: {text.quoted(name)} is none of the categories "
                    f"{listed(sorted(known), separator=', ')}: correct it"
                )
        for number in numbers[row.label] if row.annotated else ():
            if found[number] not in row.annotated:
                raise JaxvidError(
                    f"{where}: the label {text.quoted(classes[number])} is of the category "
                    f"{found[number]}, which is not annotated there: add it, or remove the label"
                )
    return found


def _of_hvu(classes: Sequence[str]) -> tuple[str, ...]:
    """The categories of HVU's classes, none where one is not of HVU."""
    category = {tag: name for name in HVU for tag in text.read_names(pathlib.Path(f"hvu_{name}"))}
    return tuple(category[name] for name in classes) if set(classes) <= set(category) else ()


def known(categories: Sequence[str], annotated: Sequence[str]) -> np.ndarray:
    """Of which classes it is known whether a video has them, bool [classes]; none means all."""
    return np.isin(categories, annotated) if annotated else np.ones(len(categories), bool)
