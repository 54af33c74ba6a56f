"""Batch normalisation with the epsilon and momentum semantics that published weights assume."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


class BatchNorm(nn.Module):
    """Batch normalisation over every axis but the last (Ioffe and Szegedy, 2015), as in PyTorch.

    `momentum` is the weight of the new batch in the running statistics (PyTorch's meaning, one
    minus flax's), and the running variance is the unbiased one. Statistics are computed and kept
    in float32 or wider. Under `jit` with a sharded batch they are those of the global batch.
    """

    epsilon: float = 1e-5
    momentum: float = 0.1
    scale_init: nn.initializers.Initializer = nn.initializers.ones
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Normalises x [..., C]; with `train` by the batch's own statistics."""
        channels = x.shape[-1]
        scale = self.param("scale", self.scale_init, (channels,))
        bias = self.param("bias", nn.initializers.zeros, (channels,))
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,))
        running_var = self.variable("batch_stats", "var", jnp.ones, (channels,))
        wide = jnp.promote_types(jnp.promote_types(x.dtype, scale.dtype), jnp.float32)
        if train:
            axes = tuple(range(x.ndim - 1))
            mean, var = _moments(x.astype(wide), axes)
            if not self.is_initializing():
                count = x.size // channels
                unbiased = var * (count / max(count - 1, 1))
                keep = 1 - self.momentum
                running_mean.value = keep * running_mean.value + self.momentum * mean
                running_var.value = keep * running_var.value + self.momentum * unbiased
        else:
            mean, var = running_mean.value, running_var.value
        # One multiply and one add per element: the rest is per channel.
        factor = scale * jax.lax.rsqrt(var + self.epsilon)
        y = x.astype(wide) * factor + (bias - mean * factor)
        return y.astype(self.dtype or x.dtype)


def _moments(x: jax.Array, axes: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    """Mean and biased variance of x over `axes`, by two passes (no cancellation)."""
    mean = x.mean(axes)
    return mean, jnp.square(x - mean).mean(axes)
