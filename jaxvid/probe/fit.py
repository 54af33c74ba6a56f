"""Many probes trained beside one another: each batch is read once, and all of them see it.

The recipe is that of V-JEPA 2's evaluations (Assran et al., 2025): AdamW that decays every
parameter, rates that fall to zero by a cosine without warm-up, cross-entropy.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxvid.base.progress import Progress
from jaxvid.layers.vit import dense_init

Rows = Callable[[np.ndarray], np.ndarray]
"""From the numbers [B] of videos to what a probe sees of them [B, ...]."""


class Setting(NamedTuple):
    """What tells a probe from the others: its optimizer, and the seed of its first weights."""

    lr: float
    weight_decay: float
    seed: int


class Plan(NamedTuple):
    """What all probes have in common; `seed` is that of the order of videos."""

    epochs: int
    batch_size: int
    seed: int


class LinearProbe(nn.Module):
    """A linear classifier of features [B, C]."""

    num_classes: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> tuple[jax.Array, jax.Array]:
        """Maps features x [B, C] to logits [B, classes], and gives x as well."""
        return nn.Dense(self.num_classes, kernel_init=dense_init, name="linear")(x), x


def train(
    probe: nn.Module,
    settings: Sequence[Setting],
    rows: Rows,
    labels: np.ndarray,
    plan: Plan,
    what: str,
) -> Any:
    """Trains a probe for each of `settings` on all videos, whose labels are [N].

    Batches are the same for all. An epoch has whole batches only, but at least one.

    Returns:
      The parameters, each with an axis of probes before its own.
    """
    order = _order(len(labels), plan)
    steps = len(order)
    example = jnp.asarray(rows(np.zeros(1, int)), jnp.float32)
    keys = jnp.stack([jax.random.key(setting.seed) for setting in settings])
    params = jax.jit(jax.vmap(lambda key: probe.init(key, example)))(keys)
    adam = optax.scale_by_adam()
    state = jax.jit(jax.vmap(adam.init))(params)
    rates = jnp.array([setting.lr for setting in settings])
    decays = jnp.array([setting.weight_decay for setting in settings])

    def step(params: Any, state: Any, share: Any, x: jax.Array, y: jax.Array) -> tuple[Any, Any]:
        x = x.astype(jnp.float32)

        def one(params: Any, state: Any, rate: Any, decay: Any) -> tuple[Any, Any]:
            def loss(params: Any) -> jax.Array:
                logits, _ = probe.apply(params, x, train=True)
                return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

            updates, state = adam.update(jax.grad(loss)(params), state)
            moved = jax.tree.map(lambda p, u: p - rate * (u + decay * p), params, updates)
            return moved, state

        return jax.vmap(one)(params, state, rates * share, decays)

    compiled = jax.jit(step, donate_argnums=(0, 1))
    progress = Progress(steps, f"{len(settings)} {what} probes", "steps")
    for number, videos in enumerate(order):
        share = 0.5 * (1 + math.cos(math.pi * number / steps))
        params, state = compiled(params, state, share, rows(videos), labels[videos])
        progress.update()
    progress.close()
    return params


def _order(count: int, plan: Plan) -> list[np.ndarray]:
    """The videos of each step of a training."""
    size = min(plan.batch_size, count)
    rng = np.random.default_rng(plan.seed)
    return [
        videos
        for _ in range(plan.epochs)
        for videos in rng.permutation(count)[: count // size * size].reshape(-1, size)
    ]


def right(
    probe: nn.Module, params: Any, rows: Rows, labels: np.ndarray, batch_size: int
) -> np.ndarray:
    """Whether each probe [P] answers each video [N] right, bool [P, N].

    `params` are those that `train` gives. A probe that finds another class as likely is not right.
    """

    @jax.jit
    def answered(params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
        logits = jax.vmap(lambda p: probe.apply(p, x.astype(jnp.float32))[0])(params)
        of_label = jnp.take_along_axis(logits, y[None, :, None], 2)
        return (logits >= of_label).sum(2) == 1

    found = [
        np.asarray(answered(params, rows(videos), labels[videos]))
        for videos in _in_batches(len(labels), batch_size)
    ]
    return np.concatenate(found, axis=1)


def _in_batches(count: int, size: int) -> Iterator[np.ndarray]:
    for start in range(0, count, size):
        yield np.arange(start, min(start + size, count))


def held_out(labels: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Which videos [N] are kept for choosing: about a `share` of each class, by chance."""
    order = np.lexsort((np.random.default_rng(seed).random(len(labels)), labels))
    ends = np.floor(np.arange(len(labels) + 1) * share + 0.5)
    kept = np.zeros(len(labels), bool)
    kept[order] = np.diff(ends) > 0
    return kept
