"""One list of labelled clips parted at random into two, such as train and test.

What belongs together stays together: a group is all clips of a person, a place or a recording, as
the column `group` names them, or all parts of one video. Shares are near what is asked for in all
and within each class, as far as groups allow, and a class that is in several groups is on both
sides. How groups fall follows from the seed and the list alone.
"""

import csv
import dataclasses
import io
import os
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from jaxvid.base import csvs, text, whole
from jaxvid.base.errors import JaxvidError, listed
from jaxvid.base.text import quoted, say, shown
from jaxvid.data import table

BY = ("group", "video")
"""What stays together: the clips of a group, or no more than the parts of a video."""
_TRIES, _ROUNDS, _SWAPS = 8, 20, 2000  # Beginnings, times that each is gone over, swaps of each.
_MOST_GROUPS = 500  # With more there is little to gain by other beginnings and swaps.
_NEAR, _NEAR_IN_ALL = 0.05, 0.01  # Of the clips of a class and of all: near enough.
_MISSING = 1e3  # What it costs that a class is on one side alone; shares cost at most 2 a class.


@dataclasses.dataclass(frozen=True)
class Line:
    """A line of the list: its cells by column, its group, and its classes' names."""

    cells: dict[str, str]
    group: str
    labels: tuple[str, ...]


Sides = dict[str, list[Line]]
"""The lines on each side, by the side's name, in the order of the list."""


def read(path: pathlib.Path, by: str) -> tuple[list[Line], tuple[str, ...]]:
    """Reads a list to part by `group` or `video`, and the names of all classes in it.

    Raises:
      JaxvidError: the list has no labels or no such column, a line has no group, or one video is
        in two groups.
    """
    rows = table.read(path)
    names, numbers = table.number_labels(rows, (), path, "correct it")
    if not names:
        raise JaxvidError(f"{path} has no column 'label': give a list of labelled clips")
    lines: list[Line] = []
    group_of: dict[str, str] = {}
    for row, (number, cells) in zip(rows, table.lines(path), strict=True):
        if by == "group" and not cells.get("group"):
            lacking = "line {number} has no group" if "group" in cells else "it has no column"
            raise JaxvidError(
                f"{path} cannot be split by group, as {lacking.format(number=number)}: name in a "
                "column 'group' the person, the place or the recording of each clip, or take "
                "--split-by=video where no two clips have one in common"
            )
        video = os.path.normpath(text.normal(row.path))
        group = text.normal(cells["group"]) if by == "group" else video
        first = group_of.setdefault(video, group)
        if first != group:
            raise JaxvidError(
                f"{path} line {number} puts {row.path} in the group {quoted(group)}, but a line "
                f"above in {quoted(first)}: a video is of one group"
            )
        lines.append(Line(cells, group, tuple(names[label] for label in numbers[row.label])))
    return lines, names


def part(lines: Sequence[Line], share: float, seed: int) -> tuple[list[Line], list[Line]]:
    """The lines that stay, and those of about `share` of them that go to the other side.

    Raises:
      JaxvidError: there is but one group, so that one side would be empty.
    """
    groups = {
        line.group: number for number, line in enumerate({x.group: x for x in lines}.values())
    }
    classes = sorted({label for line in lines for label in line.labels})
    if len(groups) < 2:
        raise JaxvidError(
            f"all clips are of the group {quoted(lines[0].group)}: there must be two groups to "
            "split them, better ten or more"
        )
    column = {name: number for number, name in enumerate(classes)}
    # The last column are clips, whatever their class.
    counts = np.zeros((len(groups), len(classes) + 1))
    for line in lines:
        counts[groups[line.group], -1] += 1
        for label in line.labels:
            counts[groups[line.group], column[label]] += 1
    goes = _choose(counts, share, seed)
    sides: tuple[list[Line], list[Line]] = ([], [])
    for line in lines:
        sides[goes[groups[line.group]]].append(line)
    return sides


