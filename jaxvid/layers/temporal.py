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


def temporal_conv_per_sample(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolves every channel of every sample along time with a kernel of its own.

    Takes x [B, T, H, W, C] and kernel [B, K, C], K odd; a frame meets tap K // 2, the frame after
    it the next one (cross-correlation), zeros lie beyond both ends.
    """
    taps, frames = kernel.shape[1], x.shape[1]
    x = jnp.pad(x, ((0, 0), (taps // 2, taps // 2), (0, 0), (0, 0), (0, 0)))
    kernel = kernel[:, :, None, None, None, :]
    return sum(x[:, tap : tap + frames] * kernel[:, tap] for tap in range(taps))
