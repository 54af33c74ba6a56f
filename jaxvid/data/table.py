"""The CSV that says which videos there are and what is in them: columns `path` and `label`.

Labels are names or class numbers; several of one video stand in its one cell, as `run|jump`. A CSV
whose only column is `path` lists videos without labels, as pretraining takes them.
"""

import csv
import dataclasses
import os
import pathlib
from collections.abc import Sequence

from jaxvid.errors import JaxvidError

MAX_CLASSES = 100_000
"""A larger integer label is a mistake, not a class."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the CSV: where it stands, the video's path as written, its label as written."""

    line: int
    path: str
    label: str


def read(path: pathlib.Path) -> list[Row]:
    """Reads a CSV with the columns `path` and `label`, or `path` alone; others are ignored."""
    if not path.is_file():
        raise JaxvidError(f"{path} is not a file; give a CSV with the header path,label")
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            lines = csv.reader(file, strict=True)
            header = [name.strip().lower() for name in next(lines, [])]
            labelled = header != ["path"]
            missing = [name for name in ("path", "label") if name not in header and labelled]
            if missing:
                raise JaxvidError(
                    f"{path} has no column {' and no column '.join(missing)} in its first line "
                    f"({','.join(header)[:60]!r}); begin it with the header path,label"
                )
            rows = []
            for cells in lines:
                if not any(cell.strip() for cell in cells):
                    continue
                cells = dict(zip(header, (cell.strip() for cell in cells), strict=False))
                row = Row(lines.line_num, cells.get("path", ""), cells.get("label", ""))
                if not row.path or labelled and not row.label:
                    raise JaxvidError(
                        f"{path} line {row.line} has no {'label' if row.path else 'path'}; each "
                        "line must have both"
                    )
                rows.append(row)
    except (UnicodeDecodeError, csv.Error) as error:
        raise JaxvidError(f"{path} is not a CSV in UTF-8 ({error}); save it as one") from None
    if not rows:
        raise JaxvidError(f"{path} lists no video; add lines of path,label")
    return rows


def number_labels(
    rows: Sequence[Row], names: tuple[str, ...], source: pathlib.Path, way_out: str
) -> tuple[tuple[str, ...], dict[str, tuple[int, ...]]]:
    """Gives the labels of the rows their class numbers.

    With `names` a label is one of them, or its number; without, the names are the labels sorted,
    or, where all labels are integers, `0` to the largest. `way_out` is what to do about a label
    that is none of them. Rows without a label have no class.

    Returns:
        All class names, and a map from each row's label as written to its class numbers.
    """
    if not any(row.label for row in rows):
        return names, {"": ()}
    parts: dict[str, tuple[str, ...]] = {}
    first: dict[str, int] = {}
    for row in rows:
        parts[row.label] = _parts(row, names, source)
        for label in parts[row.label]:
            first.setdefault(label, row.line)
    integers = all(label.isdecimal() for label in first)
    if not names and integers:
        largest = max(first, key=int)
        if int(largest) >= MAX_CLASSES:
            raise JaxvidError(
                f"{source} line {first[largest]}: the label {largest} is too large for a class "
                "number; number the classes from 0, or write names"
            )
        names = tuple(str(number) for number in range(int(largest) + 1))
    elif not names:
        names = tuple(sorted(first))
    known = {name: number for number, name in enumerate(names)}
    if integers and not all(label in known for label in first):
        known = {label: int(label) for label in first if int(label) < len(names)}
    for label, line in first.items():
        if label not in known:
            raise JaxvidError(
                f"{source} line {line}: the label {label!r} is not one of the {len(names)} classes;"
                f" {way_out}"
            )
    return names, {
        text: tuple(dict.fromkeys(known[label] for label in labels))
        for text, labels in parts.items()
    }


def _parts(row: Row, names: tuple[str, ...], source: pathlib.Path) -> tuple[str, ...]:
    """The labels in one cell; a class may have a bar in its name."""
    if row.label in names:
        return (row.label,)
    labels = tuple(label.strip() for label in row.label.split("|"))
    if not all(labels):
        raise JaxvidError(
            f"{source} line {row.line}: {row.label!r} has an empty label beside a bar; remove the "
            "bar, or write the label"
        )
    return labels


def without_repeats(rows: Sequence[Row], source: pathlib.Path) -> tuple[list[Row], dict[str, str]]:
    """Keeps the first of rows that repeat a video; other labels for the same one are an error.

    Returns:
        The rows kept, and a map from the path of each other to why it was not.
    """
    first: dict[str, Row] = {}
    repeated: dict[str, str] = {}
    for row in rows:
        before = first.setdefault(os.path.normpath(row.path), row)
        if before.label != row.label:
            raise JaxvidError(
                f"{source} lines {before.line} and {row.line} label {row.path} both "
                f"{before.label!r} and {row.label!r}; keep one of them, or write both labels in "
                "one line with | between"
            )
        if before is not row:
            repeated[row.path] = f"repeated in line {row.line}; line {before.line} was kept"
    return list(first.values()), repeated
