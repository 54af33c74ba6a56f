"""The CSV that says which videos there are and what is in them: columns `path` and `label`.

Labels are names or class numbers; several of one video stand in its one cell, as `run|jump`, where
one that is there twice counts once. Labels are numbers where all are 0 or begin with another digit:
`007` is a name. A CSV whose only column is `path` lists videos without labels, as pretraining takes
them. With `start` and `end`, in seconds, a line is that part of its video only; `annotated`
are the categories of labels that were looked for, as `action|scene`; `fps` are the frames a second
of a folder of frames, which does not say it itself. What may stand in a cell is
decided in `jaxvid.base.text`.
"""

import csv
import dataclasses
import os
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence

from jaxvid.base import stores, text
from jaxvid.base.errors import JaxvidError
from jaxvid.data import bounds, windows
from jaxvid.data.windows import Window

MAX_CLASSES = text.MAX_CLASSES
"""A larger integer label is a mistake, not a class."""
_COLUMNS = ("path", "label", "start", "end", "annotated", "fps")
_MAX_PATH = 4096
_BYTES = re.compile("[\udc80-\udcff]")  # that are not UTF-8
_INTEGER = re.compile("0|[1-9][0-9]*")
_DIGITS = re.compile("[0-9]+")
_NUMERIC = re.compile(r"[+-]?[0-9]+([.,][0-9]*)?([eE][+-]?[0-9]+)?")


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the CSV: where it stands, the video's path and its label as written.

    `window` is the part of the video that is meant, `annotated` the categories of labels that were
    looked for; none means all. `fps` is its rate where the list says it.
    """

    line: int
    path: str
    label: str
    window: Window = windows.WHOLE
    annotated: tuple[str, ...] = ()
    fps: float | None = None

    @property
    def name(self) -> str:
        """What tells the line's video apart: its path, with the window if it has one."""
        return self.window.name(self.path)


def read(path: pathlib.Path) -> list[Row]:
    """Reads a CSV with the columns `path` and `label`, or without labels.

    It may have the columns `start`, `end`, `annotated` and `fps`; others are ignored.

    Empty lines and empty cells beyond the header's, as spreadsheets write them, are passed over.

    Raises:
      JaxvidError: a line has too many cells or too few, holds a line break or a control character
        or is not UTF-8, or there is no such file or column; it says which line.
    """
    rows = []
    for line, cells in lines(path):
        where = f"{path} line {line}"
        window = windows.read(cells.get("start", ""), cells.get("end", ""), where)
        annotated = _categories(cells.get("annotated", ""), where)
        fps = _rate(cells.get("fps", ""), where)
        rows.append(Row(line, cells["path"], cells.get("label", ""), window, annotated, fps))
    if not rows:
        raise JaxvidError(f"{path} lists no video; add lines of path,label")
    return rows


def lines(path: pathlib.Path) -> Iterator[tuple[int, dict[str, str]]]:
    """The lines of such a CSV below its header, each with its number, as cells by column.

    Raises:
      JaxvidError: see `read`.
    """
    if not path.is_file():
        raise JaxvidError(f"{path} is not a file; give a CSV with the header path,label")
    header: list[str] = []
    for line, cells in _lines(path):
        if not header:
            header = _header(path, cells)
            continue
        cells = [text.one_line(cell, f"{path} line {line}", "cell") for cell in cells]
        while len(cells) > len(header) and not cells[-1]:
            del cells[-1]
        _check_count(cells, header, f"{path} line {line}")
        named = dict(zip(header, cells, strict=True))
        if not named["path"] or "label" in named and not named["label"]:
            raise JaxvidError(
                f"{path} line {line} has no {'label' if named['path'] else 'path'}; each line must "
                "have both"
            )
        if len(named["path"]) > _MAX_PATH:
            raise JaxvidError(
                f"{path} line {line}: the path {text.quoted(named['path'], 20)} is longer than any "
                f"system takes ({_MAX_PATH}): shorten it"
            )
        yield line, named
    if not header:
        _header(path, header)


def _categories(cell: str, where: str) -> tuple[str, ...]:
    """The categories in a cell, each once."""
    names = cell.split("|") if cell else []
    return tuple(dict.fromkeys(text.check_name(name, where, "category") for name in names))


