"""What the annotations of a dataset say, whatever their format: its entries, and its classes."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

from jaxvid.base import text
from jaxvid.base.errors import JaxvidError, listed
from jaxvid.data.windows import WHOLE, Window


@dataclasses.dataclass(frozen=True)
class Entry:
    """One row of an annotation file.

    `id` tells it from the others of its split. `files` are the names under which its media may lie,
    the likeliest first, without what a video's name ends in; a name may have folders before it.
    `near` are folders of which one is in its path where several files have that name. `labels` are
    names of classes, none where the list tells none. `window` is the part of the video that the
    entry is, `annotated` the categories that were annotated. `video` is the video that it was taken
    from, by which training and test are compared. Of a folder of frames `frames` is how many the
    list says there are.
    """

    id: str
    files: tuple[str, ...]
    labels: tuple[str, ...] = ()
    near: tuple[str, ...] = ()
    window: Window = WHOLE
    annotated: tuple[str, ...] = ()
    video: str = ""
    frames: int | None = None


@dataclasses.dataclass
class Listing:
    """All entries by split, the classes in their order, and what is to be said of the annotations.

    `sources` maps a split to the files that it was read from. `edition` is the name under which
    `counts` has it, where that is not the dataset's own.
    """

    classes: tuple[str, ...]
    edition: str = ""
    splits: dict[str, list[Entry]] = dataclasses.field(default_factory=dict)
    sources: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    notes: list[str] = dataclasses.field(default_factory=list)

    def add(self, split: str, source: object, entries: Iterable[Entry]) -> None:
        """Adds entries of one file; several files may make up a split."""
        self.splits.setdefault(split, []).extend(entries)
        self.sources.setdefault(split, []).append(str(source))


def plain(name: str) -> str:
    """What spellings of one name have in common: its letters and digits, without case."""
    return "".join(sign for sign in text.normal(name).casefold() if sign.isalnum())


class Classes:
    """The classes of a dataset, found by any spelling of their names."""

    def __init__(self, names: Sequence[str]):
        self.names = tuple(names)
        self._plain = {plain(name): name for name in names}

    def find(self, label: str, where: str) -> str:
        """The class that a label means, with spaces, underscores, quotes and case as they may be.

        Raises:
          JaxvidError: there is none.
        """
        name = self._plain.get(plain(label))
        if name is None:
            raise JaxvidError(
                f"{where}: {text.quoted(label)} is none of the {len(self.names)} classes: take the "
                "official annotations, or another NAME"
            )
        return name

    def number(self, label: str, where: str) -> str:
        """The class of a number, counted from 0.

        Raises:
          JaxvidError: there is none.
        """
        short = label.isascii() and label.isdecimal() and len(label) < 9
        if short and int(label) < len(self.names):
            return self.names[int(label)]
        raise JaxvidError(
            f"{where}: {text.quoted(label)} is no class number from 0 to {len(self.names) - 1}: "
            "take the official annotations, or another NAME"
        )

    def check(self, shipped: Sequence[str], where: str) -> None:
        """Refuses a list of classes that is not this one, in this order.

        Raises:
          JaxvidError: it has other classes, or another order.
        """
        if len(shipped) != len(self.names):
            raise JaxvidError(
                f"{where} has {len(shipped)} classes and not {len(self.names)}: it is of another "
                "version of the dataset"
            )
        wrong = [
            f"{number} is {text.quoted(theirs)}, not {text.quoted(ours)}"
            for number, (theirs, ours) in enumerate(zip(shipped, self.names, strict=True))
            if plain(theirs) != plain(ours)
        ]
        if wrong:
            raise JaxvidError(
                f"{where} has another order of classes than published networks: class "
                f"{listed(wrong, most=3)}"
            )


def in_order(numbers: Mapping[str, int], where: str) -> tuple[str, ...]:
    """The names that a map gives numbers, in the order of these.

    Raises:
      JaxvidError: the numbers are not 0 to one less than there are names.
    """
    names = sorted(numbers, key=lambda name: numbers[name])
    if [numbers[name] for name in names] != list(range(len(names))):
        least = min(numbers.values(), default=0)
        raise JaxvidError(
            f"{where} does not number its {len(names)} classes from 0 to {len(names) - 1}, each "
            f"once (the least is {least}): take the official file"
        )
    return tuple(names)
