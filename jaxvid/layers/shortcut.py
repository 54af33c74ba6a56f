"""The sum at the end of a residual branch."""

import jax

from jaxvid.layers.backend import backend, devices

_HALVES = 2


def add(x: jax.Array, y: jax.Array, train: bool = False) -> jax.Array:
    """Adds a branch y to what went past it, x; both [B, ...].

    Where nothing but elementwise operations and norms read such a sum, as in transformers, XLA's
    CPU backend fuses it into each of them and computes it there again: every block would add up all
    blocks before it, forth and back. In training there it is a loop over two halves, which is not
    fused with anything, nor is its gradient. Not on several devices, between which halves would
    have to move.
    """
    looped = train and backend() == "cpu" and devices() == 1
    if not looped or x.shape != y.shape or x.dtype != y.dtype or x.size % _HALVES:
        return x + y
    halves = (part.reshape(_HALVES, -1) for part in (x, y))
    return jax.lax.map(lambda pair: pair[0] + pair[1], tuple(halves)).reshape(x.shape)
