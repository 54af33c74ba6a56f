"""Part of a source: some of its videos, with those of their labels that are asked for."""

from collections.abc import Mapping, Sequence

import numpy as np

from jaxvid.base import text
from jaxvid.base.errors import JaxvidError, listed
from jaxvid.data.sources import Source, Split


class Subset:
    """Videos of a source by their `numbers`, whose labels become what `classes` says; see `Source`.

    A label that has no new number is left out.
    """

    def __init__(
        self,
        source: Source,
        numbers: Sequence[int],
        names: tuple[str, ...],
        classes: Mapping[int, int],
    ):
        self._source, self._numbers = source, numbers
        self.encoded, self.channels, self.classes = source.encoded, source.channels, names
        self.remote = source.remote
        self.num_frames, self.fps = source.num_frames[numbers], source.fps[numbers]
        self.height, self.width = source.height[numbers], source.width[numbers]
        self.path = source.path[numbers]
        self.labels = [
            tuple(classes[label] for label in source.labels[number] if label in classes)
            for number in numbers
        ]

    def __len__(self) -> int:
        return len(self._numbers)

    def name(self, number: int) -> str:
        """Says where a video lies, for messages."""
        return self._source.name(self._numbers[number])

    def frames(self, number: int, indices: np.ndarray) -> list[bytes] | np.ndarray:
        """Reads the frames `indices` of a video."""
        return self._source.frames(self._numbers[number], indices)


def of_category(split: Split, category: str, what: str) -> Split:
    """The videos that were annotated for one category, and its classes; how many not, is said.

    Raises:
      JaxvidError: classes have no such category, or no video was annotated for it.
    """
    if category not in split.categories:
        known = listed(sorted(set(split.categories)), separator=", ")
        raise JaxvidError(
            f"config.data.category={category!r} is no category of split {what!r}: "
            + (f"it has {known}" if known else "its list has no column annotated")
        )
    places = [number for number, name in enumerate(split.categories) if name == category]
    kept = [
        number
        for number, names in enumerate(split.annotated)
        if category in names or not names and set(places) & set(split.source.labels[number])
    ]
    if not kept:
        raise JaxvidError(f"no video of split {what!r} was annotated for {category!r}")
    left = len(split) - len(kept)
    if left:
        text.say(f"note: {what}: {left} of {len(split)} videos are not annotated for {category}")
    names = tuple(split.classes[place] for place in places)
    classes = {place: number for number, place in enumerate(places)}
    return Split(Subset(split.source, kept, names, classes), names)
