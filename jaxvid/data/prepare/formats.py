"""Lists in the formats of MMAction2, PySlowFast, VideoMAE and V-JEPA.

A line is a path, and what stands behind it:

- MMAction2: `label`, or of a folder of frames `frames label`; several labels have spaces between;
- PySlowFast and V-JEPA: `label`, behind a space, a comma or, where paths hold those, `::`;
- VideoMAE: `label`; of a folder `frames label`; to pretrain `start frames`, as `0 -1`.

Paths may be those of another machine, with other folders at their start.
"""

from collections.abc import Callable, Mapping, Sequence

from jaxvid.base import text
from jaxvid.base.errors import JaxvidError
from jaxvid.data.prepare.annotations import Annotations
from jaxvid.data.prepare.entries import Classes, Entry, Listing
from jaxvid.data.prepare.media import has_ending
from jaxvid.data.prepare.options import Options

_SPLITS = ("train", "val", "test")
_Cells = tuple[str, Sequence[str], int | None]  # path, labels, frames


def parse_mmaction2(files: Annotations, options: Options) -> Listing:
    """Reads lists of MMAction2, of videos or of folders of frames."""
    return _parse(files, options, _labelled, "*{split}*list*.txt", "{split}.txt")


def parse_pyslowfast(files: Annotations, options: Options) -> Listing:
    """Reads lists of PySlowFast."""
    return _parse(files, options, _labelled, "{split}.csv")


def parse_videomae(files: Annotations, options: Options) -> Listing:
    """Reads lists of VideoMAE and VideoMAE V2 to fine-tune on, of videos or of folders."""
    return _parse(files, options, _labelled, "{split}.csv", "{split}.txt")


def parse_videomae_pretrain(files: Annotations, options: Options) -> Listing:
    """Reads lists of VideoMAE and VideoMAE V2 to pretrain on, which have no labels."""
    return _parse(files, options, _unlabelled, "{split}.csv", "{split}.txt", "*pretrain*")


def parse_vjepa(files: Annotations, options: Options) -> Listing:
    """Reads lists of V-JEPA and V-JEPA 2."""
    return _parse(files, options, _labelled, "{split}.csv", "*{split}*paths*.csv", "*_{split}.csv")


def _parse(
    files: Annotations,
    options: Options,
    cells: Callable[[str, str], _Cells],
    *patterns: str,
) -> Listing:
    """Reads the lists of all splits that are there.

    Raises:
      JaxvidError: there are none, or a line has another format.
    """
    rows: dict[str, list[tuple[str, _Cells]]] = {}
    sources = {}
    for split in _SPLITS:
        path = files.find(*(name.format(split=split) for name in patterns), split=split)
        if path is not None:
            rows[split] = [(where, cells(line, where)) for where, line in files.lines(path)]
            sources[split] = path
    if not rows:
        raise files.lacking()
    classes = Classes(options.classes or _numbers(rows))
    listing = Listing(classes.names)
    for split, lines in rows.items():
        entries = []
        for where, (name, labels, frames) in lines:
            named = tuple(dict.fromkeys(classes.number(label, where) for label in labels))
            entries.append(Entry(name, (name,), named, frames=frames))
        listing.add(split, sources[split], entries)
    return listing


def _labelled(line: str, where: str) -> _Cells:
    """A path, of a folder how many frames it has, and labels; a path may hold spaces."""
    if "::" in line:
        name, *numbers = line.split("::")
    elif " " not in line:
        name, _, number = line.rpartition(",")
        numbers = [number]
    else:
        name, numbers = _split(line)
    if not name or not numbers:
        raise JaxvidError(f"{where}: {text.quoted(line)} is no path and label")
    if has_ending(name) or len(numbers) == 1:
        return name, numbers, None
    return name, numbers[1:], _count(numbers[0], where)


def _unlabelled(line: str, where: str) -> _Cells:
    """A path, and two numbers: where it begins, and how many frames it has, or -1."""
    name, numbers = _split(line)
    if len(numbers) != 2 or numbers[0] not in ("0", "1"):
        raise JaxvidError(f"{where}: {text.quoted(line)} is no path, start and number of frames")
    return name, (), None if numbers[1] == "-1" else _count(numbers[1], where)


def _split(line: str) -> tuple[str, list[str]]:
    """What stands before the numbers at the end of a line, and these."""
    words = line.split(" ")
    count = 0
    while count < len(words) - 1 and words[-1 - count].removeprefix("-").isdecimal():
        count += 1
    place = len(words) - count
    return " ".join(words[:place]), words[place:]


def _count(number: str, where: str) -> int:
    if not number.isdecimal() or len(number) > 9:
        raise JaxvidError(f"{where}: {text.quoted(number)} is no number of frames")
    return int(number)


def _numbers(rows: Mapping[str, Sequence[tuple[str, _Cells]]]) -> tuple[str, ...]:
    """The names `0` to the largest of the labels."""
    largest = -1
    for lines in rows.values():
        for where, (_, labels, _) in lines:
            for label in labels:
                if not label.isdecimal() or len(label) > 9 or int(label) >= text.MAX_CLASSES:
                    raise JaxvidError(f"{where}: {text.quoted(label, 20)} is no class number")
                largest = max(largest, int(label))
    return tuple(str(number) for number in range(largest + 1))
