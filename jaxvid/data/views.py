"""The views of a published test: which frames it sees of a video, and how they are cropped."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxvid.base.errors import JaxvidError
from jaxvid.config.parts import Test
from jaxvid.data import augment, sampling
from jaxvid.data.batches import Part
from jaxvid.data.cpu_tf import tf
from jaxvid.data.datasets import Split
from jaxvid.data.examples import Labels, fetch, fps_of, images_spec, pixels_of
from jaxvid.rows import CROP_COUNTS, Protocol


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
        frame of every clip, int64 `[clips, T]`.
    """
    clips = _frames(protocol, total_frames, fps)
    frames, places = np.unique(clips, return_inverse=True)
    return frames, places.reshape(clips.shape)


def make_views(frames: np.ndarray, clips: np.ndarray, protocol: Protocol) -> np.ndarray:
    """Turns decoded frames into the views that a test would see of them.

    Args:
        frames: uint8 RGB `[N, H, W, 3]`, those that `plan_test` asked for.
        clips: its places `[clips, T]`.
        protocol: the row's test.

    Returns:
        uint8 `[V, T, crop, crop, 3]`, just what `test_batches` gives for records of these frames.
    """
    augment.check_protocol(protocol)
    return augment.make_views(tf.constant(frames), tf.constant(clips), protocol).numpy()


class Views:
    """All views of each video as an example: `video`, `label`, `index`, and a `weight` of 1."""

    def __init__(self, split: Split, test: Test, part: Part, loss: str):
        self.source = split.source
        self._part, self._protocol = part, make_protocol(test)
        if self._protocol.sampling.sampler == "untrimmed":
            raise JaxvidError(
                "the untrimmed sampler gives every video its own number of views, which cannot be"
                " batched: take another sampler, or predict video by video"
            )
        clips, length = _frames(self._protocol, 1, None).shape
        views, crop = clips * CROP_COUNTS[self._protocol.crops], self._protocol.crop
        self._shape = (views, length, crop, crop, 3)
        self._labels = Labels(split, loss)
        self.specs = {
            "images": images_spec(self.source),
            "frames": tf.TensorSpec([clips, length], tf.int64),
            "label": self._labels.spec,
            "index": tf.TensorSpec([], tf.int64),
        }

    def pick(self, position: int, attempt: int) -> int:
        """The videos in their order; nothing stands in for a bad one."""
        return self._part.number(position)

    def load(self, position: int, video: int) -> dict[str, Any]:
        """Reads the frames of all clips."""
        total, fps = int(self.source.num_frames[video]), fps_of(self.source, video)
        return {
            **fetch(self.source, video, _frames(self._protocol, total, fps)),
            "label": self._labels(video),
            "index": np.int64(video),
        }

    def change(self, loaded: Mapping[str, Any]) -> dict[str, Any]:
        """Decodes, resizes and crops them."""
        pixels = pixels_of(loaded["images"])
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


def _frames(protocol: Protocol, total_frames: int, fps: float | None) -> np.ndarray:
    """The numbers of the frames of all clips, int64 `[clips, T]`."""
    return sampling.sample_views(protocol.sampling, total_frames, fps, test=True)
