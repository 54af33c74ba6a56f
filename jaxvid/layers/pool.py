"""Pooling with explicit padding over [B, T, H, W, C]."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

Triple = tuple[int, int, int]


def max_pool(
    x: jax.Array, window: Triple, stride: Triple, padding: Triple = (0, 0, 0)
) -> jax.Array:
    """Maximum over windows of x [B, T, H, W, C]; `padding` is added on both sides of each axis.

    Of several equal values in a window the first one, row by row, takes the gradient.
    """
    if jax.default_backend() == "cpu":
        return _quickly_differentiated(x, window, stride, padding)
    return _reduce_windows(x, window, stride, padding)


def _reduce_windows(x: jax.Array, window: Triple, stride: Triple, padding: Triple) -> jax.Array:
    if window[0] == 1 and padding[0] == 0:
        # Windows inside one frame: 2-D pooling of folded frames is several times faster on CPU.
        x = x[:, :: stride[0]]
        frames = x.reshape(-1, *x.shape[2:])
        pads = [(p, p) for p in padding[1:]]
        y = nn.max_pool(frames, window[1:], stride[1:], pads)
        return y.reshape(*x.shape[:2], *y.shape[1:])
    return nn.max_pool(x, window, stride, [(p, p) for p in padding])


# XLA's gradient of pooling searches every window again, one element at a time on CPU: that of a
# ResNet's stem took a third of a training step. That of pairwise maxima is selections and sums.
_quickly_differentiated = jax.custom_vjp(_reduce_windows, nondiff_argnums=(1, 2, 3))
_quickly_differentiated.defvjp(
    lambda x, *geometry: (_reduce_windows(x, *geometry), x),
    lambda window, stride, padding, x, cotangent: jax.vjp(
        lambda x: _pairwise(x, window, stride, padding), x
    )[1](cotangent),
)


def _pairwise(x: jax.Array, window: Triple, stride: Triple, padding: Triple) -> jax.Array:
    """The same maximum, axis by axis, the innermost first: so the first of equals is kept."""
    for axis in (3, 2, 1):
        size, step, pad = window[axis - 1], stride[axis - 1], padding[axis - 1]
        x = jnp.pad(
            x, [(pad, pad) if a == axis else (0, 0) for a in range(5)], constant_values=-jnp.inf
        )
        reach = (x.shape[axis] - size) // step * step + 1
        best = lax.slice_in_dim(x, 0, reach, step, axis)
        for offset in range(1, size):
            other = lax.slice_in_dim(x, offset, offset + reach, step, axis)
            best = jnp.where((other > best) | jnp.isnan(other), other, best)
        x = best
    return x


def mean_windows(x: jax.Array, window: int) -> jax.Array:
    """Means of x [B, T, H, W, C] over all of T and each square of side `window`: [B, 1, H', W', C].

    Squares lie one pixel apart; a side of the map that is shorter than `window` is taken whole.
    """
    size = (min(window, x.shape[2]), min(window, x.shape[3]))
    return nn.avg_pool(x.mean(1), size, (1, 1))[:, None]


def avg_pool(x: jax.Array, size: int) -> jax.Array:
    """Means of x [B, T, H, W, C] over squares of side `size` that lie side by side in a frame."""
    frames = nn.avg_pool(x.reshape(-1, *x.shape[2:]), (size, size), (size, size))
    return frames.reshape(*x.shape[:2], *frames.shape[1:])
