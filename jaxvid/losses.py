"""Training losses."""

import jax
import jax.numpy as jnp
import optax


def softmax_cross_entropy(
    logits: jax.Array, labels: jax.Array, label_smoothing: float = 0.0
) -> jax.Array:
    """Mean cross-entropy of logits [B, classes] against labels [B] or probabilities [B, classes].

    `label_smoothing` moves that share of each label's probability to all classes evenly (Szegedy
    et al., 2016). The result is a float32 (or wider) scalar.
    """
    classes = logits.shape[-1]
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    if labels.ndim == 1:
        labels = jax.nn.one_hot(labels, classes, dtype=logits.dtype)
    if label_smoothing:
        labels = optax.smooth_labels(labels, label_smoothing)
    return optax.softmax_cross_entropy(logits, labels).mean()
