"""What all that samples a split sees of it: arrays over videos, and what fetches their frames."""

import dataclasses
from collections.abc import Sequence
from typing import Protocol

import numpy as np


class Source(Protocol):
    """Where a split's frames come from: records, or video files; other stores can join.

    The arrays have one element per video. `fps` is NaN where unknown. `labels` are the classes of
    each video, of which it may have several. `encoded` says whether `frames` gives JPEGs or pixels,
    of which the first `channels` are meant: 3 of RGB, or 2 of optical flow, where frames are pairs;
    `remote` whether it waits for a network most of the time.
    """

    encoded: bool
    channels: int
    remote: bool
    num_frames: np.ndarray
    fps: np.ndarray
    labels: list[tuple[int, ...]]
    height: np.ndarray
    width: np.ndarray
    path: np.ndarray
    classes: tuple[str, ...]

    def __len__(self) -> int: ...

    def name(self, number: int) -> str:
        """Says where a video lies, for messages."""
        ...

    def frames(self, number: int, indices: np.ndarray) -> list[bytes] | np.ndarray:
        """Reads the frames `indices` of a video; must be thread safe.

        JPEGs, or pixels uint8 `[N, H, W, channels]` of the video's `height` and `width`.
        """
        ...


@dataclasses.dataclass(frozen=True)
class Split:
    """The videos of one split, with class names that cover all their labels.

    Where a video may be annotated for some `categories` of classes only, these are those of each
    class, and `annotated` those of each video, where none means all. Of several datasets, `shares`
    are how many of the videos each has, one after another, and its share of the clips of training.
    """

    source: Source
    classes: tuple[str, ...]
    categories: tuple[str, ...] = ()
    annotated: Sequence[tuple[str, ...]] = ()
    shares: tuple[tuple[int, float], ...] = ()

    def __len__(self) -> int:
        return len(self.source)

    @property
    def short_side(self) -> int:
        """The shorter side of the largest picture: what frames were shrunk to, at most."""
        return int(np.minimum(self.source.height, self.source.width).max())

    @property
    def paths(self) -> list[str]:
        """The videos' paths, in the order of their numbers."""
        return [str(path) for path in self.source.path]
