"""Parameter-free operations along time."""

import jax
import jax.numpy as jnp


def temporal_shift(x: jax.Array, divisor: int = 8) -> jax.Array:
    """Moves a share of the channels one frame along time (TSM; Lin, Gan and Han, 2019).

    Of the C channels of x [B, T, H, W, C] the first C // divisor come from the next frame, the
    second C // divisor from the previous one, the rest stay; zeros enter at both ends.
    """
    fold = x.shape[-1] // divisor
    zeros = jnp.zeros_like(x[:, :1, ..., :fold])
    future = jnp.concatenate([x[:, 1:, ..., :fold], zeros], axis=1)
    past = jnp.concatenate([zeros, x[:, :-1, ..., fold : 2 * fold]], axis=1)
    return jnp.concatenate([future, past, x[..., 2 * fold :]], axis=-1)
