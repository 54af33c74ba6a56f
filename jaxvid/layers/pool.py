"""Pooling with explicit padding over [B, T, H, W, C]."""

# Names end in their axes, outermost first, as in `x_BTHWC`:
#   B  batch
#   T  frames
#   H  height
#   W  width
#   C  channels
#   M  many in a row: frames or windows, of one sample or of all

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from jaxvid.layers import lanes
from jaxvid.layers.backend import backend

Triple = tuple[int, int, int]


def max_pool(
    x_BTHWC: jax.Array, window: Triple, stride: Triple, padding: Triple = (0, 0, 0)
) -> jax.Array:
    """Maximum over windows of x [B, T, H, W, C]; `padding` is added on both sides of each axis.

    Of several equal values in a window the first one, row by row, takes the gradient.
    """
    if backend() == "cpu":
        return _quickly_differentiated(x_BTHWC, window, stride, padding)
    if lanes.fits(x_BTHWC.shape[3], window[2], stride[2], padding[2]):
        return _in_lanes(x_BTHWC, window, stride, padding)
    return _reduce_windows(x_BTHWC, window, stride, padding)


def _reduce_windows(
    x_BTHWC: jax.Array, window: Triple, stride: Triple, padding: Triple
) -> jax.Array:
    if window[0] == 1 and padding[0] == 0:
        # Windows inside one frame: 2-D pooling of folded frames is several times faster on CPU.
        x_BTHWC = x_BTHWC[:, :: stride[0]]
        x_MHWC = x_BTHWC.reshape(-1, *x_BTHWC.shape[2:])
        pads = [(p, p) for p in padding[1:]]
        y_MHWC = nn.max_pool(x_MHWC, window[1:], stride[1:], pads)
        return y_MHWC.reshape(*x_BTHWC.shape[:2], *y_MHWC.shape[1:])
    return nn.max_pool(x_BTHWC, window, stride, [(p, p) for p in padding])


def _pairwise(x_BTHWC: jax.Array, window: Triple, stride: Triple, padding: Triple) -> jax.Array:
    """The same maximum, axis by axis, the innermost first: so the first of equals is kept."""
    for axis in (3, 2, 1):
        size, step, pad = window[axis - 1], stride[axis - 1], padding[axis - 1]
        pads = [(pad, pad) if a == axis else (0, 0) for a in range(5)]
        x_BTHWC = jnp.pad(x_BTHWC, pads, constant_values=-jnp.inf)
        reach = (x_BTHWC.shape[axis] - size) // step * step + 1
        best_BTHWC = lax.slice_in_dim(x_BTHWC, 0, reach, step, axis)
        for offset in range(1, size):
            other_BTHWC = lax.slice_in_dim(x_BTHWC, offset, offset + reach, step, axis)
            best_BTHWC = _better(best_BTHWC, other_BTHWC)
        x_BTHWC = best_BTHWC
    return x_BTHWC


def _better(best: jax.Array, other: jax.Array) -> jax.Array:
    return jnp.where((other > best) | jnp.isnan(other), other, best)


def _in_lanes(x_BTHWC: jax.Array, window: Triple, stride: Triple, padding: Triple) -> jax.Array:
    """The same maximum of x in blocks of pixels: first over the columns of windows."""
    columns = (
        lanes.column(x_BTHWC, tap, window[2], stride[2], padding[2]) for tap in range(window[2])
    )
    x_BTHWC = functools.reduce(_better, columns)
    shape, x_BTHWC = x_BTHWC.shape, lanes.packed(x_BTHWC)
    others = [(*axes[:2], one) for axes, one in ((window, 1), (stride, 1), (padding, 0))]
    y_BTHWC = _pairwise(x_BTHWC, *others)
    return y_BTHWC.reshape(*y_BTHWC.shape[:3], *shape[3:])


def _forward(
    x_BTHWC: jax.Array, window: Triple, stride: Triple, padding: Triple
) -> tuple[jax.Array, jax.Array]:
    return _reduce_windows(x_BTHWC, window, stride, padding), x_BTHWC


def _backward(
    window: Triple, stride: Triple, padding: Triple, x_BTHWC: jax.Array, dy_BTHWC: jax.Array
) -> tuple[jax.Array]:
    _, backward = jax.vjp(lambda x_BTHWC: _pairwise(x_BTHWC, window, stride, padding), x_BTHWC)
    return backward(dy_BTHWC)


# XLA's gradient of pooling searches every window again, one element at a time on CPU: that of a
# ResNet's stem took a third of a training step. That of pairwise maxima is selections and sums.
_quickly_differentiated = jax.custom_vjp(_reduce_windows, nondiff_argnums=(1, 2, 3))
_quickly_differentiated.defvjp(_forward, _backward)


def mean_windows(x_BTHWC: jax.Array, window: int) -> jax.Array:
    """Means of x [B, T, H, W, C] over all of T and each square of side `window`: [B, 1, H', W', C].

    Squares lie one pixel apart; a side of the map that is shorter than `window` is taken whole.
    """
    x_BHWC = x_BTHWC.mean(1)
    size = (min(window, x_BHWC.shape[1]), min(window, x_BHWC.shape[2]))
    return nn.avg_pool(x_BHWC, size, (1, 1))[:, None]


def avg_pool(x_BTHWC: jax.Array, size: int) -> jax.Array:
    """Means of x [B, T, H, W, C] over squares of side `size` that lie side by side in a frame."""
    x_MHWC = x_BTHWC.reshape(-1, *x_BTHWC.shape[2:])
    y_MHWC = nn.avg_pool(x_MHWC, (size, size), (size, size))
    return y_MHWC.reshape(*x_BTHWC.shape[:2], *y_MHWC.shape[1:])
