"""Masked cubes of clips: which are hidden, what is to be filled in, and how well it was.

Tong et al., "VideoMAE", NeurIPS 2022; Wang et al., "VideoMAE V2", CVPR 2023. All of it happens on
the device, inside the step, and masks are functions of a key.

A clip [T, H, W, C] is a grid [T', H', W'] of cubes, whose places are counted row by row; a cube's
pixels are counted through time, height and width.
"""

from collections.abc import Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxvid.base.errors import JaxvidError

Cube = tuple[int, int, int]
"""Frames, rows and columns of a cube, or of a grid of cubes."""
Scale = tuple[Sequence[float], Sequence[float]]
"""Means and deviations of channels, of pixels of 0..255."""


class Task(NamedTuple):
    """What a network that pretrains is asked.

    Attributes:
        cube: what clips are cut into.
        ratio: the share of places that the encoder does not see.
        decoder_ratio: the share of cubes that the decoder is not asked for; 0 asks for all hidden.
        scale: what targets are normalised by, None for each cube's own mean and deviation.
    """

    cube: Cube
    ratio: float
    decoder_ratio: float
    scale: Scale | None


class Masks(NamedTuple):
    """Cubes of each clip of a batch, as places in its grid.

    Attributes:
        visible: int32 [B, L], those that the encoder sees.
        decoded: int32 [B, D], those that the decoder answers for.
        counted: bool [B, D], whether such an answer counts: the encoder did not see that cube.
    """

    visible: jax.Array
    decoded: jax.Array
    counted: jax.Array


def cube_of(model: nn.Module) -> Cube:
    """The cubes of a network that pretrains."""
    return (model.tubelet, model.patch, model.patch)


def draw(keys: jax.Array, grid: Cube, ratio: float, decoder_ratio: float = 0.0) -> Masks:
    """Draws a mask for each of `keys` [B].

    The encoder's mask is one of tubes: of the H' W' places a share `ratio`, rounded down, is hidden
    at all times alike. The decoder answers for all hidden cubes; or with a `decoder_ratio`, for a
    share 1 - `decoder_ratio` of all cubes, seen or not. Those are cut from cells of 2 x 2 that
    run on with time: which of the four are left out moves by one place a time step, from a place
    that is drawn.

    Raises:
      JaxvidError: nothing would be hidden or nothing seen, or cells do not fill the grid.
    """
    length, height, width = grid
    area = height * width
    hidden = int(ratio * area)
    if not 0 < hidden < area:
        raise JaxvidError(
            f"config.train.mask_ratio={ratio} hides {hidden} of {height} x {width} cubes: choose a "
            "ratio or a size of the pictures with which some are hidden and some seen"
        )
    if decoder_ratio and (height % 2 or width % 2):
        raise JaxvidError(
            f"config.train.decoder_mask_ratio={decoder_ratio} needs an even number of cubes along "
            f"height and width, not {height} x {width}: set it to 0 or choose another data.crop"
        )
    times = np.arange(length)[:, None] * area
    cells = _running_cells(grid, decoder_ratio)

    def one(key: jax.Array) -> Masks:
        tubes, cell = jax.random.split(key)
        order = jax.random.permutation(tubes, area)
        seen = jnp.zeros(area, bool).at[order[hidden:]].set(True)
        visible = (jnp.sort(order[hidden:]) + times).reshape(-1)
        if decoder_ratio:
            decoded = jnp.asarray(cells)[jax.random.randint(cell, (), 0, len(cells))]
        else:
            decoded = (jnp.sort(order[:hidden]) + times).reshape(-1)
        return Masks(visible, decoded, ~seen[decoded % area])

    return jax.vmap(one)(keys)


def _running_cells(grid: Cube, ratio: float) -> np.ndarray:
    """The cubes that are kept by each of the four masks of cells: int32 [4, D]."""
    time, row, column = np.indices(grid)
    left_out = int(4 * ratio)
    place = 2 * (row % 2) + column % 2 + time + 1
    kept = [((place + start) % 4 >= left_out).reshape(-1) for start in range(4)]
    if not ratio:
        return np.zeros((4, 0), np.int32)
    return np.stack([np.flatnonzero(mask) for mask in kept]).astype(np.int32)


