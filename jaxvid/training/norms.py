"""Which statistics BatchNorms are trained with, and those of many batches at once."""

import dataclasses
from collections.abc import Callable, Iterable, Set
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxvid.config.parts import Config, Train
from jaxvid.layers import spread
from jaxvid.layers.backend import for_mesh
from jaxvid.layers.preprocess import normalizer
from jaxvid.training import parts
from jaxvid.training.state import TrainState


@dataclasses.dataclass(frozen=True)
class Norms:
    """Which statistics the BatchNorms of a network use in training.

    Attributes:
      held: every BatchNorm uses its running statistics, and scale and bias are trained.
      group: clips that BatchNorm takes its statistics of together: those of each so many that
        follow one another, on however many devices they are; 0, or no fewer than there are, means
        all. The running statistics take in the mean of all groups'.
    """

    held: bool = False
    group: int = 0

    def groups(self, clips: int) -> int:
        """How many groups of so many clips have statistics of their own."""
        return clips // self.group if 0 < self.group < clips else 1


def norms_of(train: Train) -> Norms:
    """What `config.train` says of them."""
    return Norms(train.freeze_norm == "statistics", train.norm_group)


def make_precise_norms(
    model: nn.Module,
    config: Config,
    frozen: Set[str] = frozenset(),
    placed: Any = None,
    mesh: jax.sharding.Mesh | None = None,
    merged: Callable[[Any], Any] = lambda params: params,
) -> Callable[[TrainState, Iterable[dict[str, Any]]], TrainState]:
    """What gives a state BatchNorm's statistics of batches: (state, batches of clips) -> state.

    They are mean and variance of all clips together, each batch normalised by its own statistics as
    in training, and replace the moving averages, the averaged copy's too. They follow from the
    parameters, the step and the batches alone. `placed` are the shardings of `state.batch_stats`
    on `mesh`, and `merged` makes the network's parameters of the state's; see `lora`.
    """
    prepare = normalizer(config.data, jnp.dtype(config.model.dtype))
    norms, accumulate = norms_of(config.train), config.train.accumulate_steps
    groups = accumulate * norms.groups(config.train.batch_size // accumulate)

    def add(variables: Any, stats: Any, step: jax.Array, number: Any, video: jax.Array) -> Any:
        key = jax.random.fold_in(jax.random.key(config.seed), step)
        key = jax.random.fold_in(jax.random.fold_in(key, 4), number)
        with parts.grouping_norms(groups, measure=True), parts.holding_norms(frozen, norms.held):
            _, measured = model.apply(
                spread.whole_variables(model, variables | {"params": merged(variables["params"])}),
                prepare(video),
                train=True,
                rngs={"dropout": key},
                mutable=["batch_stats"],
            )
        return _merged(stats, measured["batch_stats"], number)

    add = jax.jit(
        for_mesh(add, mesh, config.model.matmul_precision), donate_argnums=1, out_shardings=placed
    )

    def measure(state: TrainState, batches: Iterable[dict[str, Any]]) -> TrainState:
        copies = [state.variables] + ([state.ema] if state.ema else [])
        stats = [jax.tree.map(jnp.zeros_like, copy["batch_stats"]) for copy in copies]
        for number, batch in enumerate(batches, 1):
            stats = [
                add(copy, each, state.step, number, batch["video"])
                for copy, each in zip(copies, stats, strict=True)
            ]
        ema = state.ema | {"batch_stats": stats[-1]} if state.ema else state.ema
        return dataclasses.replace(state, batch_stats=stats[0], ema=ema)

    return measure


def _merged(stats: Any, measured: Any, number: jax.Array) -> Any:
    """Mean and variance of `number` batches: those of all before the last, and of the last."""
    old, new = flatten_dict(stats), flatten_dict(measured)
    for *norm, kind in list(old):
        if kind == "mean":
            mean, var = (*norm, "mean"), (*norm, "var")
            shift = new[mean] - old[mean]
            between = jnp.square(shift) * ((number - 1) / number)
            old[var] += (new[var] - old[var] + between) / number
            old[mean] += shift / number
    return unflatten_dict(old)
