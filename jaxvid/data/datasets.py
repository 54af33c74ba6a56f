"""From the name of a dataset to its videos: what `config.data` points at."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Protocol

import ml_collections
import numpy as np

from jaxvid.data.records import Records
from jaxvid.errors import JaxvidError


class Source(Protocol):
    """Where a split's encoded frames come from: records here; other stores can join.

    The arrays have one element per video. `fps` is NaN where unknown, `label` -1 where missing.
    """

    num_frames: np.ndarray
    fps: np.ndarray
    label: np.ndarray
    height: np.ndarray
    width: np.ndarray
    path: np.ndarray
    classes: Sequence[str]

    def __len__(self) -> int: ...

    def name(self, number: int) -> str:
        """Says where a video lies, for messages."""
        ...

    def frames(self, number: int, indices: np.ndarray) -> list[bytes]:
        """Reads the JPEGs of the frames `indices` of a video; must be thread safe."""
        ...


@dataclasses.dataclass(frozen=True)
class Split:
    """The videos of one split, with class names that cover all their labels."""

    source: Source
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.source)

    @property
    def short_side(self) -> int:
        """The shorter side of the largest picture: what the records were built with, at most."""
        return int(np.minimum(self.source.height, self.source.width).max())

    @property
    def paths(self) -> list[str]:
        """The videos' paths, in the order of their numbers."""
        return [str(path) for path in self.source.path]


def open_split(data: ml_collections.ConfigDict, split: str) -> Split:
    """Opens a split of the dataset that `data.dataset` and `data.data_dir` name.

    The dataset `toy` is generated where it is missing. Any other lies in `data_dir`, or in the
    folder of its name in there, as `python -m jaxvid.data.build` wrote it.
    """
    return check_split(Records(_folder(data.dataset, data.data_dir), split), split)


def check_split(source: Source, split: str) -> Split:
    """Refuses a source that cannot be trained or tested on, and names its classes."""
    where = f"split {split!r}"
    if not len(source):
        raise JaxvidError(f"{where} holds no videos: build the records again")
    labels = np.asarray(source.label)
    if (labels < 0).any():
        number = int(np.argmax(labels < 0))
        raise JaxvidError(f"{where}: {source.name(number)} has no label: build with labels")
    if (np.asarray(source.num_frames) < 1).any():
        number = int(np.argmax(np.asarray(source.num_frames) < 1))
        raise JaxvidError(f"{where}: {source.name(number)} has no frames: leave it out")
    classes = tuple(source.classes) or tuple(str(i) for i in range(int(labels.max()) + 1))
    if labels.max() >= len(classes):
        number = int(labels.argmax())
        raise JaxvidError(
            f"{where}: {source.name(number)} has label {labels[number]}, but labels.txt names only"
            f" {len(classes)} classes"
        )
    return Split(source, classes)


def _folder(dataset: str, data_dir: str) -> pathlib.Path:
    if dataset == "toy":
        from jaxvid.data import toy

        return toy.ensure(data_dir)
    if not data_dir:
        raise JaxvidError(
            f"dataset {dataset!r} needs data_dir, the folder that `python -m jaxvid.data.build`"
            " wrote: add data_dir=FOLDER to the config argument"
        )
    inner = pathlib.Path(data_dir, dataset)
    return inner if inner.is_dir() else pathlib.Path(data_dir)
