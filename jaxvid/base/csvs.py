"""CSVs as they are written and read here: no cell of one is taken for a formula.

A cell that begins as a formula does gets an apostrophe before it.
"""

import csv
import io
import pathlib
from collections.abc import Iterable, Sequence

from jaxvid.base import whole
from jaxvid.base.errors import JaxvidError

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


def cell(value: object) -> object:
    """A cell of a CSV: a text that a spreadsheet would compute gets an apostrophe before it."""
    return f"'{value}" if isinstance(value, str) and _computed(value) else value


def uncell(value: str) -> str:
    """The text that `cell` was given."""
    return value[1:] if value.startswith("'") and _computed(value) else value


def write(path: pathlib.Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Writes a CSV in UTF-8 with texts as `cell` makes them, whole; `read` gives them back."""
    lines = io.StringIO(newline="")
    # Its line ends are CSV's own, \r\n, as with others it leaves a \r in a cell unquoted.
    writer = csv.writer(lines)
    writer.writerow(header)
    writer.writerows([cell(value) for value in row] for row in rows)
    with whole.file(path) as file:
        # No file's name makes it fail: what is not UTF-8 is written as its escape.
        file.write(lines.getvalue().encode("utf-8", "backslashreplace"))


def read(path: pathlib.Path) -> list[list[str]]:
    """The lines below the header of a CSV that `write` wrote.

    Raises:
      JaxvidError: it is damaged.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            return [[uncell(value) for value in row] for row in list(csv.reader(file))[1:]]
    except (UnicodeDecodeError, csv.Error) as error:
        raise JaxvidError(f"{path} is damaged ({error}): delete it") from None


def _computed(value: str) -> bool:
    return value.lstrip("'").startswith(_FORMULA)
