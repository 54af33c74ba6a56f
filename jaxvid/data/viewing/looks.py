"""Clips as training is fed them, and views as the test is: uint8, before they are normalised."""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import numpy as np

from jaxvid.base.errors import JaxvidError
from jaxvid.config.parts import Config
from jaxvid.data.batches import Part
from jaxvid.data.clips import Clips
from jaxvid.data.cpu_tf import tf
from jaxvid.data.datasets import Source, Split
from jaxvid.data.examples import Examples, fps_of, pixels_of
from jaxvid.data.views import Views
from jaxvid.objectives import mixing
from jaxvid.reports import draw
from jaxvid.rows import CROP_COUNTS

_MOST = 8
"""Frames of a clip, or clips of a test, that are shown."""


@dataclasses.dataclass(frozen=True)
class Look:
    """A clip to look at, and what there is to say of it.

    `picture` (of Pillow) shows some of `pixels`, which are what a device gets: uint8
    `[T, H, W, C]`, or views `[V, T, H, W, C]`.
    """

    path: str
    labels: str
    marks: tuple[str, ...]
    details: str
    picture: Any
    pixels: np.ndarray

    @property
    def caption(self) -> tuple[str, str]:
        """Two lines: labels and marks, and where it is from."""
        first = " · ".join((self.labels, *self.marks))
        return first, f"{self.path}: {self.details}"


def of_training(config: Config, split: Split, step: int, count: int) -> Iterator[Look]:
    """The first clips of the batches from number `step` on, as the device gets and blends them."""
    train, data = config.train, config.data
    clips = Clips(split, data, Part(train.batch_size, 0, 1, "train"), train.loss, config.seed)
    if train.loss == "pixels":  # where labels say nothing
        split = dataclasses.replace(split, classes=())
    blend = mixing.Mixing(train.mixup, train.cutmix, train.mixup_switch_prob, data.repeats)
    size, side = train.batch_size, data.crop

    @functools.lru_cache(1)
    def drawn(step: int) -> tuple[np.ndarray, np.ndarray]:
        weights, kept = mixing.draw(blend, mixing.key_of(config.seed, step), size, side, side)
        return np.asarray(weights), np.asarray(kept)

    for number in range(count):
        ahead, place = divmod(number, size)
        first = (step + ahead) * size
        one = _made(clips, first + place, data.max_bad_records)
        if not blend or not split.classes:
            yield _clip(split, one)
            continue
        weights, kept = drawn(step + ahead)
        before = (place - data.repeats) % size
        other = _made(clips, first + before, data.max_bad_records)
        yield _clip(split, one, other, weights[place], float(kept[place]))


def of_test(config: Config, split: Split, count: int) -> Iterator[Look]:
    """All views of videos spread over the split, as the published test has them."""
    views = Views(split, config.test, Part(1, 0, 1, "test"), config.train.loss)
    crops = CROP_COUNTS[config.test.crops]
    for video in np.unique(np.linspace(0, len(split) - 1, count).astype(int)).tolist():
        made = _made(views, video, 0)
        pixels = made.pixels
        total, length = pixels.shape[:2]
        count = total // crops
        details = (
            f"{count} clip{'s' * (count > 1)} of {length} frames x {crops} "
            f"crop{'s' * (crops > 1)} of {pixels.shape[2]} pixels"
        )
        if count == 1 and crops <= 3:
            tiles = [list(draw.to_look_at(view[_spread(length)])) for view in pixels]
        else:
            middle = draw.to_look_at(pixels[:, length // 2])
            middle = middle.reshape(crops, count, *middle.shape[1:])
            tiles = [list(row[_spread(count)]) for row in middle]
            # The longer side lies.
            tiles = tiles if count >= crops else [list(row) for row in zip(*tiles, strict=True)]
            details += "; the middle frame of each"
        labels = named(split, video)
        yield Look(split.paths[video], labels, (), details, draw.grid(tiles), pixels)


@dataclasses.dataclass(frozen=True)
class _Made:
    """An example as the pipeline makes it."""

    video: int
    loaded: dict[str, Any]
    pixels: np.ndarray


def _made(examples: Examples, position: int, spare: int) -> _Made:
    """Makes an example as the pipeline does, also in that others stand in for bad ones."""
    bad = ""
    for attempt in range(spare + 1):
        video = examples.pick(position, attempt)
        try:
            loaded = examples.load(position, video)
            made = examples.change({name: tf.constant(loaded[name]) for name in examples.specs})
            return _Made(video, loaded, made["video"].numpy())
        except (JaxvidError, tf.errors.OpError) as error:
            bad = f"{examples.source.name(video)} cannot be shown ({str(error).splitlines()[0]})"
    raise JaxvidError(f"{bad}: leave it out")


def _clip(
    split: Split,
    made: _Made,
    other: _Made | None = None,
    weight: np.ndarray | None = None,
    kept: float = 1.0,
) -> Look:
    """A clip of training: a frame as it is stored, what is cut out of it, and what comes of that.

    `weight` and `kept` say what it keeps of itself where it is blended with another.
    """
    loaded, pixels, marks = made.loaded, made.pixels, []
    shown = _spread(len(pixels))
    middle = loaded["numbers"][shown[len(shown) // 2]]
    (before,) = stored(split.source, made.video, np.array([middle]))
    if loaded["flip"]:
        marks.append("flipped")
    labels = _said(split, loaded["label"])
    if other is not None and weight is not None:
        mixed = weight * pixels.astype(np.float32) + (1 - weight) * other.pixels
        pixels = np.rint(mixed).astype(np.uint8)
        how = "CutMix" if weight.dtype == bool or weight.min() < weight.max() else "mixup"
        name = _said(split, other.loaded["label"])
        if kept < 0.995:
            labels = f"{100 * kept:.0f} % {labels} + {100 * (1 - kept):.0f} % {name}"
            marks.append(f"{how} with {split.paths[other.video]}")
    tiles = [[draw.boxed(before, loaded["box"].tolist()), *draw.to_look_at(pixels[shown])]]
    details = _frames(split, made.video, loaded["numbers"])
    return Look(split.paths[made.video], labels, tuple(marks), details, draw.grid(tiles), pixels)


def stored(source: Source, video: int, numbers: np.ndarray) -> np.ndarray:
    """Frames as they are stored, to look at, uint8 `[N, H, W, 3]`; the numbers rise."""
    images = tf.constant(source.frames(video, numbers))
    return draw.to_look_at(pixels_of(images, source.channels).numpy())


def _spread(length: int) -> np.ndarray:
    """At most so many numbers as are shown, spread over 0 .. length - 1."""
    return np.unique(np.linspace(0, length - 1, min(length, _MOST)).round().astype(int))


def _frames(split: Split, video: int, numbers: np.ndarray) -> str:
    """Which frames of a video a clip has."""
    total, fps = int(split.source.num_frames[video]), fps_of(split.source, video)
    first, last = int(numbers.min()), int(numbers.max())
    seconds = f" ({first / fps:.1f} to {last / fps:.1f} s of {total / fps:.1f})" if fps else ""
    return f"{len(numbers)} frames from {first} to {last} of {total}{seconds}"


def _said(split: Split, label: np.ndarray) -> str:
    """The names of a clip's labels, as they are trained on."""
    numbers = np.flatnonzero(label == 1) if label.ndim else [int(label)]
    return " | ".join(split.classes[number] for number in numbers) if split.classes else ""


def named(split: Split, video: int) -> str:
    """The names of a video's labels."""
    return " | ".join(split.classes[number] for number in split.source.labels[video])
