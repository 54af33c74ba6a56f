"""RandAugment (Cubuk et al., 2020) on clips: a few operations of random kind and strength.

Kinds, their ranges and the chance of one half that each is left out are those of the training of
MViT (Li et al., 2022). What is drawn is numpy; pixels are changed in TensorFlow, from uint8
`[T, H, W, 3]` to uint8. All frames of a clip get the same operations; where one looks at the
picture (its mean, its darkest, its histogram), that is each frame by itself.
"""

import dataclasses
import re
from typing import Any

import numpy as np

from jaxvid.base.errors import JaxvidError
from jaxvid.data.cpu_tf import tf

_CHANCE = 0.5
_SPREAD = 0.5
_LEVELS = 10
# The most that an operation changes, at level 10, in either direction.
_RANGES = {
    **dict.fromkeys(("brightness", "contrast", "saturation", "sharpness"), 0.9),
    "rotate": 30.0,
    **dict.fromkeys(("shear_x", "shear_y"), 0.3),
    **dict.fromkeys(("translate_x", "translate_y"), 0.45),
}


@dataclasses.dataclass(frozen=True)
class RandAugment:
    """How many operations are drawn for a clip, and their mean strength from 0 to 10."""

    magnitude: float
    operations: int

    def draw(self, rng: np.random.Generator) -> tuple[tuple[int, float], ...]:
        """Draws the operations of one clip in order, each kind at most once: (kind, value)."""
        kinds = rng.choice(len(KINDS), self.operations, replace=False)
        levels = np.clip(rng.normal(self.magnitude, _SPREAD, self.operations), 0, _LEVELS)
        signs = rng.choice((-1.0, 1.0), self.operations)
        applied = rng.random(self.operations) < _CHANCE
        drawn = zip(kinds[applied], levels[applied], signs[applied], strict=True)
        return tuple((int(kind), value_of(KINDS[kind], level, sign)) for kind, level, sign in drawn)


def parse(text: str) -> RandAugment:
    """Reads the recipes' form, such as `m7-n4`."""
    match = re.fullmatch(r"m(\d+(?:\.\d+)?)-n(\d+)", text)
    if not match or float(match[1]) > _LEVELS or not 1 <= int(match[2]) <= len(KINDS):
        raise JaxvidError(
            f"rand_augment is {text!r}: give m<magnitude>-n<operations> with a magnitude up to"
            f" {_LEVELS} and 1 to {len(KINDS)} operations, such as m7-n4, or nothing"
        )
    return RandAugment(float(match[1]), int(match[2]))


def value_of(kind: str, level: float, sign: float) -> float:
    """What an operation of a strength from 0 to 10 is given.

    Factors of brightness, contrast, saturation and sharpness (1 changes nothing), bits kept of
    `posterize`, the grey level from which `solarize` inverts, degrees, pixels moved per pixel of a
    shear, and shares of the side that a picture is moved by. `sign` is -1 or 1.
    """
    share = level / _LEVELS
    if kind in ("brightness", "contrast", "saturation", "sharpness"):
        return float(1 + sign * share * _RANGES[kind])
    if kind == "posterize":
        return float(4 - int(share * 4))
    if kind == "solarize":
        return float(256 * (1 - share))
    return float(sign * share * _RANGES.get(kind, 0.0))


def apply(frames: Any, kinds: Any, values: Any, fill: int = 128) -> Any:
    """Applies the drawn operations one after the other.

    Args:
        frames: uint8 `[T, H, W, 3]`.
        kinds: int32 `[N]`, places in `KINDS`.
        values: float32 `[N]`, as `value_of` says.
        fill: grey level of what moves uncover.

    Returns:
        uint8 `[T, H, W, 3]`.
    """
    shape = frames.shape

    def one(i, frames):
        branches = [lambda f=f: f(frames, values[i]) for f in _OPERATIONS.values()]
        branches += [lambda f=f: _move(frames, f(frames, values[i]), fill) for f in _MOVES.values()]
        return i + 1, tf.ensure_shape(tf.switch_case(kinds[i], branches), shape)

    return tf.while_loop(lambda i, _: i < tf.size(kinds), one, (0, frames))[1]


def gray(pixels: Any) -> Any:
    """Luma `[..., 1]` of float RGB `[..., 3]`."""
    # Several times faster than a product and a sum over the three channels.
    return 0.2989 * pixels[..., :1] + 0.587 * pixels[..., 1:2] + 0.114 * pixels[..., 2:]


def blend(pixels: Any, other: Any, factor: Any) -> Any:
    """Mixes float pixels of 0..255 with another picture; a factor above 1 leads away from it."""
    return tf.clip_by_value(factor * pixels + (1 - factor) * other, 0.0, 255.0)


def _float(frames):
    return tf.cast(frames, tf.float32)


def _uint8(pixels):
    return tf.cast(tf.round(pixels), tf.uint8)


def _brightness(frames, factor):
    return _uint8(blend(_float(frames), 0.0, factor))


def _contrast(frames, factor):
    pixels = _float(frames)
    return _uint8(blend(pixels, tf.reduce_mean(gray(pixels), [1, 2, 3], keepdims=True), factor))


