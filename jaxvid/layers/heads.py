"""Classification heads that families share."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


class MeanHead(nn.Module):
    """Average over space and time, dropout, one linear layer.

    With `per_frame` dropout and the linear layer act on each frame and the scores are averaged
    (TSM's order); otherwise features are averaged first (TSN, I3D). Both give the same logits
    without dropout. Logits are float32 or wider whatever the compute dtype.
    """

    num_classes: int
    dropout: float = 0.5
    per_frame: bool = False
    init_std: float = 0.01
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> tuple[jax.Array, jax.Array]:
        """Maps features x [B, T, H, W, C] to logits [B, classes] and pooled features [B, C]."""
        frames = x.mean((2, 3))
        features = frames.mean(1)
        y = frames if self.per_frame else features
        y = nn.Dropout(self.dropout, deterministic=not train)(y)
        init = nn.initializers.normal(self.init_std)
        logits = nn.Dense(self.num_classes, dtype=self.dtype, kernel_init=init, name="fc")(y)
        logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
        if self.per_frame:
            logits = logits.mean(1)
        return logits, features
