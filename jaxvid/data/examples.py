"""What an example of a batch is, and what those of training and of tests have in common.

Python plans an example (numpy, cheap) and fetches the frames that it needs, as JPEGs or, where
videos are decoded on the fly, as pixels; TensorFlow decodes JPEGs and changes pixels.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np

from jaxvid.base.errors import JaxvidError
from jaxvid.data import categories
from jaxvid.data.cpu_tf import tf
from jaxvid.data.datasets import Source, Split
from jaxvid.rows import UNKNOWN

_JPEG = {"channels": 3, "dct_method": "INTEGER_ACCURATE"}


class Examples(Protocol):
    """Examples by their positions: whose turn each is, what is loaded of that video, and what is
    made of that.

    `source` are the videos, and `specs` say by name what `load` gives, as TensorFlow takes it.
    """

    @property
    def source(self) -> Source: ...

    @property
    def specs(self) -> Mapping[str, Any]: ...

    def pick(self, position: int, attempt: int) -> int:
        """The video of a position at which `attempt` others could not be used."""
        ...

    def load(self, position: int, video: int) -> dict[str, Any]:
        """Plans an example of a video and fetches its frames, which are `images` among the rest.

        Must be thread safe.
        """
        ...

    def change(self, loaded: Mapping[str, Any]) -> dict[str, Any]:
        """Makes the example of what was loaded, in TensorFlow."""
        ...


class Labels:
    """The labels of an example as the loss takes them, described by `spec`.

    A number, or with the loss `sigmoid` a 1 at each class that the video has, and
    `UNKNOWN` at those of which nobody said. With the loss `pixels` all are 0, and videos
    need none.
    """

    def __init__(self, split: Split, loss: str):
        self._labels, self._classes = split.source.labels, len(split.classes)
        self._several, self._none = loss == "sigmoid", loss == "pixels"
        self._split = split
        if self._several:
            self.spec = tf.TensorSpec([self._classes], tf.uint8)
            return
        self.spec = tf.TensorSpec([], tf.int32)
        several = (number for number, labels in enumerate(self._labels) if len(labels) > 1)
        number = next(several, None)
        if number is not None and not self._none:
            raise JaxvidError(
                f"{split.source.name(number)} has {len(self._labels[number])} labels: set"
                " config.train.loss=sigmoid, or keep one for each video"
            )

    def __call__(self, video: int, mirrored: dict[int, int] | None = None) -> np.ndarray:
        """The labels of a video, changed as `mirrored` says."""
        if self._none:
            return np.zeros((), np.int32)
        labels = [(mirrored or {}).get(label, label) for label in self._labels[video]]
        if not self._several:
            return np.array(labels[0], np.int32)
        present = np.zeros(self._classes, np.uint8)
        if self._split.categories:
            annotated = self._split.annotated[video]
            present[~categories.known(self._split.categories, annotated)] = UNKNOWN
        present[labels] = 1
        return present


def images_spec(source: Source) -> Any:
    """What `Source.frames` gives, as TensorFlow takes it."""
    if source.encoded:
        return tf.TensorSpec([None], tf.string)
    return tf.TensorSpec([None, None, None, source.channels], tf.uint8)


def fetch(source: Source, video: int, frames: np.ndarray) -> dict[str, np.ndarray]:
    """Reads the frames of a video, each once: `images`, and the place in them of all `frames`."""
    needed, places = np.unique(frames, return_inverse=True)
    images = source.frames(int(video), needed)
    images = np.array(images, object) if source.encoded else np.asarray(images)
    return {"images": images, "frames": places.reshape(frames.shape)}


def fps_of(source: Source, video: int) -> float | None:
    """The rate of a video, if it is known."""
    fps = float(source.fps[video])
    return fps if fps > 0 else None


def pixels_of(images: Any, channels: int) -> Any:
    """Frames uint8 `[N, H, W, channels]`, decoded where they are JPEGs."""
    if images.dtype != tf.string:
        return images
    spec = tf.TensorSpec([None, None, channels], tf.uint8)
    return _each(lambda image: tf.io.decode_jpeg(image, **_JPEG)[..., :channels], images, spec)


def pixels_within(
    images: Any,
    box: Any,
    channels: int,
    fit: Callable[[Any], Any] = lambda pixels: pixels,
    spec: Any = None,
) -> Any:
    """The pixels uint8 `[N, h, w, channels]` in a box int32 `[4]` of JPEGs `[N]`.

    Equal to cropping them afterwards, but at the rim of JPEGs with subsampled chroma. Where `fit`
    is given, it is what that makes of each, as `spec` says.
    """
    spec = spec or tf.TensorSpec([None, None, channels], tf.uint8)

    def within(image: Any) -> Any:
        pixels = tf.image.decode_and_crop_jpeg(image, box, **_JPEG)
        return fit(pixels[..., :channels])

    return _each(within, images, spec)


def _each(make: Callable[[Any], Any], images: Any, spec: Any) -> Any:
    """What `make` gives for each of JPEGs `[N]`, one after the other."""
    if tf.executing_eagerly():  # where map_fn would complain of what its failure leaves behind
        return tf.stack([make(image) for image in images])
    return tf.map_fn(make, images, fn_output_signature=spec)
