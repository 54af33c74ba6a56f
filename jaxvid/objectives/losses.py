"""Training losses, and what a network trained by each answers."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from jaxvid.base.errors import JaxvidError
from jaxvid.rows import LOSSES


def make_loss(
    kind: str, label_smoothing: float = 0.0, weight: float = 1.0
) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """The function (logits, labels) -> `weight` x loss that `config.train` asks for; see below."""
    check_kind(kind)
    if kind == "softmax":
        return lambda logits, labels: (
            weight * softmax_cross_entropy(logits, labels, label_smoothing)
        )
    if label_smoothing:
        raise JaxvidError(
            f"config.train.label_smoothing={label_smoothing} is for the loss softmax: set it to 0, "
            "as classes that do not exclude one another share no probability"
        )
    return lambda logits, labels: weight * sigmoid_cross_entropy(logits, labels)


def softmax_cross_entropy(
    logits: jax.Array, labels: jax.Array, label_smoothing: float = 0.0
) -> jax.Array:
    """Mean cross-entropy of logits [B, classes] against labels [B] or probabilities [B, classes].

    `label_smoothing` moves that share of each label's probability to all classes evenly (Szegedy
    et al., 2016). The result is a float32 (or wider) scalar.
    """
    logits, labels = _matched(logits, labels)
    if label_smoothing:
        labels = optax.smooth_labels(labels, label_smoothing)
    return optax.softmax_cross_entropy(logits, labels).mean()


def sigmoid_cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Mean over clips and classes of each class's own binary cross-entropy.

    `labels` [B, classes] are 1 where a clip has the class, or the probability of it; labels [B]
    mean one class each. The result is a float32 (or wider) scalar.
    """
    return optax.sigmoid_binary_cross_entropy(*_matched(logits, labels)).mean()


def token_labels(logits: jax.Array, keep: int = 5) -> jax.Array:
    """What token labelling asks of a token: probabilities, by a teacher's logits [..., classes].

    All but the `keep` best logits of a token become 0 before the softmax, as the authors of
    DualFormer (Liang et al., 2021) have it; the other classes keep a small share each.
    """
    least = jax.lax.top_k(logits, min(keep, logits.shape[-1]))[0][..., -1:]
    return jax.nn.softmax(jnp.where(logits >= least, logits, 0))


def probabilities(kind: str, logits: jax.Array) -> jax.Array:
    """What logits [..., classes] mean under a loss: shares of one, or each class's own."""
    return jax.nn.softmax(logits) if kind == "softmax" else jax.nn.sigmoid(logits)


def hits(logits: jax.Array, labels: jax.Array, kind: str = "softmax") -> jax.Array:
    """Whether the best answer to each clip [B] is its label, or one of its labels.

    Under `softmax` labels [B, classes] are blends, of which the stronger label counts.
    """
    best = logits.argmax(-1)
    if labels.ndim == 1:
        return best == labels
    if kind == "softmax":
        return best == labels.argmax(-1)
    return jnp.take_along_axis(labels, best[:, None], 1)[:, 0] > 0


def check_kind(kind: str) -> None:
    """Refuses a loss that does not exist."""
    if kind not in LOSSES:
        raise JaxvidError(f"config.train.loss={kind!r} is unknown: take {' or '.join(LOSSES)}")


def _matched(logits: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Logits in float32 or wider, and labels [B, classes] of the same type."""
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    if labels.ndim == 1:
        labels = jax.nn.one_hot(labels, logits.shape[-1])
    return logits, labels.astype(logits.dtype)
