"""Masked cubes of clips: which are hidden, what is to be filled in, and how well it was.

Tong et al., "VideoMAE", NeurIPS 2022; Wang et al., "VideoMAE V2", CVPR 2023; Ryali et al., "Hiera",
ICML 2023. All of it happens on the device, inside the step, and masks are functions of a key.

A clip [T, H, W, C] is a grid [T', H', W'] of cubes, whose places are counted row by row; a cube's
pixels are counted through time, height and width. What a network answers for may be other cubes
than those that are hidden, see `jaxvid.rows.Cubes`.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxvid.base.errors import JaxvidError
from jaxvid.rows import Cubes

Cube = tuple[int, int, int]
"""Frames, rows and columns of a cube, or of a grid of cubes."""
Scale = tuple[Sequence[float], Sequence[float]]
"""Means and deviations of channels, of pixels of 0..255."""
# Hiera's 1e-6, of pixels that were divided by 0.225.
_JOINT_VARIANCE = 1e-6 * 0.225**2


class Task(NamedTuple):
    """What a network that pretrains is asked.

    Attributes:
        cubes: what clips are cut into.
        ratio: the share of places that the encoder does not see.
        decoder_ratio: the share of cubes that the decoder is not asked for; 0 asks for all hidden.
        scale: what targets are normalised by, None for each cube's own mean and deviation.
    """

    cubes: Cubes
    ratio: float
    decoder_ratio: float
    scale: Scale | None


class Masks(NamedTuple):
    """Cubes of each clip of a batch, as places in their grids.

    Attributes:
        visible: int32 [B, L], those that the encoder sees.
        decoded: int32 [B, D], those that the decoder answers for, in the grid of asked cubes.
        counted: bool [B, D], whether such an answer counts: the encoder did not see that cube.
    """

    visible: jax.Array
    decoded: jax.Array
    counted: jax.Array


def masks_of(task: Task, keys: jax.Array, clip: tuple[int, ...]) -> Masks:
    """Draws a mask of clips [T, H, W, C] for each of `keys` [B]; see `draw` and `draw_apart`.

    Raises:
      JaxvidError: cubes do not fill the clips, or there is no such mask.
    """
    cubes = task.cubes
    grid = grid_of(clip, cubes.hidden)
    if cubes.tubes:
        return draw(keys, grid, task.ratio, task.decoder_ratio)
    if task.decoder_ratio:
        raise JaxvidError(
            f"config.train.decoder_mask_ratio={task.decoder_ratio} is for networks that hide "
            "tubes, and this one hides each cube by itself: set it to 0"
        )
    kept = (clip[0] // cubes.every, *clip[1:])
    return draw_apart(keys, grid, grid_of(kept, cubes.asked), task.ratio)


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


def draw_apart(keys: jax.Array, grid: Cube, asked: Cube, ratio: float) -> Masks:
    """Draws a mask for each of `keys` [B] that hides each cube of a grid by itself.

    A share 1 - `ratio` of all cubes, rounded down, is seen. The decoder answers for all that lies
    in the others, of a grid `asked` with a whole number of cubes in each of them.

    Raises:
      JaxvidError: nothing would be hidden or nothing seen.
    """
    count = math.prod(grid)
    seen = int(count * (1 - ratio))
    if not 0 < seen < count:
        raise JaxvidError(
            f"config.train.mask_ratio={ratio} shows {seen} of {grid[0]} x {grid[1]} x {grid[2]} "
            "cubes: choose a ratio or a size of the clips with which some are hidden and some seen"
        )
    places = np.indices(asked).reshape(3, -1)
    within = (places[axis] * grid[axis] // asked[axis] for axis in range(3))
    cube_of = np.ravel_multi_index(tuple(within), grid)
    answers = len(cube_of) // count * (count - seen)

    def one(key: jax.Array) -> Masks:
        visible = jnp.sort(jax.random.permutation(key, count)[:seen])
        hidden = jnp.ones(count, bool).at[visible].set(False)
        decoded = jnp.flatnonzero(hidden[cube_of], size=answers)
        return Masks(visible, decoded, jnp.ones(answers, bool))

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


def statistics(
    cubes: jax.Array, scale: Scale | None = None, joint: bool = False
) -> tuple[jax.Array, jax.Array]:
    """Means and deviations [B, L, 1, C] that cubes [B, L, pixels, C] of 0..1 are normalised by.

    With a `scale` they are that for all cubes. Else they are each channel's own, or all channels'
    together where `joint`. The deviation is that of a sample (one degree of freedom less) and a
    little more, so that what has one colour can be divided by it.
    """
    shape = (*cubes.shape[:2], 1, cubes.shape[-1])
    if scale:
        mean, deviation = (jnp.asarray(part, jnp.float32) / 255 for part in scale)
    elif joint:
        mean = cubes.mean((-2, -1), keepdims=True)
        variance = cubes.var((-2, -1), keepdims=True, ddof=1)
        deviation = jnp.sqrt(variance + _JOINT_VARIANCE)
    else:
        mean = cubes.mean(-2, keepdims=True)
        deviation = cubes.std(-2, keepdims=True, ddof=1) + 1e-6
    return jnp.broadcast_to(mean, shape), jnp.broadcast_to(deviation, shape)


def asked_of(video: jax.Array, cubes: Cubes) -> jax.Array:
    """The cubes [B, L, pixels, C] that may be asked for of video [B, T, H, W, C]."""
    return cut(video[:, :: cubes.every], cubes.asked)


def targets(video: jax.Array, masks: Masks, cubes: Cubes, scale: Scale | None = None) -> jax.Array:
    """What a network should answer: the decoded cubes [B, D, pixels, C] of uint8 video, normalised.

    They are by `scale`, or as `cubes` say.
    """
    asked = jnp.take_along_axis(asked_of(video, cubes), masks.decoded[..., None, None], axis=1)
    asked = asked.astype(jnp.float32) / 255
    mean, deviation = statistics(asked, scale, cubes.joint)
    return (asked - mean) / deviation


def errors(
    video: jax.Array, pixels: jax.Array, masks: Masks, cubes: Cubes, scale: Scale | None = None
) -> tuple[jax.Array, jax.Array]:
    """Sums [B] of the counted cubes' mean squared errors, and how many [B] count.

    The errors are those of the answers `pixels` [B, D, pixels, C] to the `targets` of uint8 video.
    """
    each = jnp.square(pixels - targets(video, masks, cubes, scale)).mean((-2, -1))
    return (each * masks.counted).sum(-1), masks.counted.sum(-1)


def fill_in(
    video: jax.Array, pixels: jax.Array, masks: Masks, cubes: Cubes, scale: Scale | None = None
) -> jax.Array:
    """Pictures of what was seen and answered: uint8 [B, 3, T', H, W, C] of uint8 video.

    They are the frames that are asked for themselves, what the encoder saw of them on grey, and the
    latter with the answers `pixels` [B, D, pixels, C] filled in. Without a `scale` an answer is
    about contrasts: it is given the mean and the deviation that its cube has in the clip.
    """
    asked = asked_of(video, cubes).astype(jnp.float32) / 255
    mean, deviation = statistics(asked, scale, cubes.joint)
    shape = video[:, :: cubes.every].shape
    grid = grid_of(shape[1:], cubes.asked)
    # What the encoder sees of these frames.
    shown = (cubes.hidden[0] // cubes.every, *cubes.hidden[1:])

    def put(onto: jax.Array, places: jax.Array, what: jax.Array) -> jax.Array:
        return jax.vmap(lambda cubes, places, what: cubes.at[places].set(what))(onto, places, what)

    def take(places: jax.Array, what: jax.Array) -> jax.Array:
        return jnp.take_along_axis(what, places[..., None, None], axis=1)

    whole = join(asked, grid, cubes.asked)
    parts = cut(whole, shown)

    def with_seen(onto: jax.Array) -> jax.Array:
        """Pictures with what was seen put onto them."""
        onto = put(cut(onto, shown), masks.visible, take(masks.visible, parts))
        return join(onto, grid_of(shape[1:], shown), shown)

    seen = with_seen(jnp.full_like(whole, 0.5))
    answers = pixels * take(masks.decoded, deviation) + take(masks.decoded, mean)
    filled = with_seen(join(put(cut(seen, cubes.asked), masks.decoded, answers), grid, cubes.asked))
    pictures = jnp.stack([jnp.clip(x, 0, 1) for x in (whole, seen, filled)], 1)
    return jnp.round(255 * pictures).astype(jnp.uint8)