def _saturation(frames, factor):
    pixels = _float(frames)
    return _uint8(blend(pixels, gray(pixels), factor))


def _sharpness(frames, factor):
    """Blends with a 3 x 3 mean that counts the middle 5 times; the rim stays as it is."""

    def sharpen():
        pixels = _float(frames)
        middle = pixels[:, 1:-1, 1:-1]
        rows = pixels[:, :-2] + pixels[:, 1:-1] + pixels[:, 2:]
        smooth = (rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:] + 4 * middle) / 13
        inner = _uint8(blend(middle, smooth, factor))
        inner = tf.concat([frames[:, 1:-1, :1], inner, frames[:, 1:-1, -1:]], 2)
        return tf.concat([frames[:, :1], inner, frames[:, -1:]], 1)

    # A picture thinner than the mask is all rim.
    return tf.cond(tf.reduce_min(tf.shape(frames)[1:3]) >= 3, sharpen, lambda: frames)


def _autocontrast(frames, _):
    """Stretches each channel to 0..255."""
    pixels = _float(frames)
    low = tf.reduce_min(pixels, [1, 2], keepdims=True)
    high = tf.reduce_max(pixels, [1, 2], keepdims=True)
    scale = 255.0 / tf.maximum(high - low, 1.0)
    return tf.where(high > low, _uint8((pixels - low) * scale), frames)


def _equalize(frames, _):
    """Spreads each channel's levels so that each occurs about as often."""
    channels = tf.shape(frames)[0] * 3
    first = tf.reshape(tf.range(channels) * 256, [-1, 1, 1, 3])
    codes = tf.cast(frames, tf.int32) + first
    counts = tf.math.bincount(
        tf.reshape(codes, [-1]), minlength=channels * 256, maxlength=channels * 256
    )
    counts = tf.reshape(counts, [-1, 256])
    total = tf.reduce_sum(counts, 1, keepdims=True)
    # The brightest level present does not count, as in Pillow.
    brightest = 255 - tf.argmax(tf.reverse(counts, [1]) > 0, 1, output_type=tf.int32)
    step = (total - tf.gather(counts, brightest, batch_dims=1)[:, None]) // 255
    before = tf.cumsum(counts, 1, exclusive=True)
    levels = tf.minimum((before + step // 2) // tf.maximum(step, 1), 255)
    levels = tf.where(step > 0, levels, tf.range(256)[None])
    return tf.gather(tf.cast(tf.reshape(levels, [-1]), tf.uint8), codes)


def _invert(frames, _):
    return 255 - frames


def _posterize(frames, bits):
    dropped = tf.cast(2.0 ** (8 - bits), tf.int32)
    return tf.bitwise.bitwise_and(frames, tf.cast(256 - dropped, tf.uint8))


def _solarize(frames, threshold):
    return tf.where(_float(frames) < threshold, frames, 255 - frames)


def _rotate(frames, degrees):
    """Turns counter-clockwise around the middle."""
    angle = degrees * (np.pi / 180)
    cos, sin = tf.cos(angle), tf.sin(angle)
    size = tf.cast(tf.shape(frames)[1:3] - 1, tf.float32) / 2
    y, x = size[0], size[1]
    return [cos, -sin, x - cos * x + sin * y], [sin, cos, y - sin * x - cos * y]


def _shear_x(frames, factor):
    # The upper rim stays in its place, half a pixel above the first row's middle.
    return [1.0, factor, factor / 2], [0.0, 1.0, 0.0]


def _shear_y(frames, factor):
    return [1.0, 0.0, 0.0], [factor, 1.0, factor / 2]


def _translate_x(frames, share):
    width = tf.cast(tf.shape(frames)[2], tf.float32)
    return [1.0, 0.0, share * width], [0.0, 1.0, 0.0]


def _translate_y(frames, share):
    height = tf.cast(tf.shape(frames)[1], tf.float32)
    return [1.0, 0.0, 0.0], [0.0, 1.0, share * height]


def _move(frames, rows, fill):
    """Takes pixel (x, y) from where the two rows, times (x, y, 1), say; `fill` from outside."""
    x, y = rows
    moved = tf.raw_ops.ImageProjectiveTransformV3(
        images=_float(frames),
        transforms=tf.stack([*x, *y, 0.0, 0.0])[None],
        output_shape=tf.shape(frames)[1:3],
        fill_value=float(fill),
        interpolation="BILINEAR",
        fill_mode="CONSTANT",
    )
    return _uint8(tf.clip_by_value(moved, 0.0, 255.0))


_OPERATIONS = {
    "brightness": _brightness,
    "contrast": _contrast,
    "saturation": _saturation,
    "sharpness": _sharpness,
    "autocontrast": _autocontrast,
    "equalize": _equalize,
    "invert": _invert,
    "posterize": _posterize,
    "solarize": _solarize,
}
_MOVES = {
    "rotate": _rotate,
    "shear_x": _shear_x,
    "shear_y": _shear_y,
    "translate_x": _translate_x,
    "translate_y": _translate_y,
}

KINDS = (*_OPERATIONS, *_MOVES)
"""A drawn operation is a place in here and a value, whose meaning `value_of` says."""
