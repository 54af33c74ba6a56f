"""Classification heads that families share."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxvid.layers.streaming import MeanSoFar


class MeanHead(nn.Module):
    """Average over space and time, dropout, one linear layer.

    With `per_frame` dropout and the linear layer act on each frame and the scores are averaged
    (TSM's order); otherwise features are averaged first (TSN, I3D). Both give the same logits
    without dropout. Logits are float32 or wider whatever the compute dtype. A `causal` head's
    means take in the frames before those at hand, see `jaxvid.layers.streaming`.
    """

    num_classes: int
    dropout: float = 0.5
    per_frame: bool = False
    causal: bool = False
    init_std: float = 0.01
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> tuple[jax.Array, jax.Array]:
        """Maps features x [B, T, H, W, C] to logits [B, classes] and pooled features [B, C]."""

        def average(x: jax.Array, name: str) -> jax.Array:
            return MeanSoFar(name=name)(x)[:, -1] if self.causal else x.mean(1)

        frames = x.mean((2, 3))
        features = average(frames, "features")
        y = frames if self.per_frame else features
        y = nn.Dropout(self.dropout, deterministic=not train)(y)
        init = nn.initializers.normal(self.init_std)
        logits = nn.Dense(self.num_classes, dtype=self.dtype, kernel_init=init, name="fc")(y)
        logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
        if self.per_frame:
            logits = average(logits, "scores")
        return logits, features


class PositionHead(nn.Module):
    """Dropout and one linear layer at every position of a map (PySlowFast's heads).

    A crop larger than that of training leaves several positions, whose probabilities are averaged;
    see `average_positions`. Logits are float32 or wider whatever the compute dtype.
    """

    num_classes: int
    dropout: float = 0.5
    init_std: float = 0.01
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> tuple[jax.Array, jax.Array]:
        """Maps pooled x [B, T, H, W, C] to logits [B, classes] and mean features [B, C]."""
        y = nn.Dropout(self.dropout, deterministic=not train)(x)
        init = nn.initializers.normal(self.init_std)
        logits = nn.Dense(self.num_classes, dtype=self.dtype, kernel_init=init, name="fc")(y)
        logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
        return average_positions(logits), x.mean((1, 2, 3))


def average_positions(logits: jax.Array) -> jax.Array:
    """Logits [B, classes] of the mean of the probabilities of logits [B, T, H, W, classes].

    Logits are free up to a constant: it is chosen so that one position alone keeps its own.
    """
    logits = logits.reshape(logits.shape[0], -1, logits.shape[-1])
    total = jax.nn.logsumexp(logits, axis=-1, keepdims=True)
    mean = jax.nn.logsumexp(logits - total, axis=1) - jnp.log(logits.shape[1])
    return mean + total.mean(1)
