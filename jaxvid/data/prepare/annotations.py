"""The annotation files of a dataset: found by their names, read as they were shipped."""

import csv
import fnmatch
import json
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from jaxvid.base import text
from jaxvid.base.errors import JaxvidError, listed
from jaxvid.data.prepare.entries import Classes, Entry, Listing


class Annotations:
    """The files in which a dataset's rows stand.

    `paths` are all files below `root` that may be some, `given` those that the user names for a
    split. Whatever is read is named in errors, with its line.
    """

    def __init__(
        self, root: pathlib.Path, paths: list[str], given: Mapping[str, pathlib.Path] | None = None
    ):
        self._root, self._paths, self._given = root, paths, dict(given or {})
        self._missing: list[str] = []

    def find(self, *names: str, split: str = "") -> pathlib.Path | None:
        """The file of the first of `names` that is there; they may have `*` in them.

        Of several the one nearest to the root counts. A file that was given for the `split` goes
        first. Where there is none it is remembered, for `needed`.

        Raises:
          JaxvidError: several lie equally near.
        """
        if split in self._given:
            return self._given[split]
        for name in names:
            found = [
                path
                for path in self._paths
                if fnmatch.fnmatch(os.path.basename(path).lower(), name.lower())
            ]
            if not found:
                continue
            depth = min(path.count(os.sep) for path in found)
            nearest = sorted(path for path in found if path.count(os.sep) == depth)
            if len(nearest) > 1:
                raise JaxvidError(
                    f"{self._root} holds several files {name}: {listed(nearest, 5, ', ')}; name "
                    f"the right folder with --annotations{f', or --{split}=FILE' if split else ''}"
                )
            return self._root / nearest[0]
        self._missing.append(" or ".join(names))
        return None

    def need(self, *names: str, split: str = "") -> pathlib.Path:
        """As `find`, of a file without which nothing can be done.

        Raises:
          JaxvidError: there is none.
        """
        found = self.find(*names, split=split)
        if found is None:
            raise self.lacking()
        return found

    def lacking(self) -> JaxvidError:
        """The error that says what was looked for, and what was found in its place."""
        there = listed(sorted(self._paths, key=lambda path: (path.count(os.sep), path)), 5, ", ")
        return JaxvidError(
            f"no annotations below {self._root}: looked for {listed(self._missing, 8)}; found "
            f"{there or 'no .csv, .json or .txt'}: name the folder that holds them with "
            "--annotations"
        )

    def by_split(
        self,
        classes: Classes,
        names: Mapping[str, Sequence[str]],
        read: Callable[[str, pathlib.Path], Iterable[Entry]],
    ) -> Listing:
        """What `read` makes of each split and its file, the first of its `names` that is there.

        Splits without a file are left out.

        Raises:
          JaxvidError: none of them has one, or a file is not what it should be.
        """
        listing = Listing(classes.names)
        for split, several in names.items():
            path = self.find(*several, split=split)
            if path is not None:
                listing.add(split, path, read(split, path))
        if not listing.splits:
            raise self.lacking()
        return listing

    def lines(self, path: pathlib.Path) -> Iterator[tuple[str, str]]:
        """The lines of a text that are not empty, without spaces around them, and where they stand.

        Raises:
          JaxvidError: it cannot be read, or is no UTF-8.
        """
        try:
            with open(path, encoding="utf-8-sig") as file:
                for number, line in enumerate(file, 1):
                    if line := line.strip():
                        yield f"{path} line {number}", line
        except (OSError, UnicodeDecodeError) as error:
            raise _unreadable(path, error) from None

    def table(self, path: pathlib.Path, *columns: str) -> Iterator[tuple[str, dict[str, str]]]:
        """The rows of a CSV by the names in its header, in small letters, and where they stand.

        Raises:
          JaxvidError: it cannot be read, or lacks one of `columns`.
        """
        header: list[str] = []
        for where, cells in self.cells(path):
            if not header:
                header = [cell.lower() for cell in cells]
                missing = [name for name in columns if name not in header]
                if missing:
                    raise JaxvidError(
                        f"{where} has no column {' and no column '.join(missing)} "
                        f"({text.quoted(','.join(cells), 60)}): take the official file"
                    )
            elif len(cells) < len(header):
                raise JaxvidError(f"{where} has {len(cells)} cells, the header {len(header)}")
            else:
                yield where, dict(zip(header, cells, strict=False))

    def cells(self, path: pathlib.Path, separator: str = ",") -> Iterator[tuple[str, list[str]]]:
        """The lines of a CSV that are not empty, as many cells as each has, and where they stand.

        Raises:
          JaxvidError: it cannot be read.
        """
        try:
            with open(path, newline="", encoding="utf-8-sig") as file:
                reader = csv.reader(file, delimiter=separator)
                for cells in reader:
                    if any(cell.strip() for cell in cells):
                        yield f"{path} line {reader.line_num}", [cell.strip() for cell in cells]
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise _unreadable(path, error) from None

    def json(self, path: pathlib.Path, kind: type) -> Any:
        """What a JSON file holds, which must be of a `kind`: `list` or `dict`.

        Raises:
          JaxvidError: it cannot be read, or is of another.
        """
        try:
            with open(path, encoding="utf-8-sig") as file:
                value = json.load(file)
        except (OSError, ValueError, RecursionError) as error:
            raise _unreadable(path, error) from None
        if not isinstance(value, kind):
            raise JaxvidError(f"{path} holds no {kind.__name__}: take the official file")
        return value


def seconds(cell: str, where: str) -> float:
    """A time such as `417` or `417.0`.

    Raises:
      JaxvidError: it is none.
    """
    try:
        value = float(cell)
        if 0 <= value < 1e9:
            return value
    except ValueError:
        pass
    raise JaxvidError(f"{where}: {text.quoted(cell)} is no time in seconds: take the official file")


def field(row: Any, name: str, kind: type | tuple[type, ...], where: str) -> Any:
    """A field of a JSON object.

    Raises:
      JaxvidError: it is missing, or of another kind.
    """
    if isinstance(row, dict) and isinstance(row.get(name), kind):
        return row[name]
    raise JaxvidError(f"{where} has no {name}, or another than expected: take the official file")


def _unreadable(path: pathlib.Path, error: Exception) -> JaxvidError:
    said = getattr(error, "strerror", None) or str(error)
    return JaxvidError(f"{path} cannot be read ({text.shown(said)}): take the official file")
