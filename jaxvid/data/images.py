"""Pictures beside the videos of a training: batches of their own, as clips of one frame."""

import dataclasses
from collections.abc import Iterator

import numpy as np

from jaxvid.base.errors import JaxvidError
from jaxvid.config.parts import Data
from jaxvid.data.batches import Batches
from jaxvid.data.datasets import Split, open_split
from jaxvid.rows import Sampling

SEED = 2**40
"""Pictures draw from keys of their own: those of another seed."""


def data_of(data: Data) -> Data:
    """What is seen of pictures: `data.images`, changed as the videos are, one frame of each."""
    return dataclasses.replace(
        data,
        dataset=data.images,
        mixture=(),
        category="",
        sampling=Sampling(),
        trim=0.0,
        balance=0.0,
        mirrored_labels=(),
        repeats=1,
    )


def open_images(data: Data) -> Split:
    """The training split of `data.images`.

    Raises:
      JaxvidError: there are no such pictures, or one has several labels.
    """
    split = open_split(data_of(data), data.train_split)
    several = next((n for n, each in enumerate(split.source.labels) if len(each) > 1), None)
    if several is not None:
        raise JaxvidError(
            f"config.data.images: {split.source.name(several)} has several labels: keep one"
        )
    return split


class Joint:
    """Batches of videos and, under `image` and `image_label`, of pictures, step by step."""

    def __init__(self, videos: Batches, pictures: Batches):
        self._videos, self._pictures = videos, pictures

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        pictures = next(self._pictures)
        return next(self._videos) | {"image": pictures["video"], "image_label": pictures["label"]}

    @property
    def bad(self) -> dict[str, str]:
        """Why videos and pictures could not be used."""
        both = {"video": self._videos.bad, "picture": self._pictures.bad}
        return {f"{what} {n}": why for what, bad in both.items() for n, why in bad.items()}

    def close(self) -> None:
        """Ends the threads of both."""
        self._videos.close()
        self._pictures.close()
