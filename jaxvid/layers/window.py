"""Windows of a token grid, for attention inside them: fitting, cutting, shifting, positions.

Plain functions. Grids are [B, T, H, W, C]; sizes, windows and shifts are (T, H, W), and a network
on pictures has windows of one frame. See Liu et al., "Swin Transformer", ICCV 2021.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

Triple = tuple[int, int, int]


def fit_window(size: Triple, window: Triple) -> tuple[Triple, Triple]:
    """The window to use on a grid of `size`, and by how much every second block shifts it.

    Along an axis that one window covers it shrinks to the grid and does not shift; elsewhere it
    shifts by half of itself.
    """
    fitted = tuple(min(n, w) for n, w in zip(size, window, strict=True))
    shift = tuple(0 if n <= w else w // 2 for n, w in zip(size, window, strict=True))
    return fitted, shift


def pad_to_multiples(x: jax.Array, window: Triple) -> jax.Array:
    """Adds zeros behind T, H and W of x [B, T, H, W, C] up to multiples of `window`."""
    behind = [(0, -n % w) for n, w in zip(x.shape[1:4], window, strict=True)]
    return jnp.pad(x, ((0, 0), *behind, (0, 0))) if any(map(any, behind)) else x


def partition(x: jax.Array, window: Triple) -> jax.Array:
    """Cuts x [B, T, H, W, C] into windows [B * windows, tokens, C].

    Windows of one sample stay together, in row-major order, and so are the tokens of one window.
    """
    batch, *size, channels = x.shape
    wt, wh, ww = window
    x = x.reshape(batch, size[0] // wt, wt, size[1] // wh, wh, size[2] // ww, ww, channels)
    return x.transpose(0, 1, 3, 5, 2, 4, 6, 7).reshape(-1, math.prod(window), channels)


def join(windows: jax.Array, window: Triple, size: Triple) -> jax.Array:
    """Undoes `partition`: [B * windows, tokens, C] becomes the grid [B, T, H, W, C] of `size`."""
    counts = [n // w for n, w in zip(size, window, strict=True)]
    x = windows.reshape(-1, *counts, *window, windows.shape[-1])
    return x.transpose(0, 1, 4, 2, 5, 3, 6, 7).reshape(-1, *size, windows.shape[-1])


def regions(size: Triple, window: Triple, shift: Triple) -> np.ndarray:
    """Numbers what lay together before a grid of `size` was rolled by -`shift`.

    Tokens of one window with different numbers come from opposite ends of the grid, and must not
    look at each other.

    Returns:
        int32 [windows, tokens], in the order of `partition`.
    """
    number = np.zeros(size, np.int32)
    for axis, (n, w, s) in enumerate(zip(size, window, shift, strict=True)):
        at = np.arange(n)
        # The last window holds the end of the grid and then, rolled in, its beginning.
        part = (at >= n - w).astype(np.int32) + (at >= n - s) if s else np.zeros(n, np.int32)
        number = 3 * number + part.reshape([-1 if i == axis else 1 for i in range(3)])
    counts = [n // w for n, w in zip(size, window, strict=True)]
    cut = number.reshape([k for pair in zip(counts, window, strict=True) for k in pair])
    return cut.transpose(0, 2, 4, 1, 3, 5).reshape(math.prod(counts), -1)


def shift_mask(size: Triple, window: Triple, shift: Triple) -> jax.Array:
    """Which tokens of a rolled grid may look at each other: bool [windows, tokens, tokens]."""
    # Compared at run time: as a constant this would be the largest part of a compiled program.
    numbers = jnp.asarray(regions(size, window, shift))
    return numbers[:, :, None] == numbers[:, None, :]


def table_rows(window: Triple) -> int:
    """Rows of a table that holds every distance between two tokens of `window`."""
    return math.prod(2 * w - 1 for w in window)


def window_bias(table: jax.Array, window: Triple, tokens: int) -> jax.Array:
    """Looks up the learnt bias of each pair of tokens: [rows, N] becomes [N, tokens, tokens].

    `table` has a row for each distance (t, h, w) inside `window`, row-major, from the most negative
    one, and a column for each head. The first `tokens` tokens of `window` are asked for: published
    networks read their tables so also in windows that have shrunk, whatever places those tokens
    have there.
    """
    _, height, width = (2 * w - 1 for w in window)
    t, h, w = np.indices(window).reshape(3, -1)
    # A row is linear in the distance, so it is a difference of two such numbers.
    place = ((t * height + h) * width + w).astype(np.int32)
    first = jnp.asarray(place[:tokens])
    rows = first[:, None] - first[None, :] + place[-1]
    return jnp.asarray(table)[rows].transpose(2, 0, 1)