def _rate(cell: str, where: str) -> float | None:
    """A rate in frames a second; an empty cell says nothing."""
    if not cell:
        return None
    try:
        rate = float(cell)
    except ValueError:
        rate = 0.0
    if not 0 < rate <= bounds.MAX_FPS:
        raise JaxvidError(
            f"{where}: {text.quoted(cell, 20)} is no fps, a number of frames a second up to "
            f"{bounds.MAX_FPS}: correct it, or leave the cell empty"
        )
    return rate


def _check_count(cells: Sequence[str], header: Sequence[str], where: str) -> None:
    """Refuses a line that has more cells than the header, or fewer."""
    have = f"{len(cells)} cell{'s' * (len(cells) != 1)}, the header {len(header)}"
    if len(cells) > len(header):
        raise JaxvidError(f"{where} has {have}: quote what holds a comma")
    if len(cells) < len(header):
        lacking = [name for name in header[len(cells) :] if name in ("path", "label")]
        what = f"no {lacking[0]}: it has {have}" if lacking else f"{have}: write all of them"
        raise JaxvidError(f"{where} has {what}")


def _lines(path: pathlib.Path) -> Iterator[tuple[int, list[str]]]:
    """The lines of a CSV that are not empty, with their numbers."""
    with path.open("rb") as file:
        text.check_utf8(path, file.read(4))
    # What is not UTF-8 is found where it stands, not where a block of the file ends.
    with path.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
        # Unless spaces after a comma are skipped, a quote behind them is none.
        reader = csv.reader(file, strict=True, skipinitialspace=True)
        line = 1
        try:
            for cells in reader:
                # A quote that is never meant to be one swallows lines up to the next.
                if any("\n" in cell or "\r" in cell for cell in cells):
                    raise JaxvidError(
                        f"{path} line {line} has a line break in a cell: close its quote, or "
                        "remove the break"
                    )
                if _BYTES.search(",".join(cells)):
                    held = text.quoted(",".join(cells))
                    raise JaxvidError(
                        f"{path} is not a CSV in UTF-8 (line {line} holds {held}); save it as one"
                    )
                if any(cell.strip() for cell in cells):
                    yield line, cells
                line = reader.line_num + 1
        except csv.Error as error:
            raise JaxvidError(
                f"{path} is not a CSV from line {line} on ({error}): mend it"
            ) from None


def _header(path: pathlib.Path, cells: Sequence[str]) -> list[str]:
    """The columns' names, among them `path`, and `label` where that is not alone."""
    separator = next((sign for sign in ";\t|" if sign in ",".join(cells)), "")
    if separator and "path" not in ",".join(cells).lower().split(","):
        raise JaxvidError(
            f"{path} separates its cells by {separator!r}: save it with commas between them"
        )
    header = [text.one_line(cell, f"{path} line 1", "column").lower() for cell in cells]
    while header and not header[-1]:
        del header[-1]
    labelled = not {"path"} <= {*header} <= {*_COLUMNS} - {"label"}
    missing = [name for name in ("path", "label") if name not in header and labelled]
    if missing:
        raise JaxvidError(
            f"{path} has no column {' and no column '.join(missing)} in its first line "
            f"({text.quoted(','.join(header), 60)}); begin it with the header path,label"
        )
    twice = next((name for name in _COLUMNS if header.count(name) > 1), None)
    if twice:
        raise JaxvidError(f"{path} has two columns {twice!r}: leave one of them out")
    return header


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
    known = {name: number for number, name in enumerate(names)}
    parts: dict[str, tuple[str, ...]] = {}
    first: dict[str, int] = {}
    for row in rows:
        if row.label not in parts:
            parts[row.label] = _parts(row, known, source)
            for label in parts[row.label]:
                first.setdefault(label, row.line)
    integers = all(_INTEGER.fullmatch(label) for label in first)
    if not names:
        names = _numbered(first, source) if integers else _sorted(first, source)
        known = {name: number for number, name in enumerate(names)}
    elif integers and not all(label in known for label in first):
        digits = len(str(len(names)))
        known = {label: int(label) for label in first if len(label) <= digits}
        known = {label: number for label, number in known.items() if number < len(names)}
    for label, line in first.items():
        if label not in known:
            near = next((name for name in names if text.plain(name) == text.plain(label)), None)
            raise JaxvidError(
                f"{source} line {line}: the label {text.quoted(label)} is not one of the "
                f"{len(names)} classes{f' (one is {text.quoted(near)})' if near else ''}; {way_out}"
            )
    return names, {
        cell: tuple(dict.fromkeys(known[label] for label in labels))
        for cell, labels in parts.items()
    }


