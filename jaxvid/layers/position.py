"""Positions that attention knows: tables of embeddings, learnt or fixed, and how they are read.

Plain functions over arrays. What is static (index arithmetic) is numpy and costs nothing at run
time; what is learnt (the tables) is JAX.
"""

import logging
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np


def resize_table(table: jax.Array, length: int) -> jax.Array:
    """Interpolates a table [R, D] linearly to [length, D], as PyTorch with align_corners=False.

    Row centres keep their relative places; rows before the first centre and after the last repeat
    it. Nothing is smoothed when the table shrinks.
    """
    size = table.shape[0]
    if size == length:
        return table
    source = np.clip((np.arange(length) + 0.5) * (size / length) - 0.5, 0, size - 1)
    low = np.floor(source).astype(np.int32)
    high = np.minimum(low + 1, size - 1)
    weight = jnp.asarray((source - low)[:, None], table.dtype)
    return table[low] * (1 - weight) + table[high] * weight


def resize_grid(table: jax.Array, size: Sequence[int]) -> jax.Array:
    """Interpolates a table [..., H, W, C] bicubically to [..., *size, C], as PyTorch does.

    The case meant is PyTorch's with align_corners=False: cells keep their relative places, what
    lies outside repeats the border, and nothing is smoothed when the table shrinks. A table that is
    changed is said in the log.
    """
    height, width, channels = table.shape[-3:]
    if size == (height, width):
        return table
    logging.getLogger(__name__).info(
        "the table of %d x %d positions is interpolated to %d x %d", height, width, *size
    )
    shape = (*table.shape[:-3], *size, channels)
    return jax.image.resize(table, shape, "cubic-pytorch", antialias=False)


def resize_clip(table: jax.Array, size: Sequence[int]) -> jax.Array:
    """Interpolates a table [T, H, W, C] to [*size, C], linearly in time and then as `resize_grid`.

    A table that is changed is said in the log, but for one of a single moment: that is all of time.
    """
    frames, *rest = table.shape
    if frames not in (1, size[0]):
        logging.getLogger(__name__).info(
            "the table of %d moments is interpolated to %d", frames, size[0]
        )
    table = resize_table(table.reshape(frames, -1), size[0]).reshape(size[0], *rest)
    return resize_grid(table, tuple(size[1:]))


def resize_smoothly(table: jax.Array, size: Sequence[int]) -> jax.Array:
    """Interpolates a table [..., C] linearly to [*size, C], smoothed where it shrinks.

    Cells keep their relative places. A table that is changed is said in the log.
    """
    if table.shape[:-1] == tuple(size):
        return table
    logging.getLogger(__name__).info(
        "the table of positions %s is interpolated to %s", list(table.shape[:-1]), list(size)
    )
    return jax.image.resize(table, (*size, table.shape[-1]), "linear", antialias=True)


def nearest_rows(table: jax.Array, length: int) -> jax.Array:
    """Picks `length` rows of a table [R, C], as PyTorch's nearest neighbour: row i R // length.

    A table that is changed is said in the log.
    """
    size = table.shape[0]
    if size == length:
        return table
    logging.getLogger(__name__).info("the table of %d moments is spread over %d", size, length)
    return table[np.arange(length) * size // length]


def sinusoids(length: int, depth: int) -> np.ndarray:
    """Fixed embeddings of positions (Vaswani et al., 2017): float32 [length, depth].

    Channels 2k and 2k + 1 are sine and cosine of position / 10000 ** (2k / depth).
    """
    channel = np.arange(depth)
    angles = np.arange(length)[:, None] * 10000.0 ** -((channel - channel % 2) / depth)
    return np.where(channel % 2, np.cos(angles), np.sin(angles)).astype(np.float32)


def relative_index(queries: int, keys: int) -> np.ndarray:
    """Says which row of a table of 2 max(queries, keys) - 1 rows belongs to each pair on one axis.

    The axis with fewer positions is spread evenly over the other's range and the distance is
    truncated toward zero. Row 0 is the last key seen from the first query.

    Returns:
        int32 [queries, keys].
    """
    # float32 on purpose: published tables were read with it, and uneven ratios round differently.
    query_step = np.float32(max(keys / queries, 1.0))
    key_step = max(queries / keys, 1.0)
    query_at = np.arange(queries, dtype=np.float32)[:, None] * query_step
    key_at = np.arange(keys, dtype=np.float32)[None, :] * np.float32(key_step)
    return np.trunc(query_at - key_at + np.float32((keys - 1) * key_step)).astype(np.int32)


def relative_embeddings(table: jax.Array, queries: int, keys: int) -> jax.Array:
    """Looks up the embedding of each (query, key) pair on one axis: [R, D] -> [queries, keys, D].

    A table made for another size is interpolated first.
    """
    table = resize_table(table, 2 * max(queries, keys) - 1)
    return table[relative_index(queries, keys)]


def axis_one_hots(sizes: tuple[int, ...]) -> np.ndarray:
    """Marks each cell of a grid by its coordinate on every axis: float32 [prod(sizes), sum(sizes)].

    Row-major. With sizes (2, 3), cell (1, 0) is [0, 1, 1, 0, 0].
    """
    coordinates = np.indices(sizes).reshape(len(sizes), -1)
    marks = [np.eye(n, dtype=np.float32)[at] for n, at in zip(sizes, coordinates, strict=True)]
    return np.concatenate(marks, axis=1)


def rotary_tables(
    size: Sequence[int], depth: int, *, tiled: bool, stretch: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Cosines and signed sines that turn queries and keys by where they stand in a grid.

    Rotary positions (Su et al., "RoFormer", 2021) of a grid `size` (T, H, W), counted row by row.
    Of the `depth` channels of a head three equal chunks are turned, by the place in time, in height
    and in width; what is left over stays. In a chunk of D channels the neighbours 2i and 2i + 1
    are a pair, whose angle is the place times 10000 ** (-i / (D / 2)). `tiled` is what V-JEPA 2 was
    trained with, an error that became part of its weights: the list of frequencies stands there
    twice, instead of each frequency, so that the members of a pair turn by different angles.

    Args:
        size: of the grid, in cubes.
        depth: channels of a head.
        tiled: whether channel j of a chunk takes frequency j mod D / 2, and not j // 2.
        stretch: the last place in height and width, whatever the size; 0 counts cubes.

    Returns:
        Two float64 arrays [T H W, depth], for `rotate`.
    """
    width = depth // 3 // 2 * 2
    frequencies = 10000.0 ** -(np.arange(width // 2) / (width / 2))
    by_channel = np.tile(frequencies, 2) if tiled else np.repeat(frequencies, 2)
    places = np.indices(tuple(size)).reshape(3, -1).astype(np.float64)
    if stretch:
        places[1:] *= stretch / (np.array(size[1:])[:, None] - 1)
    angles = np.zeros((places.shape[1], depth))
    angles[:, : 3 * width] = (places[..., None] * by_channel).swapaxes(0, 1).reshape(-1, 3 * width)
    return np.cos(angles), np.sin(angles) * np.where(np.arange(depth) % 2, 1, -1)


def rotate(x: jax.Array, cosines: jax.Array, sines: jax.Array) -> jax.Array:
    """Turns the pairs of channels of x [B, L, N, D] by tables [L, D], see `rotary_tables`.

    It is computed in the tables' dtype and has that of x.
    """
    swapped = x.reshape(*x.shape[:-1], -1, 2)[..., ::-1].reshape(x.shape)
    return (x * cosines[:, None] + swapped * sines[:, None]).astype(x.dtype)
