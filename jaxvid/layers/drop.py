"""Stochastic depth."""

import flax.linen as nn
import jax
import jax.numpy as jnp


class DropPath(nn.Module):
    """Drops a residual branch for whole samples (Huang et al., 2016: stochastic depth).

    In training each sample of the batch is zeroed with probability `rate` and the others are
    divided by 1 - rate; otherwise it is the identity. Draws from the `dropout` stream. A loop over
    blocks may give the rate as a traced scalar.
    """

    rate: float | jax.Array

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps x [B, ...] to the same shape."""
        if not train or (not isinstance(self.rate, jax.Array) and self.rate == 0):
            return x
        keep = 1.0 - self.rate
        shape = (x.shape[0],) + (1,) * (x.ndim - 1)
        kept = jax.random.bernoulli(self.make_rng("dropout"), keep, shape)
        # Written without x / keep so that a rate of 1 gives zeros rather than nan.
        return jnp.where(kept, x / jnp.maximum(keep, jnp.finfo(x.dtype).eps).astype(x.dtype), 0)
