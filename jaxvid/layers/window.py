"""Windows of a token grid, for attention inside them: fitting, cutting, shifting, positions.

Plain functions. Grids are [B, T, H, W, C]; sizes, windows and shifts are (T, H, W), and a network
on pictures has windows of one frame. See Liu et al., "Swin Transformer", ICCV 2021.
"""

# Names end in their axes, outermost first, as in `x_BTHWC`:
#   B  batch
#   T  frames
#   H  height
#   W  width
#   C  channels
#   L  tokens of a sequence
#   N  heads
#   R  rows of a table
#   M  many in a row: frames or windows, of one sample or of all
#   t, h, w  what a kernel or window spans of T, H, W; beside them T, H, W count such spans

import math
from collections.abc import Sequence
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np

Triple = tuple[int, int, int]


def fit_window(size: Sequence[int], window: Triple) -> tuple[Triple, Triple]:
    """The window to use on a grid of `size`, and by how much every second block shifts it.

    Along an axis that one window covers it shrinks to the grid and does not shift; elsewhere it
    shifts by half of itself.
    """
    fitted = tuple(min(n, w) for n, w in zip(size, window, strict=True))
    shift = tuple(0 if n <= w else w // 2 for n, w in zip(size, window, strict=True))
    return cast(Triple, fitted), cast(Triple, shift)


def pad_to_multiples(x_BTHWC: jax.Array, window: Triple) -> jax.Array:
    """Adds zeros behind T, H and W of x [B, T, H, W, C] up to multiples of `window`."""
    behind = [(0, -n % w) for n, w in zip(x_BTHWC.shape[1:4], window, strict=True)]
    return jnp.pad(x_BTHWC, ((0, 0), *behind, (0, 0))) if any(map(any, behind)) else x_BTHWC


def partition(x_BTHWC: jax.Array, window: Triple) -> jax.Array:
    """Cuts x [B, T, H, W, C] into windows [B * windows, tokens, C].

    The windows of one sample follow one another, row-major, and so do the tokens of one window.
    """
    batch, *size, channels = x_BTHWC.shape
    x_BTtHhWwC = x_BTHWC.reshape(batch, *_spans(size, window), channels)
    x_BTHWthwC = x_BTtHhWwC.transpose(0, 1, 3, 5, 2, 4, 6, 7)
    return x_BTHWthwC.reshape(-1, math.prod(window), channels)


def join(x_MLC: jax.Array, window: Triple, size: Sequence[int]) -> jax.Array:
    """Undoes `partition`: [B * windows, tokens, C] becomes the grid [B, T, H, W, C] of `size`."""
    channels = x_MLC.shape[-1]
    counts = _spans(size, window)[::2]
    x_BTHWthwC = x_MLC.reshape(-1, *counts, *window, channels)
    x_BTtHhWwC = x_BTHWthwC.transpose(0, 1, 4, 2, 5, 3, 6, 7)
    return x_BTtHhWwC.reshape(-1, *size, channels)


def _spans(size: Sequence[int], window: Triple) -> list[int]:
    """[T, t, H, h, W, w]: how many windows lie along each axis, and what one has of it."""
    return [k for n, w in zip(size, window, strict=True) for k in (n // w, w)]


def regions(size: Sequence[int], window: Triple, shift: Triple) -> np.ndarray:
    """Numbers what lay together before a grid of `size` was rolled by -`shift`.

    Tokens of one window with different numbers come from opposite ends of the grid, and must not
    look at each other.

    Returns:
        int32 [windows, tokens], in the order of `partition`.
    """
    number_THW = np.zeros(size, np.int32)
    for axis, (n, w, s) in enumerate(zip(size, window, shift, strict=True)):
        at = np.arange(n)
        # The last window holds the end of the grid and then, rolled in, its beginning.
        part = (at >= n - w).astype(np.int32) + (at >= n - s) if s else np.zeros(n, np.int32)
        number_THW = 3 * number_THW + part.reshape([-1 if i == axis else 1 for i in range(3)])
    number_TtHhWw = number_THW.reshape(_spans(size, window))
    return number_TtHhWw.transpose(0, 2, 4, 1, 3, 5).reshape(-1, math.prod(window))


def shift_mask(size: Sequence[int], window: Triple, shift: Triple) -> jax.Array:
    """Which tokens of a rolled grid may look at each other: bool [windows, tokens, tokens]."""
    # Compared at run time: as a constant this would be the largest part of a compiled program.
    region_ML = jnp.asarray(regions(size, window, shift))
    return region_ML[:, :, None] == region_ML[:, None, :]


def table_rows(window: Triple) -> int:
    """Rows of a table that holds every distance between two tokens of `window`."""
    return math.prod(2 * w - 1 for w in window)


def window_bias(table_RN: jax.Array, window: Triple, tokens: int) -> jax.Array:
    """Looks up the learnt bias of each pair of tokens: [rows, N] becomes [N, tokens, tokens].

    The table has a row for each distance (t, h, w) inside `window`, row-major, from the most
    negative one, and a column for each head. It is looked up for the first `tokens` tokens of
    `window`. In a window that has shrunk these lie elsewhere, but published networks read their
    tables so there too.
    """
    _, height, width = (2 * w - 1 for w in window)
    t, h, w = np.indices(window).reshape(3, -1)
    # A row is linear in the distance, so it is a difference of two such numbers.
    place = ((t * height + h) * width + w).astype(np.int32)
    place_L = jnp.asarray(place[:tokens])
    row_LL = place_L[:, None] - place_L[None, :] + place[-1]
    bias_LLN = jnp.asarray(table_RN)[row_LL]
    return bias_LLN.transpose(2, 0, 1)
