"""Pixels: the crops of a published test and the random changes of training.

What is drawn is numpy and a function of a Generator; what is done to pixels is TensorFlow, from
uint8 `[T, H, W, C]` to uint8; the crops of a test are in numpy, too, with the same pixels. All
frames of a clip are changed alike. Their channels are red, green and blue, or x and y of optical
flow (`jaxvid.data.flow`), of which a mirror turns x around.
"""

import dataclasses

import numpy as np

from jaxvid.base.errors import JaxvidError
from jaxvid.data import rand_augment, resize
from jaxvid.data.cpu_tf import tf
from jaxvid.rows import CROP_MODES, Protocol


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Settings of the random changes of training.

    Attributes:
        size: side in pixels of the square that comes out.
        crop_mode: `random_resized` (a box of any place, area and aspect; Inception, 2014),
            `multi_scale` (one of a few sizes and places; TSN, 2016), `square` (a square of any
            place; VGG, 2014), `whole` (as `random_resized` on the picture squashed to a square, for
            tests on whole pictures) or `center` (the largest central square).
        crop_scales: sides of `multi_scale` boxes, as fractions of the picture's short side; those
            of `square` lie between the least and the greatest.
        even_sides: whether `square` cuts its box from a picture resized to a short side that is
            drawn evenly from all that make the box as large as `crop_scales` say, so that wide
            views are rarer; else the box's scale itself is drawn evenly.
        crop_scale_gap: how many places of that list its height and width may lie apart.
        fixed_crops: at how many places its boxes lie: 5, or 13 in steps of a quarter of the room.
        area: range of the box's area, as a fraction of the picture's.
        aspect: range of its width over its height; for `whole`, in shares of the picture's.
        flip: probability of mirroring left and right.
        color_jitter: how far brightness, contrast and saturation factors may lie from 1, and
            how far hue may turn, as a fraction of the circle.
        hue_bytes: whether that fraction is cut to whole 255ths, of which 180 make the circle
            (MMAction2's hue on OpenCV's bytes: 0.1 turns by up to 25 / 180).
        rand_augment: `m<magnitude>-n<operations>` or nothing.
        rand_augment_fill: grey level of what its moves uncover.
        rand_augment_after_crop: whether it changes the square that comes out, not the whole
            picture before the box is cut.
        random_erasing: probability that a box of noise covers a part of the clip.
    """

    size: int = 224
    crop_mode: str = "random_resized"
    crop_scales: tuple[float, ...] = (1.0, 0.875, 0.75, 0.66)
    even_sides: bool = False
    crop_scale_gap: int = 1
    fixed_crops: int = 5
    area: tuple[float, float] = (0.08, 1.0)
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    color_jitter: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    hue_bytes: bool = False
    rand_augment: str = ""
    rand_augment_fill: int = 128
    rand_augment_after_crop: bool = False
    random_erasing: float = 0.0

    def __post_init__(self) -> None:
        if self.crop_mode not in CROP_MODES:
            raise JaxvidError(
                f"crop_mode is {self.crop_mode!r}: choose one of {', '.join(CROP_MODES)}"
            )
        if not self.crop_scales or not all(0 < scale <= 1 for scale in self.crop_scales):
            raise JaxvidError(f"crop_scales is {self.crop_scales}: give fractions of the side")
        if self.crop_scale_gap < 0:
            raise JaxvidError(f"crop_scale_gap is {self.crop_scale_gap}: give a number from 0")
        if self.fixed_crops not in (5, 13):
            raise JaxvidError(f"fixed_crops is {self.fixed_crops}: give 5 or 13")
        if not 0 < self.area[0] <= self.area[1] <= 1:
            raise JaxvidError(f"area is {self.area}: give two rising fractions of the picture")
        if not 0 < self.aspect[0] <= self.aspect[1]:
            raise JaxvidError(f"aspect is {self.aspect}: give two rising ratios above 0")
        if not 0 <= self.flip <= 1:
            raise JaxvidError(f"flip is {self.flip}: give a probability")
        *factors, hue = self.color_jitter
        if len(factors) != 3 or not all(0 <= f <= 1 for f in factors) or not 0 <= hue <= 0.5:
            raise JaxvidError(
                f"color_jitter is {self.color_jitter}: give brightness, contrast and saturation"
                " up to 1, then hue up to 0.5"
            )
        if not 0 <= self.random_erasing <= 1:
            raise JaxvidError(f"random_erasing is {self.random_erasing}: give a probability")
        if self.rand_augment:
            rand_augment.parse(self.rand_augment)
        if not 0 <= self.rand_augment_fill <= 255:
            raise JaxvidError(
                f"rand_augment_fill is {self.rand_augment_fill}: give a grey level from 0 to 255"
            )


@dataclasses.dataclass(frozen=True)
class Draw:
    """What was drawn for one clip.

    `box` is (top, left, height, width) in pixels of the stored picture, `jitter` the brightness,
    contrast and saturation factors and the turn of hue, and `order` the order they are applied in.
    `operations` are RandAugment's (kind, value). `erased` is a box like `box`, in pixels of the
    square that comes out and empty where nothing is erased, and `noise` what its pixels follow
    from.
    """

    box: tuple[int, int, int, int]
    flip: bool
    jitter: tuple[float, float, float, float]
    order: tuple[int, int, int, int]
    operations: tuple[tuple[int, float], ...] = ()
    erased: tuple[int, int, int, int] = (0, 0, 0, 0)
    noise: tuple[int, int] = (0, 0)


def draw(augmentation: Augmentation, height: int, width: int, rng: np.random.Generator) -> Draw:
    """Draws the changes of one clip of `height` x `width` pictures."""
    box = _BOXES[augmentation.crop_mode](augmentation, height, width, rng)
    flip = bool(rng.random() < augmentation.flip)
    spread = np.asarray(augmentation.color_jitter)
    jitter = rng.uniform(-spread, spread) + (1.0, 1.0, 1.0, 0.0)
    if augmentation.hue_bytes:
        jitter[3] = np.trunc(jitter[3] * 255) / 180
    order = rng.permutation(4)
    operations: tuple[tuple[int, float], ...] = ()
    erased, noise = (0, 0, 0, 0), (0, 0)
    if augmentation.rand_augment:
        operations = rand_augment.parse(augmentation.rand_augment).draw(rng)
    if rng.random() < augmentation.random_erasing:
        erased = _erased_box(augmentation.size, rng)
        noise = tuple(rng.integers(2**31, size=2).tolist())
    return Draw(box, flip, tuple(jitter.tolist()), tuple(order.tolist()), operations, erased, noise)


def _random_resized(
    augmentation: Augmentation, height: int, width: int, rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """A box of random area and aspect, the central square where none fits."""
    box = _find_box(augmentation, height, width, rng)
    return box or _center(augmentation, height, width, rng)


def _find_box(
    augmentation: Augmentation, height: int, width: int, rng: np.random.Generator
) -> tuple[int, int, int, int] | None:
    """The first of 10 boxes of random area, aspect and place that fits into the picture."""
    area = rng.uniform(*augmentation.area, size=10) * height * width
    low, high = np.log(augmentation.aspect)
    aspect = np.exp(rng.uniform(low, high, size=10))
    widths = np.round(np.sqrt(area * aspect)).astype(int)
    heights = np.round(np.sqrt(area / aspect)).astype(int)
    for h, w in zip(heights, widths, strict=True):
        if 0 < h <= height and 0 < w <= width:
            top = rng.integers(height - h + 1)
            left = rng.integers(width - w + 1)
            return int(top), int(left), int(h), int(w)
    return None


def _whole(
    augmentation: Augmentation, height: int, width: int, rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """A box of about the picture's own aspect; the whole picture where none fits."""
    shape = width / height
    low, high = augmentation.aspect
    stretched = dataclasses.replace(augmentation, aspect=(low * shape, high * shape))
    box = _find_box(stretched, height, width, rng)
    return box or (0, 0, height, width)


