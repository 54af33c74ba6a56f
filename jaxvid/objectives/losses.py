"""Training losses, and what a network trained by each answers."""

from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxvid.base.errors import JaxvidError
from jaxvid.rows import LOSSES, UNKNOWN


def make_loss(
    kind: str,
    label_smoothing: float = 0.0,
    weight: float = 1.0,
    categories: Sequence[str] = (),
    category_weights: Mapping[str, float] | None = None,
    class_weights: Sequence[float] = (),
) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """The function (logits, labels) -> `weight` x loss that `config.train` asks for; see below.

    `categories` are those of the classes, where clips are annotated for some of them only.
    """
    check_kind(kind)
    weights = category_weights or {}
    if stray := next((name for name in weights if name not in categories), None):
        raise JaxvidError(
            f"config.train.category_weights has {stray!r}, which is no category of the videos: "
            f"{', '.join(sorted(set(categories))) or 'they have none'}"
        )
    how = (label_smoothing, class_weights)
    if kind == "softmax":
        return lambda logits, labels: weight * softmax_cross_entropy(logits, labels, *how)
    if categories:
        return lambda logits, labels: (
            weight * annotated_cross_entropy(logits, labels, categories, weights, *how)
        )
    return lambda logits, labels: weight * sigmoid_cross_entropy(logits, labels, *how)


def softmax_cross_entropy(
    logits: jax.Array,
    labels: jax.Array,
    label_smoothing: float = 0.0,
    class_weights: Sequence[float] = (),
) -> jax.Array:
    """Mean cross-entropy of logits [B, classes] against labels [B] or probabilities [B, classes].

    `label_smoothing` moves that share of each label's probability to all classes evenly (Szegedy
    et al., 2016). A clip counts as often as the weight of its class says, one of a blend of labels
    for each of them; the mean is over clips, whatever they weigh. The result is a float32 (or
    wider) scalar.
    """
    logits, labels = _matched(logits, labels)
    if class_weights:
        labels = labels * jnp.asarray(class_weights, labels.dtype)
        evenly = labels.sum(-1, keepdims=True) / labels.shape[-1]
        labels = (1 - label_smoothing) * labels + label_smoothing * evenly
    elif label_smoothing:
        labels = optax.smooth_labels(labels, label_smoothing)
    return optax.softmax_cross_entropy(logits, labels).mean()


def sigmoid_cross_entropy(
    logits: jax.Array,
    labels: jax.Array,
    label_smoothing: float = 0.0,
    class_weights: Sequence[float] = (),
) -> jax.Array:
    """Mean over clips and classes of each class's own binary cross-entropy.

    `labels` [B, classes] are 1 where a clip has the class, or the probability of it; labels [B]
    mean one class each. `label_smoothing` moves that share of the probability to both answers, that
    a class is there and that it is not, evenly. What a clip has counts as often as the weight of
    the class says, what it lacks once. The result is a float32 (or wider) scalar.
    """
    logits, labels = _matched(logits, labels)
    return _binary(logits, labels, label_smoothing, class_weights).mean()


def _binary(
    logits: jax.Array, labels: jax.Array, label_smoothing: float, class_weights: Sequence[float]
) -> jax.Array:
    """The terms [B, classes] of which `sigmoid_cross_entropy` is the mean."""
    if class_weights:
        there, absent = labels * jnp.asarray(class_weights, labels.dtype), 1 - labels
        moved = label_smoothing / 2
        yes, no = (
            (1 - moved) * own + moved * other for own, other in ((there, absent), (absent, there))
        )
        return -(yes * jax.nn.log_sigmoid(logits) + no * jax.nn.log_sigmoid(-logits))
    if label_smoothing:
        labels = (1 - label_smoothing) * labels + label_smoothing / 2
    return optax.sigmoid_binary_cross_entropy(logits, labels)