def grid_of(clip: tuple[int, ...], cube: Cube) -> Cube:
    """The grid of cubes that a clip [T, H, W, C] is.

    Raises:
      JaxvidError: the cubes do not fill it.
    """
    if any(size % side for size, side in zip(clip, cube, strict=False)):
        raise JaxvidError(
            f"a clip of {clip[0]} frames of {clip[1]} x {clip[2]} pixels is not made of whole "
            f"cubes of {cube[0]} x {cube[1]} x {cube[2]}: choose data.crop and test.crop, and the "
            "clip_len of both samplings, as multiples of those"
        )
    length, height, width = (size // side for size, side in zip(clip, cube, strict=False))
    return length, height, width


def cut(video: jax.Array, cube: Cube) -> jax.Array:
    """Cuts video [B, T, H, W, C] into cubes [B, L, pixels, C]."""
    batch, channels = video.shape[0], video.shape[-1]
    (t, h, w), (p, q, r) = grid_of(video.shape[1:], cube), cube
    parts = video.reshape(batch, t, p, h, q, w, r, channels).transpose(0, 1, 3, 5, 2, 4, 6, 7)
    return parts.reshape(batch, t * h * w, p * q * r, channels)


def join(cubes: jax.Array, grid: Cube, cube: Cube) -> jax.Array:
    """The other way round: cubes [B, L, pixels, C] of a grid to video [B, T, H, W, C]."""
    batch, channels = cubes.shape[0], cubes.shape[-1]
    parts = cubes.reshape(batch, *grid, *cube, channels).transpose(0, 1, 4, 2, 5, 3, 6, 7)
    return parts.reshape(batch, *(n * side for n, side in zip(grid, cube, strict=True)), channels)


def statistics(cubes: jax.Array, scale: Scale | None = None) -> tuple[jax.Array, jax.Array]:
    """Mean and standard deviation [B, L, 1, C] of each channel of cubes [B, L, pixels, C] of 0..1.

    With a `scale` they are that for all cubes. Else the deviation is that of a sample (one degree
    of freedom less), and 1e-6 more than it is, so that what has one colour can be divided by it.
    """
    if scale:
        shape = (*cubes.shape[:2], 1, cubes.shape[-1])
        mean, deviation = (jnp.asarray(part, jnp.float32) / 255 for part in scale)
        return jnp.broadcast_to(mean, shape), jnp.broadcast_to(deviation, shape)
    mean = cubes.mean(-2, keepdims=True)
    return mean, cubes.std(-2, keepdims=True, ddof=1) + 1e-6


def targets(video: jax.Array, masks: Masks, cube: Cube, scale: Scale | None = None) -> jax.Array:
    """What a network should answer: the decoded cubes [B, D, pixels, C] of uint8 video, normalised.

    Each channel of a cube is normalised by `scale`, or by its own mean and deviation.
    """
    cubes = jnp.take_along_axis(cut(video, cube), masks.decoded[..., None, None], axis=1)
    cubes = cubes.astype(jnp.float32) / 255
    mean, deviation = statistics(cubes, scale)
    return (cubes - mean) / deviation


def errors(
    video: jax.Array, pixels: jax.Array, masks: Masks, cube: Cube, scale: Scale | None = None
) -> tuple[jax.Array, jax.Array]:
    """Sums [B] of the counted cubes' mean squared errors, and how many [B] count.

    The errors are those of the answers `pixels` [B, D, pixels, C] to the `targets` of uint8 video.
    """
    each = jnp.square(pixels - targets(video, masks, cube, scale)).mean((-2, -1))
    return (each * masks.counted).sum(-1), masks.counted.sum(-1)


def fill_in(
    video: jax.Array, pixels: jax.Array, masks: Masks, cube: Cube, scale: Scale | None = None
) -> jax.Array:
    """Pictures of what was seen and answered: uint8 [B, 3, T, H, W, C] of uint8 video.

    They are the clip itself, what the encoder saw of it on grey, and the latter with the answers
    `pixels` [B, D, pixels, C] filled in. Without a `scale` an answer is about contrasts: each
    channel of a cube is given the mean and the deviation that it has in the clip.
    """
    grid = grid_of(video.shape[1:], cube)
    cubes = cut(video, cube).astype(jnp.float32) / 255
    mean, deviation = statistics(cubes, scale)

    def put(onto: jax.Array, places: jax.Array, what: jax.Array) -> jax.Array:
        return jax.vmap(lambda cubes, places, what: cubes.at[places].set(what))(onto, places, what)

    def take(places: jax.Array, what: jax.Array = cubes) -> jax.Array:
        return jnp.take_along_axis(what, places[..., None, None], axis=1)

    seen = put(jnp.full_like(cubes, 0.5), masks.visible, take(masks.visible))
    answers = pixels * take(masks.decoded, deviation) + take(masks.decoded, mean)
    filled = put(put(seen, masks.decoded, answers), masks.visible, take(masks.visible))
    shown = [join(jnp.clip(x, 0, 1), grid, cube) for x in (cubes, seen, filled)]
    return jnp.round(255 * jnp.stack(shown, 1)).astype(jnp.uint8)