def _multi_scale(
    augmentation: Augmentation, height: int, width: int, rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """A box whose sides are near scales of the short side, at one of a few places."""
    sizes = [max(1, int(min(height, width) * scale)) for scale in augmentation.crop_scales]
    gap = augmentation.crop_scale_gap
    pairs = [(h, w) for i, h in enumerate(sizes) for j, w in enumerate(sizes) if abs(i - j) <= gap]
    h, w = pairs[rng.integers(len(pairs))]
    down, right = (height - h) // 4, (width - w) // 4
    y, x = _PLACES[rng.integers(augmentation.fixed_crops)]
    return y * down, x * right, h, w


def _square(
    augmentation: Augmentation, height: int, width: int, rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """A square of any place, its side uniform between the extreme scales of the short side."""
    if augmentation.even_sides:
        return _resized_square(augmentation, height, width, rng)
    scale = rng.uniform(min(augmentation.crop_scales), max(augmentation.crop_scales))
    side = max(1, round(min(height, width) * scale))
    return int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1)), side, side


def _resized_square(
    augmentation: Augmentation, height: int, width: int, rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """Where a square of `size` lies in the picture, if this is first resized to a drawn side."""
    size, short = augmentation.size, min(height, width)
    low, high = (round(size / pick(augmentation.crop_scales)) for pick in (max, min))
    resize = rng.integers(low, high + 1) / short
    side = min(max(1, round(size / resize)), short)

    def place(length: int) -> int:
        # The last place is never drawn: so the published networks were trained.
        first = rng.integers(max(round(length * resize) - size, 1))
        return min(round(first / resize), length - side)

    return place(height), place(width), side, side


def _center(
    augmentation: Augmentation, height: int, width: int, rng: np.random.Generator
) -> tuple[int, int, int, int]:
    side = min(height, width)
    return (height - side) // 2, (width - side) // 2, side, side


_BOXES = {
    "random_resized": _random_resized,
    "multi_scale": _multi_scale,
    "square": _square,
    "whole": _whole,
    "center": _center,
}

# In quarters of the room: corners and centre, then middles of sides and centres of quarters.
_PLACES = (
    *((0, 0), (0, 4), (4, 0), (4, 4), (2, 2)),
    *((2, 0), (2, 4), (4, 2), (0, 2)),
    *((1, 1), (1, 3), (3, 1), (3, 3)),
)


def _erased_box(size: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """A box of 2 % to a third of the square (Zhong et al., 2020), cut to fit into it."""
    area = rng.uniform(0.02, 1 / 3) * size**2
    aspect = np.exp(rng.uniform(*np.log((3 / 10, 10 / 3))))
    height = min(max(round(np.sqrt(area / aspect)), 1), size)
    width = min(max(round(np.sqrt(area * aspect)), 1), size)
    top, left = rng.integers(size - height + 1), rng.integers(size - width + 1)
    return int(top), int(left), height, width


def finish(frames, flip, jitter, order, augmentation: Augmentation):
    """Resizes, mirrors and recolours the frames of one cropped clip.

    Args:
        frames: uint8 `[T, h, w, C]`, the pixels of the drawn box.
        flip: bool scalar.
        jitter: float32 `[4]`, as in `Draw`.
        order: int32 `[4]`, as in `Draw`.
        augmentation: the settings.

    Returns:
        uint8 `[T, size, size, C]`.
    """
    return change(fit_all(frames, augmentation), flip, jitter, order, augmentation)


def fit_all(frames, augmentation: Augmentation):
    """`fit` of each of the frames `[T, h, w, C]`."""
    kind = fitted_spec(augmentation, frames.shape[-1])
    return tf.map_fn(lambda frame: fit(frame, augmentation), frames, fn_output_signature=kind)


def fit(frame, augmentation: Augmentation):
    """Resizes the drawn box uint8 `[h, w, C]` of a frame to what `fitted_spec` says.

    Frame by frame, what is resized in float32 stays near the processor until it is rounded.
    """
    kind = fitted_spec(augmentation, frame.shape[-1])
    pixels = _bilinear(frame, kind.shape[:2])
    return tf.ensure_shape(_rounded(pixels) if kind.dtype == tf.uint8 else pixels, kind.shape)


def fitted_spec(augmentation: Augmentation, channels: int):
    """What `fit` gives: uint8 `[size, size, C]`, or float32 where more is done before rounding."""
    size = augmentation.size
    # A mirror subtracts x of flow from 255, which would round halves the other way.
    exact = any(augmentation.color_jitter) or channels == 2
    return tf.TensorSpec([size, size, channels], tf.float32 if exact else tf.uint8)


def change(frames, flip, jitter, order, augmentation: Augmentation):
    """Mirrors and recolours the frames `[T, size, size, C]` of one clip that `fit` has made.

    The rest is as in `finish`.
    """
    pixels = tf.cond(flip, lambda: mirrored(frames), lambda: frames)
    if any(augmentation.color_jitter):
        pixels = _recolor(pixels, jitter, order, hue=augmentation.color_jitter[3] > 0)
    return _rounded(pixels)


def _bilinear(frame, size):
    """Resizes uint8 `[h, w, C]` to (height, width) in float32."""
    # To the same pixels TensorFlow takes two thirds of the time where they are float32 before.
    frame = tf.cast(frame, tf.float32)
    return tf.image.resize(frame, size, method="bilinear", antialias=False)


def _rounded(pixels):
    return tf.cast(tf.round(pixels), tf.uint8)


def mirrored(pixels, of=tf):
    """Mirrors pixels `[T, H, W, C]` of 0..255 left and right; of flow, x becomes 255 - x."""
    turned = turned_around(pixels, of)
    if pixels.shape[-1] != 2:
        return turned
    return of.stack([255 - turned[..., 0], turned[..., 1]], -1)


def turned_around(pixels, of=tf):
    """Turns the columns of `[T, H, W, C]` around, whatever is in them."""
    if of is np:
        return pixels[:, :, ::-1]
    # TensorFlow is ten times as fast at rows of pixels as at a slice with a step of -1.
    shape = tf.shape(pixels)
    rows = tf.reshape(pixels, [-1, shape[2], pixels.shape[-1]])
    return tf.reshape(tf.reverse(rows, [1]), shape)


def stacked(frames, channels: int, of=tf):
    """Frames `[N * k, H, W, C]` as stacks `[N, H, W, channels]` of k = channels / C side by side.

    So the channels of stacked pairs of flow are x, y, x, y and so on.
    """
    height, width, own = (of.shape(frames)[axis] for axis in (1, 2, 3))
    stacks = of.reshape(frames, [-1, channels // frames.shape[-1], height, width, own])
    return of.reshape(of.transpose(stacks, [0, 2, 3, 1, 4]), [-1, height, width, channels])


def _recolor(pixels, jitter, order, hue: bool):
    """Applies the four colour changes to float32 `[T, H, W, 3]` of 0..255 in the drawn order."""

    blend, gray = rand_augment.blend, rand_augment.gray

    def turn_hue(image):
        return tf.image.adjust_hue(image / 255.0, jitter[3]) * 255.0 if hue else image

    for which in tf.unstack(order):
        image = pixels
        pixels = tf.switch_case(
            which,
            [
                lambda image=image: blend(image, 0.0, jitter[0]),
                lambda image=image: blend(
                    image, tf.reduce_mean(gray(image), [1, 2, 3], keepdims=True), jitter[1]
                ),
                lambda image=image: blend(image, gray(image), jitter[2]),
                lambda image=image: turn_hue(image),
            ],
        )
    return tf.clip_by_value(pixels, 0.0, 255.0)


def erase(frames, box, noise):
    """Covers the same box of all frames with uniform noise, another in each frame.

    Args:
        frames: uint8 `[T, H, W, 3]`.
        box: int32 `[4]`, as in `Draw.erased`.
        noise: int32 `[2]`, as in `Draw`.

    Returns:
        uint8 `[T, H, W, 3]`.
    """
    length, height, width, channels = tf.unstack(tf.shape(frames))
    top, left, rows, columns = tf.unstack(box)

    def cover():
        pixels = tf.random.stateless_uniform(
            [length, rows, columns, channels], noise, 0, 256, tf.int32, alg="philox"
        )
        bottom, right = height - top - rows, width - left - columns
        rim = [[0, 0], [top, bottom], [left, right], [0, 0]]
        noisy = tf.pad(tf.cast(pixels, tf.uint8), rim)
        outside = tf.pad(tf.zeros([1, rows, columns, 1], tf.bool), rim, constant_values=True)
        return tf.where(outside, frames, noisy)

    return tf.cond(rows > 0, cover, lambda: frames)


def check_protocol(protocol: Protocol) -> None:
    """Refuses a test whose crops do not exist."""
    if protocol.crops not in _OFFSETS:
        raise JaxvidError(f"crops is {protocol.crops!r}: choose one of {', '.join(_OFFSETS)}")
    if protocol.crops != "whole" and protocol.crop > protocol.short_side:
        raise JaxvidError(
            f"crop {protocol.crop} is larger than short_side {protocol.short_side}: a test crop"
            " must fit into the resized picture"
        )


def make_views(frames, clips, protocol: Protocol, of=tf):
    """Resizes and crops decoded frames as the published test does.

    Args:
        frames: uint8 `[N, H, W, C]`.
        clips: integer `[clips, N]`, the numbers in `frames` that make up each clip.
        protocol: the row's test.
        of: the library whose arrays these are: TensorFlow, or numpy, which gives the same pixels.

    Returns:
        uint8 `[views, T, crop, crop, C]`: all clips of the first crop, then of the second, ...; of
        flow, T are stacks and C their channels.
    """
    size = protocol.crop
    if protocol.crops == "whole":
        frames = _resize(frames, (size, size), of)
    else:
        frames = resize_short_side(frames, protocol.short_side, of)
    height, width = of.shape(frames)[1], of.shape(frames)[2]
    crops = []
    for top, left, flip in _OFFSETS[protocol.crops](height - size, width - size, of.where):
        crop = frames[:, top : top + size, left : left + size]
        if flip:
            crop = mirrored(crop, of) if protocol.crops == "ten" else turned_around(crop, of)
        crops.append(crop[clips] if of is np else tf.gather(crop, clips))
    views = np.concatenate(crops) if of is np else tf.concat(crops, 0)
    channels = protocol.sampling.channels
    if views.shape[-1] == channels:
        return views
    flat = of.reshape(views, [-1, size, size, views.shape[-1]])
    return of.reshape(stacked(flat, channels, of), [of.shape(views)[0], -1, size, size, channels])


def resize_short_side(frames, side: int, of=tf):
    """Resizes uint8 `[N, H, W, C]` so that the shorter side is `side`, keeping the aspect."""
    if of is np:
        shape = np.array(frames.shape[1:3], np.float64)
        height, width = (shape * (side / shape.min()) + 0.5).astype(np.int32).tolist()
        return _resize(frames, (height, width), of)
    shape = tf.cast(tf.shape(frames)[1:3], tf.float64)
    new = tf.cast(shape * (side / tf.reduce_min(shape)) + 0.5, tf.int32)
    return _resize(frames, new)


def _resize(frames, size, of=tf):
    """Resizes uint8 `[N, H, W, C]` to (height, width) as OpenCV's bilinear does."""
    if of is np:
        return resize.bilinear(frames, size)
    kind = tf.TensorSpec([None, None, frames.shape[-1]], tf.uint8)
    return tf.map_fn(
        lambda frame: _rounded(_bilinear(frame, size)), frames, fn_output_signature=kind
    )


def _whole_offset(down, right, where):
    return [(0, 0, False)]


def _center_offset(down, right, where):
    return [(down // 2, right // 2, False)]


def _left_offset(down, right, where):
    """The first of three; of a tall picture that is the upper one."""
    return _three_offsets(down, right, where)[:1]


def _three_offsets(down, right, where):
    """Both ends and the middle of the longer side."""
    tall = down > right
    return [
        (
            where(tall, at * (down // 2), down // 2),
            where(tall, right // 2, at * (right // 2)),
            False,
        )
        for at in (0, 2, 1)
    ]


def _ten_offsets(down, right, where):
    """Four corners and the centre, each followed by its mirror image."""
    places = [(0, 0), (0, 4), (4, 0), (4, 4), (2, 2)]
    return [(y * (down // 4), x * (right // 4), flip) for y, x in places for flip in (False, True)]


_OFFSETS = {
    "whole": _whole_offset,
    "center": _center_offset,
    "left": _left_offset,
    "three": _three_offsets,
    "ten": _ten_offsets,
    "ten_unnegated": _ten_offsets,
}
