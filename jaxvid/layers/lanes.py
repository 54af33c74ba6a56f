"""Narrow videos in wide lanes: several pixels of a row side by side, as if they were channels.

A TPU keeps the last axis of an array in lanes of 128. There a video of 8 channels takes, and moves,
16 times its size, and multiplies with a 16th of what the chip can. Inside `packing` what a narrow
trunk is made of computes on [B, T, H, blocks, pixels * C] instead; between the layers arrays have
their usual shape, and the compiler finds that each layer's reshape undoes that of the one before.
Rows are cut into equally many blocks at every resolution, so that a stride stays within a block.
"""

# Names end in their axes, outermost first, as in `x_BTHWC`:
#   B  batch
#   T  frames
#   H  height
#   W  width, or blocks of it in an array that is packed
#   C  channels, or those of all pixels of a block
#   I  channels into a kernel
#   O  channels out of a kernel
#   i  pixels of a block that enters
#   j  pixels of a block that leaves
#   t, h, w  what a kernel spans of T, H, W
#   d  blocks that a kernel spans

import contextlib
import contextvars
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxvid.layers.backend import backend

LANES = 128
_blocks: contextvars.ContextVar[int] = contextvars.ContextVar("blocks", default=0)


@contextlib.contextmanager
def packing(channels: int, columns: int) -> Iterator[None]:
    """Packs what is traced inside for TPU: a trunk that begins with so many channels and columns.

    Blocks are as long as makes `LANES` of these channels, or as the columns can be halved.
    """
    pixels = 1
    while 2 * pixels * channels <= LANES and columns % (2 * pixels) == 0:
        pixels *= 2
    token = _blocks.set(columns // pixels if backend() == "tpu" and pixels > 1 else 0)
    try:
        yield
    finally:
        _blocks.reset(token)


def pixels(columns: int) -> int:
    """How many pixels of a row of so many lie side by side: 1 where nothing is packed."""
    blocks = _blocks.get()
    return columns // blocks if blocks and columns % blocks == 0 else 1


def packed(x_BTHWC: jax.Array) -> jax.Array:
    """Reshapes x [B, T, H, W, C] to [B, T, H, blocks, pixels * C], or leaves it."""
    side_by_side = pixels(x_BTHWC.shape[3]) if x_BTHWC.ndim == 5 else 1
    if side_by_side == 1:
        return x_BTHWC
    *rest, columns, channels = x_BTHWC.shape
    return x_BTHWC.reshape(*rest, columns // side_by_side, side_by_side * channels)


def each(function: Callable[..., jax.Array], *arrays: jax.Array) -> jax.Array:
    """What a function makes, element by element, of arrays of one shape [B, T, H, W, C]."""
    return function(*(packed(x) for x in arrays)).reshape(arrays[0].shape)


def fits(columns: int, kernel: int, stride: int, padding: int) -> bool:
    """Whether windows over a row of so many pixels make blocks of blocks."""
    there = pixels((columns + 2 * padding - kernel) // stride + 1)
    return max(there, pixels(columns)) > 1 and pixels(columns) == stride * there


def conv(
    x_BTHWC: jax.Array,
    kernel_thwIO: jax.Array,
    stride: tuple[int, int, int],
    padding: tuple[int, int, int],
    precision: lax.Precision | None = None,
) -> jax.Array:
    """Convolves x [B, T, H, W, C], which `fits`, block by block: a dense kernel for each offset."""
    (pt, ph, pw), width = padding, kernel_thwIO.shape[2]
    x_BTHWC, here = packed(x_BTHWC), pixels(x_BTHWC.shape[3])
    there = here // stride[2]
    first = -pw // here
    last = (stride[2] * (there - 1) + width - 1 - pw) // here
    kernel_thdiIjO = jnp.einsum(
        "thwIO,wdij->thdiIjO",
        kernel_thwIO,
        _meeting(width, stride[2], pw, here, there, first, last).astype(kernel_thwIO.dtype),
        precision=lax.Precision.HIGHEST,
    )
    t, h, d, _, inputs, _, outputs = kernel_thdiIjO.shape
    y_BTHWC = lax.conv_general_dilated(
        x_BTHWC,
        kernel_thdiIjO.reshape(t, h, d, here * inputs, there * outputs),
        window_strides=(*stride[:2], 1),
        padding=[(pt, pt), (ph, ph), (-first, last)],
        dimension_numbers=("NTHWC", "THWIO", "NTHWC"),
        precision=precision,
    )
    *rest, blocks, _ = y_BTHWC.shape
    return y_BTHWC.reshape(*rest, blocks * there, outputs)


def depthwise(
    x_BTHWC: jax.Array,
    kernel_th11C: jax.Array,
    stride: tuple[int, int, int],
    padding: tuple[int, int, int],
) -> jax.Array:
    """Convolves each channel of x [B, T, H, W, C] with its own kernel along T and H."""
    x_BTHWC, (*_, columns, channels) = packed(x_BTHWC), x_BTHWC.shape
    y_BTHWC = lax.conv_general_dilated(
        x_BTHWC,
        jnp.tile(kernel_th11C, x_BTHWC.shape[-1] // channels),
        window_strides=stride,
        padding=[(p, p) for p in padding],
        dimension_numbers=("NTHWC", "THWIO", "NTHWC"),
        feature_group_count=x_BTHWC.shape[-1],
    )
    return y_BTHWC.reshape(*y_BTHWC.shape[:3], columns, channels)


def _meeting(
    width: int, stride: int, padding: int, here: int, there: int, first: int, last: int
) -> np.ndarray:
    """1 where tap w of a pixel j that leaves meets pixel i of the d-th block from `first`."""
    meet_wdij = np.zeros((width, last - first + 1, here, there), np.float32)
    for w in range(width):
        for j in range(there):
            block, pixel = divmod(stride * j + w - padding, here)
            meet_wdij[w, block - first, pixel, j] = 1
    return meet_wdij


def column(x_BTHWC: jax.Array, tap: int, width: int, stride: int, padding: int) -> jax.Array:
    """Of every window of `width` columns of x [B, T, H, W, C], which `fits`, the column `tap`.

    What lies in the padding is -inf. Where there are infinities or NaN others see NaN too.
    """
    channels, columns = x_BTHWC.shape[-1], x_BTHWC.shape[3]
    kernel_thwIO = np.zeros((1, 1, width, channels, channels), np.float32)
    kernel_thwIO[0, 0, tap] = np.eye(channels)
    y_BTHWC = conv(
        x_BTHWC,
        jnp.asarray(kernel_thwIO, x_BTHWC.dtype),
        (1, 1, stride),
        (0, 0, padding),
        lax.Precision.HIGHEST,
    )
    at = stride * np.arange(y_BTHWC.shape[3]) + tap - padding
    inside_W1 = ((at >= 0) & (at < columns))[:, None]
    inside_WC = np.broadcast_to(inside_W1, (len(at), channels))
    # In the packed shape, as are its neighbours.
    y_BTHWC, shape = packed(y_BTHWC), y_BTHWC.shape
    inside_WC = inside_WC.reshape(y_BTHWC.shape[3:])
    return jnp.where(inside_WC, y_BTHWC, -jnp.inf).astype(y_BTHWC.dtype).reshape(shape)