def annotated_cross_entropy(
    logits: jax.Array,
    labels: jax.Array,
    categories: Sequence[str],
    weights: Mapping[str, float],
    label_smoothing: float = 0.0,
    class_weights: Sequence[float] = (),
) -> jax.Array:
    """Mean binary cross-entropy over what clips were annotated for.

    Without `weights` of categories it is the mean over clips of each clip's own mean over its known
    classes. With some (others weigh 1) each category has a mean, over its classes and the clips
    that were annotated for it, and the loss is the weighted mean of those of categories that any
    clip of the batch has, as for HVU (Diba et al., 2020) in MMAction2. `labels` [B, classes] are as
    in `sigmoid_cross_entropy`, and `UNKNOWN`, of blends NaN, where nobody said; what smoothes and
    weighs them is as well.
    """
    known = ~_unknown(labels)
    logits, labels = _matched(logits, jnp.where(known, labels, 0))
    each = jnp.where(known, _binary(logits, labels, label_smoothing, class_weights), 0)
    if not weights:
        return (each.sum(1) / jnp.maximum(known.sum(1), 1)).mean()
    names, places = np.unique(np.array(categories), return_inverse=True)
    member = jnp.asarray(np.eye(len(names))[places], each.dtype)  # [classes, categories]
    has = ((known.astype(each.dtype) @ member) > 0).astype(each.dtype)  # [B, categories]
    means = (each @ member / member.sum(0) * has).sum(0) / jnp.maximum(has.sum(0), 1)
    share = jnp.asarray([weights.get(name, 1.0) for name in names.tolist()], each.dtype)
    share *= has.max(0)
    return (share * means).sum() / jnp.maximum(share.sum(), jnp.finfo(each.dtype).tiny)


def _unknown(labels: jax.Array) -> jax.Array:
    """Where labels [B, classes], or blends of them, say nothing."""
    if jnp.issubdtype(labels.dtype, jnp.floating):
        return jnp.isnan(labels)
    return labels == UNKNOWN


def token_labels(logits: jax.Array, keep: int = 5) -> jax.Array:
    """What token labelling asks of a token: probabilities, by a teacher's logits [..., classes].

    All but the `keep` best logits of a token become 0 before the softmax, as the authors of
    DualFormer (Liang et al., 2021) have it; the other classes keep a small share each.
    """
    least = jax.lax.top_k(logits, min(keep, logits.shape[-1]))[0][..., -1:]
    return jax.nn.softmax(jnp.where(logits >= least, logits, 0))


def distillation(
    kind: str, logits: jax.Array, taught: jax.Array, temperature: float = 1.0
) -> jax.Array:
    """How far logits [B, classes] are from a teacher's, both divided by `temperature`.

    Under `softmax` it is the mean over clips of the Kullback-Leibler divergence from the teacher's
    probabilities, under `sigmoid` the mean over clips and classes of that of each class by itself;
    times the square of the temperature, by which its gradients are as large as those of labels
    (Hinton et al., "Distilling the knowledge in a neural network", 2015). The result is a float32
    (or wider) scalar.
    """
    own, theirs = (
        x.astype(jnp.promote_types(x.dtype, jnp.float32)) / temperature for x in (logits, taught)
    )
    if kind == "softmax":
        apart = _divergence(jax.nn.log_softmax(theirs), jax.nn.log_softmax(own)).sum(-1)
    else:
        there, absent = (
            _divergence(jax.nn.log_sigmoid(sign * theirs), jax.nn.log_sigmoid(sign * own))
            for sign in (1, -1)
        )
        apart = there + absent
    return temperature**2 * jnp.mean(apart)


def _divergence(theirs: jax.Array, own: jax.Array) -> jax.Array:
    """The terms of the Kullback-Leibler divergence between probabilities, given their logs."""
    return jnp.exp(theirs) * (theirs - own)


def probabilities(kind: str, logits: jax.Array) -> jax.Array:
    """What logits [..., classes] mean under a loss: shares of one, or each class's own."""
    return jax.nn.softmax(logits) if kind == "softmax" else jax.nn.sigmoid(logits)


def hits(logits: jax.Array, labels: jax.Array, kind: str = "softmax") -> jax.Array:
    """Whether the best answer to each clip [B] is its label, or one of its labels.

    Under `softmax` labels [B, classes] are blends, of which the stronger label counts. Else classes
    of which nothing is known are no answers.
    """
    if labels.ndim == 1:
        return logits.argmax(-1) == labels
    if kind == "softmax":
        return logits.argmax(-1) == labels.argmax(-1)
    best = jnp.where(_unknown(labels), -jnp.inf, logits).argmax(-1)
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
