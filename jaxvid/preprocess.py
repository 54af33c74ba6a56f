"""What happens to pixels on the device, before the network: the same in training and test."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp


def normalize(
    video: jax.Array, mean: Sequence[float], std: Sequence[float], dtype: jnp.dtype = jnp.float32
) -> jax.Array:
    """(video - mean) / std by channel of video [..., C] with pixels of 0..255, in float32.

    `mean` and `std` repeat over C where it is a multiple of their length (stacked optical flow).
    """
    repeats = video.shape[-1] // len(mean)
    mean = jnp.tile(jnp.asarray(mean, jnp.float32), repeats)
    scale = 1 / jnp.tile(jnp.asarray(std, jnp.float32), repeats)
    return ((video.astype(jnp.float32) - mean) * scale).astype(dtype)
