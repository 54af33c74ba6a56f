"""Several datasets as one: their videos one after another, their labels in one list of classes."""

from collections.abc import Mapping, Sequence

import numpy as np

from jaxvid.base import text
from jaxvid.base.errors import JaxvidError, listed
from jaxvid.data.sources import Source, Split
from jaxvid.zoo import classes as known


class Mixed:
    """The videos of several sources; see `Source`.

    A video's path begins with the name of its dataset. `classes` maps, for each dataset, its class
    numbers to those of `names`.
    """

    def __init__(
        self,
        sources: Mapping[str, Source],
        names: tuple[str, ...],
        classes: Mapping[str, Sequence[int]],
    ):
        self._sources = list(sources.values())
        self._starts = np.cumsum([0, *map(len, self._sources)])
        kinds = {(source.encoded, source.channels) for source in self._sources}
        if len(kinds) > 1:
            raise JaxvidError(
                "config.data.mixture has records and video files, or pictures and flow: build "
                "records of all alike"
            )
        (self.encoded, self.channels), self.classes = kinds.pop(), names
        self.remote = any(source.remote for source in self._sources)
        self.num_frames = np.concatenate([source.num_frames for source in self._sources])
        self.fps = np.concatenate([source.fps for source in self._sources])
        self.height = np.concatenate([source.height for source in self._sources])
        self.width = np.concatenate([source.width for source in self._sources])
        self.path = np.array(
            [f"{name}/{path}" for name, source in sources.items() for path in source.path], object
        )
        self.labels = [
            tuple(classes[name][label] for label in labels)
            for name, source in sources.items()
            for labels in source.labels
        ]

    def __len__(self) -> int:
        return int(self._starts[-1])

    def _place(self, number: int) -> tuple[Source, int]:
        part = int(np.searchsorted(self._starts, number, side="right")) - 1
        return self._sources[part], number - int(self._starts[part])

    def name(self, number: int) -> str:
        """Says where a video lies, for messages."""
        source, place = self._place(number)
        return source.name(place)

    def frames(self, number: int, indices: np.ndarray) -> list[bytes] | np.ndarray:
        """Reads the frames `indices` of a video."""
        source, place = self._place(number)
        return source.frames(place, indices)


def mixed(splits: Mapping[str, Split], weights: Mapping[str, float], dataset: str) -> Split:
    """The splits of several datasets as one, whose clips are shared out by the weights.

    The classes are those of `dataset` where the library knows it; Kinetics-400, 600 and 700 have
    theirs in Kinetics-710 by its published maps. Else they are those of all, each where it first
    comes up. Classes of one name are one.

    Raises:
      JaxvidError: a dataset has a class that `dataset` has not.
    """
    target = _known(dataset)
    if target:
        names = tuple(known.labels(target))
    else:
        names = tuple(dict.fromkeys(name for split in splits.values() for name in split.classes))
    places = {name: place for place, name in enumerate(names)}
    maps = {}
    for name, split in splits.items():
        found = _published(name, split.classes, target) or [*map(places.get, split.classes)]
        lacking = [each for each, place in zip(split.classes, found, strict=True) if place is None]
        if lacking:
            raise JaxvidError(
                f"config.data.mixture: {name} has classes that {dataset} has not "
                f"({listed(map(text.quoted, lacking))}): name another config.data.dataset"
            )
        maps[name] = [place for place in found if place is not None]
    total = sum(weights.values())
    source = Mixed({name: split.source for name, split in splits.items()}, names, maps)
    shares = tuple((len(split), weights[name] / total) for name, split in splits.items())
    return Split(source, names, shares=shares)


def _known(name: str) -> str | None:
    """The dataset whose classes the library brings that is called so, if there is one."""
    try:
        return known.dataset(name)
    except JaxvidError:
        return None


def _published(name: str, classes: Sequence[str], target: str | None) -> list[int | None] | None:
    """The places of a dataset's classes in a known one, if they are those of a known one too."""
    own = _known(name)
    if not target or not own or list(classes) != known.labels(own):
        return None
    return known.channel_map(target, own)
