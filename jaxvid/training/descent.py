"""One step down a loss, whichever it is: gradients, the update, and the averaged copy."""

import dataclasses
from collections.abc import Callable, Set
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxvid.training.state import Stepped, TrainState, join, split

Loss = Callable[..., tuple[jax.Array, tuple[Any, dict[str, jax.Array]]]]
"""From (params, batch_stats, part of the batch, rng, beside) to (loss, (batch_stats, what else was
measured))."""
_Gradients = tuple[Any, Any, dict[str, jax.Array]]
"""Gradients, batch_stats, and what was measured."""


@dataclasses.dataclass(frozen=True)
class Descent:
    """How gradients become a step.

    Attributes:
      frozen: paths of parameters that stay as they are; the optimizer has no state for them, and a
        BatchNorm all of whose parameters are among them uses its running statistics.
      accumulate: parts that the batch is computed in, one after another, before the one update that
        is made of their mean gradients. BatchNorm sees each part by itself.
      ema_decay: how much of the averaged copy a step keeps, of parameters and of BatchNorm's
        running statistics alike; 0 keeps no copy. In the first steps it is (1 + step) / (10 + step)
        where that is less, so that the copy forgets what the run began with.
      merged: from parameters as they are kept to those of the network, between which gradients
        pass; see `lora`.
    """

    frozen: Set[str] = frozenset()
    accumulate: int = 1
    ema_decay: float = 0.0
    merged: Callable[[Any], Any] = lambda params: params


def make_descent(
    loss_of: Loss, optimizer: optax.GradientTransformation, how: Descent
) -> Callable[..., Stepped]:
    """One step down any loss: (state, batch, rng, beside) -> (state, {loss, grad_norm, ...}).

    `batch` is a pytree of arrays [B, ...], and `beside` what is not a batch's.
    """

    def descend(state: TrainState, batch: Any, rng: jax.Array, beside: Any = None) -> Stepped:
        trained, held = split(state.params, how.frozen)

        def differentiate(stats: Any, part: Any, rng: jax.Array) -> _Gradients:
            (loss, (stats, measured)), gradients = jax.value_and_grad(
                lambda trained: loss_of(how.merged(join(trained, held)), stats, part, rng, beside),
                has_aux=True,
            )(trained)
            return gradients, stats, {"loss": loss, **measured}

        if how.accumulate == 1:
            gradients, stats, measured = differentiate(state.batch_stats, batch, rng)
        else:
            gradients, stats, measured = _accumulate(
                differentiate, trained, state.batch_stats, batch, rng, how.accumulate
            )
        updates, opt_state = optimizer.update(gradients, state.opt_state, trained)
        params = join(optax.apply_updates(trained, updates), held)
        measured["grad_norm"] = optax.tree.norm(gradients)
        new = TrainState(state.step + 1, params, stats, opt_state)
        if how.ema_decay:
            new = dataclasses.replace(new, ema=_averaged(state, new, how.ema_decay))
        return new, measured

    return descend


def _accumulate(
    differentiate: Callable[..., _Gradients],
    trained: Any,
    stats: Any,
    batch: Any,
    rng: jax.Array,
    count: int,
) -> _Gradients:
    """Mean gradients and measurements of a batch in `count` parts, and the statistics after it."""
    pieces = jax.tree.map(lambda array: _cut(array, count), batch)
    rngs = jax.random.split(jax.random.fold_in(rng, 2), count)

    def add(carried: Any, piece: Any) -> tuple[Any, dict[str, jax.Array]]:
        total, stats = carried
        gradients, stats, measured = differentiate(stats, *piece)
        return (jax.tree.map(jnp.add, total, gradients), stats), measured

    zeros = jax.tree.map(jnp.zeros_like, trained)
    (total, stats), measured = jax.lax.scan(add, (zeros, stats), (pieces, rngs))
    gradients = jax.tree.map(lambda x: x / count, total)
    return gradients, stats, jax.tree.map(lambda x: x.mean(0), measured)


def _cut(batch: jax.Array, count: int) -> jax.Array:
    """Cuts [B, ...] into [count, B / count, ...], so that each device has its share of each."""
    return batch.reshape(-1, count, *batch.shape[1:]).swapaxes(0, 1)


def _averaged(old: TrainState, new: TrainState, decay: float) -> Any:
    """The averaged copy of `old`, moved towards the variables of `new`."""
    kept = jnp.minimum(decay, (1 + old.step) / (10 + old.step))
    return jax.tree.map(
        lambda average, x: average + ((1 - kept) * (x - average)).astype(average.dtype),
        old.ema,
        new.variables,
    )
