"""The clips of training: which video each is of, what is seen of it, and how that is changed.

The videos of training follow one another without end, as `order` says: all videos in an order drawn
from (seed, 0), all of them in an order drawn from (seed, 1), and so on, unless `data.balance` gives
rare classes more of the turns. Each gives `data.repeats` clips that
follow one another: of the same frames, unless `data.repeats_share_frames` is off, but changed each
in its own way. Clip number n of this stream is in batch n // batch size, and everything random
about it is drawn from (seed, n). So batches do not depend on how many processes share them,
starting at any step costs nothing, and fewer videos than a batch holds just come round sooner.

A clip that cannot be read or decoded is replaced by that of another video, which is drawn from
(seed, n) too.
"""

from collections.abc import Callable, Mapping
from typing import Any, cast

import numpy as np

from jaxvid.base.errors import JaxvidError
from jaxvid.config.parts import Data
from jaxvid.data import augment, rand_augment, sampling
from jaxvid.data.batches import Part
from jaxvid.data.cpu_tf import tf
from jaxvid.data.datasets import Split
from jaxvid.data.examples import Labels, fetch, fps_of, images_spec, pixels_of, pixels_within
from jaxvid.data.order import Order, generator

_SPARE_KEYS = 2**62
"""Videos that stand in for bad ones draw from keys of their own, beside those of the clips."""


def clip_shape(data: Data) -> tuple[int, int, int, int]:
    """Shape [T, H, W, C] of one training clip."""
    rng = np.random.default_rng(0)
    views = sampling.sample_views(data.sampling, 1, test=False, rng=rng)
    if len(views) != 1:
        raise JaxvidError(
            f"config.data.sampling gives {len(views)} clips of a video, but training takes one:"
            " set num_clips to 1"
        )
    return data.sampling.length, data.crop, data.crop, data.sampling.channels


def make_augmentation(data: Data) -> augment.Augmentation:
    """The random changes of training that `config.data` describes."""
    return augment.Augmentation(
        size=data.crop,
        crop_mode=data.crop_mode,
        crop_scales=data.crop_scales,
        even_sides=data.even_sides,
        crop_scale_gap=data.crop_scale_gap,
        fixed_crops=data.fixed_crops,
        area=data.area,
        aspect=data.aspect,
        flip=data.flip,
        color_jitter=data.color_jitter,
        hue_bytes=data.hue_bytes,
        rand_augment=data.rand_augment,
        rand_augment_fill=data.rand_augment_fill,
        rand_augment_after_crop=data.rand_augment_after_crop,
        random_erasing=data.random_erasing,
    )


