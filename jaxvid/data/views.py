"""The views of a published test: which frames it sees of a video, and how they are cropped."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxvid.config.parts import Test
from jaxvid.data import augment, sampling
from jaxvid.data.batches import Part
from jaxvid.data.cpu_tf import tf
from jaxvid.data.datasets import Split
from jaxvid.data.examples import Labels, fetch, fps_of, images_spec, pixels_of
from jaxvid.rows import CROP_COUNTS, Protocol

PIECE = 10
"""Clips of an untrimmed video in one example: as many as the tables' tests commonly have."""


def make_protocol(test: Test) -> Protocol:
    """The published part of `config.test`.

    Raises:
      JaxvidError: it has no such crops, or they are larger than the picture.
    """
    augment.check_protocol(test.protocol)
    return test.protocol


def plan_test(
    protocol: Protocol, total_frames: int, fps: float | None
) -> tuple[np.ndarray, np.ndarray]:
    """Says which frames a test needs of a video, so that only those are decoded.

    Returns:
        The needed frame numbers in rising order, int64 `[N]`, and the place in them of every
        frame of every clip, int64 `[clips, T]`. Of flow, frames are pairs, and a clip has those of
        all of its stacks.
    """
    clips = _frames(protocol, total_frames, fps)
    frames, places = np.unique(clips, return_inverse=True)
    return frames, places.reshape(clips.shape)


def make_views(frames: np.ndarray, clips: np.ndarray, protocol: Protocol) -> np.ndarray:
    """Turns decoded frames into the views that a test would see of them.

    Args:
        frames: uint8 RGB `[N, H, W, 3]`, or pairs of flow `[N, H, W, 2]`, those that `plan_test`
            asked for.
        clips: its places `[clips, N]`.
        protocol: the row's test.

    Returns:
        uint8 `[V, T, crop, crop, C]`, just what `test_batches` gives for records of these frames.
    """
    augment.check_protocol(protocol)
    return augment.make_views(frames, clips, protocol, np)


def views_shape(protocol: Protocol) -> tuple[int, int, int, int, int]:
    """Shape [V, T, H, W, C] of the views of one example of a test."""
    clips = PIECE if untrimmed(protocol) else len(_frames(protocol, 1, None))
    return (clips * CROP_COUNTS[protocol.crops], *protocol.view)


def untrimmed(protocol: Protocol) -> bool:
    """Whether every video has its own number of views, and is tested in pieces."""
    return protocol.sampling.sampler == "untrimmed"


class Views:
    """All views of each video as an example: `video`, `label`, `index`, and a `weight` of 1."""

    def __init__(self, split: Split, test: Test, part: Part, loss: str):
        self.source = split.source
        self._part, self._protocol = part, make_protocol(test)
        self._shape = views_shape(self._protocol)
        clips = self._shape[0] // CROP_COUNTS[self._protocol.crops]
        frames = self._shape[1] * self._shape[-1] // self.source.channels
        self._labels = Labels(split, loss)
        self.specs = {
            "images": images_spec(self.source),
            "frames": tf.TensorSpec([clips, frames], tf.int64),
            "label": self._labels.spec,
            "index": tf.TensorSpec([], tf.int64),
        }

    def __len__(self) -> int:
        return len(self.source)

    def pick(self, position: int, attempt: int) -> int:
        """The videos in their order; nothing stands in for a bad one."""
        return self._part.number(position)

    def load(self, position: int, video: int) -> dict[str, Any]:
        """Reads the frames of all clips."""
        return self._loaded(video, self._clips(video))

    def _clips(self, video: int) -> np.ndarray:
        """The numbers of the frames of all clips of a video, int64 `[clips, T]`."""
        total, fps = int(self.source.num_frames[video]), fps_of(self.source, video)
        return _frames(self._protocol, total, fps)

    def _loaded(self, video: int, clips: np.ndarray) -> dict[str, Any]:
        return {
            **fetch(self.source, video, clips),
            "label": self._labels(video),
            "index": np.int64(video),
        }

    def change(self, loaded: Mapping[str, Any]) -> dict[str, Any]:
        """Decodes, resizes and crops them."""
        pixels = pixels_of(loaded["images"], self.source.channels)
        views = augment.make_views(pixels, loaded["frames"], self._protocol)
        return {
            "video": tf.ensure_shape(views, self._shape),
            "label": loaded["label"],
            "index": loaded["index"],
            "weight": tf.constant(1.0),
        }

    def none(self) -> dict[str, np.ndarray]:
        """A batch of no videos."""
        label = self._labels.spec
        return {
            "video": np.zeros((0, *self._shape), np.uint8),
            "label": np.zeros((0, *label.shape), label.dtype.as_numpy_dtype),
            "index": np.zeros(0, np.int64),
            "weight": np.zeros(0, np.float32),
        }


class Pieces(Views):
    """The views of videos that each have their own number of clips, `PIECE` of these at a time.

    The `weight` of a piece is its share of its video's clips, and `shown` [V] is 0 for views that
    only fill it up.
    """

    def __init__(self, split: Split, test: Test, part: Part, loss: str):
        super().__init__(split, test, part, loss)
        pieces = [-(-len(self._clips(video)) // PIECE) for video in range(len(split))]
        self._ends = np.cumsum(pieces)
        self.specs |= {
            "shown": tf.TensorSpec([self._shape[0]], tf.float32),
            "weight": tf.TensorSpec([], tf.float32),
        }

    def __len__(self) -> int:
        return int(self._ends[-1])

    def pick(self, position: int, attempt: int) -> int:
        """The video of each piece, in their order; nothing stands in for a bad one."""
        return int(np.searchsorted(self._ends, self._part.number(position), side="right"))

    def load(self, position: int, video: int) -> dict[str, Any]:
        """Reads the frames of a piece; its last clip fills it up."""
        clips = self._clips(video)
        left = int(self._ends[video]) - self._part.number(position)  # pieces, this one included
        first = (-(-len(clips) // PIECE) - left) * PIECE
        places = np.arange(first, first + PIECE)
        shown = (places < len(clips)).astype(np.float32)
        return {
            **self._loaded(video, clips[np.minimum(places, len(clips) - 1)]),
            "shown": np.tile(shown, CROP_COUNTS[self._protocol.crops]),
            "weight": np.float32(shown.sum() / len(clips)),
        }

    def change(self, loaded: Mapping[str, Any]) -> dict[str, Any]:
        """Decodes, resizes and crops them."""
        return super().change(loaded) | {name: loaded[name] for name in ("shown", "weight")}

    def none(self) -> dict[str, np.ndarray]:
        """A batch of no pieces."""
        return super().none() | {"shown": np.zeros((0, self._shape[0]), np.float32)}


def _frames(protocol: Protocol, total_frames: int, fps: float | None) -> np.ndarray:
    """The numbers of the frames of all clips, int64 `[clips, T]`."""
    return sampling.sample_views(protocol.sampling, total_frames, fps, test=True)