def _choose(counts: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Which groups go, int `[groups]`, for counts `[groups, classes]` of their clips."""
    tries = _TRIES if len(counts) <= _MOST_GROUPS else 1
    found = []
    for number in range(tries):
        found.append(_Choice(counts, share, np.random.default_rng([seed, number])))
        if found[-1].is_near:  # The very nearest would be the same for every seed.
            break
    return min(found, key=lambda choice: choice.cost).goes.astype(int)


class _Choice:
    """A choice of groups, from a random beginning made better step by step."""

    def __init__(self, counts: np.ndarray, share: float, rng: np.random.Generator):
        # Most groups have few classes: only these change when one goes.
        self._places = [np.flatnonzero(row) for row in counts]
        self._counts = [row[places] for row, places in zip(counts, self._places, strict=True)]
        self._totals, self._share = counts.sum(0), share
        self._several = (counts > 0).sum(0) > 1
        self._gone = np.zeros(counts.shape[1])
        self.goes = np.zeros(len(counts), bool)
        swaps = min(20 * len(counts), _SWAPS) if len(counts) <= _MOST_GROUPS else 0
        for _ in range(_ROUNDS):
            moved = [self._move(group) for group in rng.permutation(len(counts))]
            swapped = [not self.is_near and self._swap(rng) for _ in range(swaps)]
            if self.is_near or not any(moved + swapped):
                break

    @property
    def is_near(self) -> bool:
        """Whether shares are as asked for, to a clip or as near as is worth more work."""
        missed = np.abs(self._gone - self._share * self._totals)
        bounds = np.maximum(1, _NEAR * self._totals)
        bounds[-1] = max(1, _NEAR_IN_ALL * self._totals[-1])
        return bool((missed <= bounds).all() and self.cost < _MISSING)

    @property
    def cost(self) -> float:
        """How far the sides are from the share asked for."""
        return float(self._costs(slice(None), self._gone).sum())

    def _costs(self, places: np.ndarray | slice, gone: np.ndarray) -> np.ndarray:
        """What classes cost of which so many clips go: squared distances, as shares of them."""
        totals = self._totals[places]
        alone = self._several[places] & ((gone == 0) | (gone == totals))
        return ((gone - self._share * totals) ** 2) / totals + _MISSING * alone

    def _move(self, group: int) -> bool:
        """Takes a group to the other side where that is better."""
        places = self._places[group]
        before = self._costs(places, self._gone[places]).sum()
        sign = -1 if self.goes[group] else 1
        after = self._gone[places] + sign * self._counts[group]
        if self._costs(places, after).sum() > before - 1e-9:
            return False
        self._gone[places] = after
        self.goes[group] = not self.goes[group]
        return True

    def _swap(self, rng: np.random.Generator) -> bool:
        """Takes one group from each side to the other where that is better."""
        there, here = np.flatnonzero(self.goes), np.flatnonzero(~self.goes)
        if not len(there) or not len(here):
            return False
        pair = rng.choice(there), rng.choice(here)
        gone = self._gone.copy()
        for group, sign in zip(pair, (-1, 1), strict=True):
            gone[self._places[group]] += sign * self._counts[group]
        if self._costs(slice(None), gone).sum() > self.cost - 1e-9:
            return False
        self._gone = gone
        self.goes[list(pair)] = ~self.goes[list(pair)]
        return True


def split(
    path: pathlib.Path, by: str, seed: int, shares: Mapping[str, float]
) -> tuple[Sides, tuple[str, ...]]:
    """Parts a list: `train`, and each of `shares` with its share of all clips.

    Returns:
        The sides, and the names of all classes.
    """
    if min(shares.values()) <= 0 or not sum(shares.values()) < 1:
        given = ", ".join(f"--{name}-share={share:g}" for name, share in shares.items())
        raise JaxvidError(f"{given}: shares must be above 0 and leave something to train on")
    lines, names = read(path, by)
    sides: Sides = {}
    left, of_left = lines, 1.0
    for number, (name, share) in enumerate(shares.items()):
        left, sides[name] = part(left, share / of_left, seed + number)
        of_left -= share
    return {"train": left, **sides}, names


def write(
    folder: pathlib.Path, sides: Sides, names: Sequence[str], by: str, overwrite: bool
) -> None:
    """Writes a list of each side, `<side>.csv`, and `split.csv`, which counts clips by class.

    Raises:
      JaxvidError: there are other lists already, which are not to be overwritten.
    """
    files = {folder / f"{side}.csv": _listed(lines) for side, lines in sides.items()}
    for file, content in files.items():
        if file.exists() and not overwrite and file.read_bytes() != content.encode():
            raise JaxvidError(
                f"{file} is there and lists other clips: add --overwrite to split anew, or choose "
                "another --out"
            )
    for file, content in files.items():
        whole.text(file, content)
    header = ["class", *(f"{side}_{what}" for side in sides for what in ("clips", f"{by}s"))]
    csvs.write(folder / "split.csv", header, _counts(sides, names))


def _listed(lines: Sequence[Line]) -> str:
    """Lines as a list again, with all of its columns."""
    # Not by `csvs`: a path that begins with a dash is that path.
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, list(lines[0].cells), lineterminator="\n")
    writer.writeheader()
    writer.writerows(line.cells for line in lines)
    return out.getvalue()


def _counts(sides: Sides, names: Sequence[str]) -> list[list[str | int]]:
    """A line for each class: on each side its clips, and the groups that these are of."""
    found: dict[str, list[str | int]] = {name: [name] for name in names}
    for lines in sides.values():
        clips = dict.fromkeys(names, 0)
        groups: dict[str, set[str]] = {name: set() for name in names}
        for line in lines:
            for label in line.labels:
                clips[label] += 1
                groups[label].add(line.group)
        for name in names:
            found[name] += [clips[name], len(groups[name])]
    return list(found.values())


_MOST_LINES = 40


def show(sides: Sides, names: Sequence[str], by: str) -> None:
    """Prints what is on each side, in all and by class."""
    total = sum(map(len, sides.values()))
    for side, lines in sides.items():
        groups = len({line.group for line in lines})
        say(f"{side}: {len(lines)} clips ({100 * len(lines) / total:.1f} %) of {groups} {by}s")
    counts = _counts(sides, names)
    if len(counts) <= _MOST_LINES:
        width = max(len(shown(name)) for name in names)
        say(f"{'clips by class':{width}}  " + "  ".join(f"{side:>6}" for side in sides))
        for name, *each in counts:
            say(f"{shown(str(name)):{width}}  " + "  ".join(f"{clips:>6}" for clips in each[::2]))
    for place, side in enumerate(sides):
        lacking = [str(line[0]) for line in counts if not line[1 + 2 * place] and any(line[1::2])]
        if lacking:
            say(
                f"warning: {side} has no clip of {len(lacking)} classes, whose {by}s are too few: "
                f"{listed(map(shown, lacking), 5, ', ')}",
                error=True,
            )