class Clips:
    """The clips of a training as examples: `video`, `label` and `index`."""

    def __init__(self, split: Split, data: Data, part: Part, loss: str, seed: int):
        if data.repeats < 1 or part.batch % data.repeats:
            raise JaxvidError(
                f"config.train.batch_size is {part.batch} clips, but config.data.repeats is"
                f" {data.repeats}: take a multiple of it"
            )
        self.source = split.source
        self._data, self._part, self._seed = data, part, seed
        self._shape = clip_shape(data)
        self._count = self._shape[0] * self._shape[-1] // self.source.channels
        self._augmentation = make_augmentation(data)
        self._on_crop = bool(data.rand_augment) and data.rand_augment_after_crop
        self._on_whole = bool(data.rand_augment) and not self._on_crop
        self._within = self.source.encoded and not self._on_whole
        self._labels = Labels(split, loss)
        self._mirrored = {a: b for pair in data.mirrored_labels for a, b in (pair, pair[::-1])}
        if seed < 0:
            raise JaxvidError(f"config.seed is {seed}: give a whole number from 0")
        self._order = Order(self.source.labels, data.balance, seed, split.shares)
        self.specs = {
            "images": images_spec(self.source),
            "frames": tf.TensorSpec([self._count], tf.int64),
            **_drawn(),
            "label": self._labels.spec,
            "index": tf.TensorSpec([], tf.int64),
        }

    def pick(self, position: int, attempt: int) -> int:
        """The video whose turn it is; after a bad one any other."""
        number = self._part.number(position) // self._data.repeats
        if attempt:
            spare = generator(self._seed, _SPARE_KEYS + number)
            return int(spare.integers(len(self.source), size=attempt)[-1])
        return self._order(number)

    def load(self, position: int, video: int) -> dict[str, Any]:
        """Draws what is seen of a video and how it is changed, and reads its frames.

        Beside what `change` takes are the `numbers` in the video of the frames that are seen.
        """
        number, repeat = divmod(self._part.number(position), self._data.repeats)
        rng = generator(self._seed, number)
        if not self._data.repeats_share_frames:
            rng = _jumped(rng, repeat)
        frames = self._frames(video, rng)
        if self._data.repeats_share_frames:
            rng = _jumped(rng, repeat)
        height, width = int(self.source.height[video]), int(self.source.width[video])
        drawn = augment.draw(self._augmentation, height, width, rng)
        return {
            **fetch(self.source, video, frames),
            "numbers": frames,
            **_arrays(drawn),
            "label": self._labels(video, self._mirrored if drawn.flip else {}),
            "index": np.int64(video),
        }

    def _frames(self, video: int, rng: np.random.Generator) -> np.ndarray:
        """Draws the numbers of the frames that are seen, int64 `[T]`."""
        first, total = 0, int(self.source.num_frames[video])
        if self._data.trim:
            first, total = _trim(total, self._data.trim, rng)
        fps = fps_of(self.source, video)
        views = sampling.sample_views(self._data.sampling, total, fps, test=False, rng=rng)
        return first + views[0]

    def change(self, loaded: Mapping[str, Any]) -> dict[str, Any]:
        """Decodes the drawn box of the frames and changes it as drawn."""
        changes = loaded["flip"], loaded["jitter"], loaded["order"], self._augmentation
        pixels = augment.change(self._fitted(loaded), *changes)
        if self._on_crop:
            pixels = self._operate(pixels, loaded)
        pixels = _in_order(pixels, loaded["frames"])
        if self._augmentation.random_erasing:
            pixels = augment.erase(pixels, loaded["erased"], loaded["noise"])
        if self._count > self._shape[0]:
            pixels = augment.stacked(pixels, self._shape[-1])
        pixels = tf.ensure_shape(pixels, self._shape)
        return {"video": pixels, "label": loaded["label"], "index": loaded["index"]}

    @property
    def stages(self) -> dict[str, Callable[[Mapping[str, Any]], Any]]:
        """`change`, and before it what stops after a part of what it does: by those parts."""
        return {
            "decode" if self.source.encoded else "crop": self._cropped,
            "resize": self._fitted,
            "mirror, colours": self.change,
        }

    def _cropped(self, loaded: Mapping[str, Any]) -> Any:
        """The pixels uint8 `[N, h, w, C]` of the drawn box of all frames."""
        channels = self.source.channels
        if self._within:
            return pixels_within(loaded["images"], loaded["box"], channels)
        pixels = pixels_of(loaded["images"], channels)
        if self._on_whole:
            pixels = self._operate(pixels, loaded)
        top, left, height, width = tf.unstack(loaded["box"])
        return pixels[:, top : top + height, left : left + width]

    def _fitted(self, loaded: Mapping[str, Any]) -> Any:
        """The drawn box of all frames, as `augment.fit` makes it of each."""
        channels, how = self.source.channels, self._augmentation
        if not self._within:
            return augment.fit_all(self._cropped(loaded), how)
        spec = augment.fitted_spec(how, channels)
        # A frame is resized while its pixels are near the processor.
        return pixels_within(
            loaded["images"], loaded["box"], channels, lambda box: augment.fit(box, how), spec
        )

    def _operate(self, pixels: Any, loaded: Mapping[str, Any]) -> Any:
        """Changes pixels by the operations of RandAugment that were drawn."""
        fill = self._augmentation.rand_augment_fill
        return rand_augment.apply(pixels, loaded["kinds"], loaded["values"], fill=fill)


def _in_order(pixels: Any, places: Any) -> Any:
    """The frames `[N, H, W, C]` at `places` int64 `[T]`, in which each is at least once."""
    rising = tf.reduce_all(places == tf.range(tf.size(places, tf.int64)))
    return tf.cond(rising, lambda: pixels, lambda: tf.gather(pixels, places))


def _drawn() -> dict[str, Any]:
    """What `_arrays` gives, as TensorFlow takes it."""
    return {
        "box": tf.TensorSpec([4], tf.int32),
        "flip": tf.TensorSpec([], tf.bool),
        "jitter": tf.TensorSpec([4], tf.float32),
        "order": tf.TensorSpec([4], tf.int32),
        "kinds": tf.TensorSpec([None], tf.int32),
        "values": tf.TensorSpec([None], tf.float32),
        "erased": tf.TensorSpec([4], tf.int32),
        "noise": tf.TensorSpec([2], tf.int32),
    }


def _arrays(drawn: augment.Draw) -> dict[str, np.ndarray]:
    """What was drawn, as arrays; the operations as their `kinds` and `values`."""
    operations = np.array(drawn.operations, np.float32).reshape(-1, 2)
    return {
        "box": np.array(drawn.box, np.int32),
        "flip": np.array(drawn.flip),
        "jitter": np.array(drawn.jitter, np.float32),
        "order": np.array(drawn.order, np.int32),
        "kinds": operations[:, 0].astype(np.int32),
        "values": operations[:, 1],
        "erased": np.array(drawn.erased, np.int32),
        "noise": np.array(drawn.noise, np.int32),
    }


def _jumped(rng: np.random.Generator, repeat: int) -> np.random.Generator:
    """Numbers of a repeat's own; of the first, those of the video."""
    bits = cast(np.random.Philox, rng.bit_generator)
    return np.random.Generator(bits.jumped(repeat)) if repeat else rng


def _trim(total: int, share: float, rng: np.random.Generator) -> tuple[int, int]:
    """Cuts up to `share` of a video off at either end; returns the first frame and how many."""
    before, after = (rng.uniform(0, share, size=2) * total).astype(int)
    return int(before), total - int(before) - int(after)
