"""What preparing found: how many are listed, found, missing and broken, by split and by class."""

import collections
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jaxvid.base.errors import listed as joined
from jaxvid.data.prepare import counts
from jaxvid.data.prepare.entries import Entry
from jaxvid.data.prepare.media import Match

_TRAINING = "train"
_SHOWN = 5


@dataclasses.dataclass
class Count:
    """How many rows are listed; their media is found, missing or broken."""

    listed: int = 0
    found: int = 0
    missing: int = 0
    broken: int = 0

    def add(self, kind: str) -> None:
        """Counts one that is listed, and `found`, `missing` or `broken`."""
        self.listed += 1
        setattr(self, kind, getattr(self, kind) + 1)

    def __str__(self) -> str:
        return (
            f"{self.listed:,} listed, {self.found:,} found, {self.missing:,} missing, "
            f"{self.broken:,} broken"
        )


@dataclasses.dataclass
class SplitReport:
    """A split: its annotation files, the counts of all of it and by class, and what is odd.

    `official` is what the official list has, None where nobody noted it; `copies` names those that
    published figures were measured on, with how many videos they have. `broken` maps the names of
    files that cannot be used to the reason.
    """

    name: str
    sources: list[str]
    total: Count
    classes: dict[str, Count]
    official: int | None
    copies: dict[str, int]
    broken: dict[str, str]
    twice: list[str]
    notes: list[str]

    def lines(self) -> list[str]:
        """What a person wants to read."""
        found, listed = self.total.found, self.total.listed
        lines = [f"{self.name}: {self.total}"]
        if self.official is not None:
            same = "as listed here" if self.official == listed else f"{listed:,} are listed here"
            lines.append(f"  official list: {self.official:,}, {same}")
        for name, count in self.copies.items():
            if count == found:
                lines.append(f"  {found:,} of {listed:,}: as many as the copy of {name}")
            else:
                lines.append(f"  the copy of {name} has {count:,}")
        if self.twice:
            lines.append(
                f"  ids listed more than once: {len(self.twice)} ({joined(self.twice, 3, ', ')})"
            )
        if self.broken:
            lines.append(f"  broken: {len(self.broken)}")
            lines += [f"    {path}: {why}" for path, why in list(self.broken.items())[:_SHOWN]]
        lines += [f"  {note}" for note in self.notes]
        lacking = sorted(
            ((count.missing + count.broken, name) for name, count in self.classes.items()),
            key=lambda pair: (-pair[0], pair[1]),
        )
        lacking = [pair for pair in lacking if pair[0]]
        if lacking and found:
            worst = (f"{name} {gone} of {self.classes[name].listed}" for gone, name in lacking)
            lines.append(f"  classes that lack some: {joined(worst, _SHOWN, ', ')}")
        return lines


@dataclasses.dataclass
class Report:
    """All splits of a dataset, and the ids that stand both in training and in another split."""

    name: str
    title: str
    source: str
    splits: dict[str, SplitReport]
    overlaps: dict[str, list[str]]
    notes: list[str]

    def lines(self) -> list[str]:
        """What a person wants to read, without the table of classes."""
        lines = [f"{self.title} from {self.source}"]
        for split in self.splits.values():
            lines += split.lines()
        whole = counts.OFFICIAL.get(self.name, {}).get("all")
        if whole is not None:
            listed = sum(split.total.listed for split in self.splits.values())
            lines.append(f"all splits: {listed:,} listed, the official lists have {whole:,}")
        for name, ids in self.overlaps.items():
            lines.append(
                f"warning: {len(ids):,} ids stand both in {_TRAINING} and in {name} "
                f"({joined(ids, 3, ', ')}): figures on {name} are too good"
            )
        return lines + [f"note: {note}" for note in self.notes]

    def table(self) -> list[str]:
        """A line for each split and class."""
        lines = []
        for split in self.splits.values():
            lines += ["", f"{split.name}, by class:"]
            lines += [f"  {name}: {count}" for name, count in split.classes.items()]
        return lines

    def json(self) -> dict[str, Any]:
        """All of it, for programs."""
        return dataclasses.asdict(self)


def split_report(
    dataset: str,
    name: str,
    sources: Sequence[str],
    matches: Iterable[Match],
    classes: Sequence[str],
    notes: Sequence[str],
    broken: Mapping[str, str],
) -> SplitReport:
    """Counts a split's matches; `broken` maps names of what a build could not read to the reason.

    Of an entry of several classes each counts it.
    """
    total = Count()
    by_class = {label: Count() for label in classes}
    wrong: dict[str, str] = {}
    ids: collections.Counter[str] = collections.Counter()
    for match in matches:
        why = match.broken or broken.get(match.name, "")
        if match.path and why:
            wrong[match.name] = why
        kind = "missing" if match.path is None else "broken" if why else "found"
        total.add(kind)
        for label in match.entry.labels:
            by_class[label].add(kind)
        ids[match.entry.id] += 1
    return SplitReport(
        name=name,
        sources=list(sources),
        total=total,
        classes={label: count for label, count in by_class.items() if count.listed},
        official=counts.OFFICIAL.get(dataset, {}).get(name),
        copies={copy: have[name] for copy, have in counts.COPIES.get(dataset, ()) if name in have},
        broken=wrong,
        twice=[one for one, count in ids.items() if count > 1],
        notes=list(notes),
    )


def overlaps(splits: Mapping[str, Sequence[Entry]]) -> dict[str, list[str]]:
    """The videos that stand in training and in another split, by that split."""
    training = {entry.video or entry.id for entry in splits.get(_TRAINING, ())}
    shared = {
        name: sorted({entry.video or entry.id for entry in entries} & training)
        for name, entries in splits.items()
        if name in ("val", "test")
    }
    return {name: ids for name, ids in shared.items() if ids}