def _numbered(first: Mapping[str, int], source: pathlib.Path) -> tuple[str, ...]:
    """The names `0` to the largest of integer labels, which `first` maps to their lines."""
    largest = max(first, key=lambda label: (len(label), label))
    if int(largest) >= MAX_CLASSES:
        raise JaxvidError(
            f"{source} line {first[largest]}: the label {text.quoted(largest, 20)} is too large for"
            " a class number; number the classes from 0, or write names"
        )
    return tuple(str(number) for number in range(int(largest) + 1))


def _sorted(first: Mapping[str, int], source: pathlib.Path) -> tuple[str, ...]:
    """The labels, sorted, as names; where all are numbers, none is negative or has a point."""
    if all(_NUMERIC.fullmatch(label) for label in first):
        wrong = next((label for label in first if not _DIGITS.fullmatch(label)), None)
        if wrong:
            raise JaxvidError(
                f"{source} line {first[wrong]}: the label {text.quoted(wrong)} is no class number; "
                "number the classes 0, 1, ..., or write names"
            )
    if len(first) > MAX_CLASSES:
        raise JaxvidError(
            f"{source} has {len(first)} different labels: there are at most {MAX_CLASSES} classes"
        )
    return tuple(sorted(first))


def _parts(row: Row, known: Mapping[str, int], source: pathlib.Path) -> tuple[str, ...]:
    """The labels in one cell; a class of those that are `known` may have a bar in its name."""
    where = f"{source} line {row.line}"
    if text.normal(row.label) in known:
        return (text.normal(row.label),)
    labels = [label.strip() for label in row.label.split("|")]
    if not all(labels):
        raise JaxvidError(
            f"{where}: {text.quoted(row.label)} has an empty label beside a bar; remove the bar, or"
            " write the label"
        )
    return tuple(text.check_name(label, where, "label") for label in labels)


def without_repeats(rows: Sequence[Row], source: pathlib.Path) -> tuple[list[Row], dict[str, str]]:
    """Keeps the first of rows that repeat a video; other labels for the same one are an error.

    The same part of a video is meant: a video may be there with several windows.

    Returns:
        The rows kept, and a map from the name of each other to why it was not.
    """
    first: dict[tuple[str, Window], Row] = {}
    repeated: dict[str, str] = {}
    for row in rows:
        before = first.setdefault((os.path.normpath(text.normal(row.path)), row.window), row)
        if text.normal(before.label) != text.normal(row.label):
            raise JaxvidError(
                f"{source} lines {before.line} and {row.line} label {row.name} both "
                f"{text.quoted(before.label)} and {text.quoted(row.label)}; keep one of them, or "
                "write both labels in one line with | between"
            )
        if before is not row:
            repeated[row.name] = f"repeated in line {row.line}; line {before.line} was kept"
    return list(first.values()), repeated


def locate(folder: str | os.PathLike, path: str) -> pathlib.Path:
    """Where a path of the CSV lies, also where the disk has it in another Unicode form.

    A disk of macOS or an archive of one may hold names decomposed that a CSV has composed. Of a
    path that is nowhere it is the place where it should be.
    """
    places = [stores.path_of(folder) / form for form in text.forms(path)]
    return next((place for place in places if len(places) > 1 and is_there(place)), places[0])


def is_there(path: pathlib.Path) -> bool:
    """Whether there is something; no name is so long or strange that it raises."""
    try:
        path.stat()
    except (OSError, ValueError):
        return False
    return True


def say_oddities(
    folder: str | os.PathLike, rows: Sequence[Row], names: Sequence[str], source: pathlib.Path
) -> None:
    """Says which classes are easily taken for one another, and which paths were found otherwise."""
    for line in text.alike(names):
        text.say(f"note: {source}: {line}", error=True)
    others = [
        row
        for row in rows
        if not row.path.isascii() and locate(folder, row.path) != stores.path_of(folder) / row.path
    ]
    if others:
        text.say(
            f"note: {source}: paths that are on disk in another Unicode form, and were found: "
            f"{len(others)}, the first in line {others[0].line} ({text.quoted(others[0].path)})",
            error=True,
        )
