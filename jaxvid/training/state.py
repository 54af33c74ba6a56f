"""What a step of training changes, and which of it an optimizer has to do with."""

import dataclasses
from collections.abc import Mapping, Set
from typing import Any

import flax
import jax
import jax.numpy as jnp
import optax
from flax.traverse_util import flatten_dict, unflatten_dict


@flax.struct.dataclass
class TrainState:
    """All that a step changes: what a checkpoint must hold to go on exactly.

    `ema` holds the averaged `params` and `batch_stats` of a run that keeps such a copy.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any
    ema: Any = flax.struct.field(default_factory=dict)

    @property
    def variables(self) -> dict[str, Any]:
        """The model's variables, as `model.apply` takes them."""
        return {"params": self.params, "batch_stats": self.batch_stats}

    def tested(self, weights: str) -> dict[str, Any]:
        """The variables that `config.test.weights` asks for: the averaged ones, if any, or not."""
        return self.ema if self.ema and weights == "ema" else self.variables

    def without(self, paths: Set[str]) -> "TrainState":
        """The state without some of its parameters, by their paths, and without their average."""

        def rest(params: Any) -> Any:
            return split(params, paths)[0]

        ema = self.ema | {"params": rest(self.ema["params"])} if self.ema else self.ema
        return dataclasses.replace(self, params=rest(self.params), ema=ema)

    def completed(self, held: dict[str, Any]) -> "TrainState":
        """The other way round; what is not trained is its own average."""
        ema = self.ema
        if ema:
            ema = ema | {"params": join(ema["params"], jax.tree.map(jnp.copy, held))}
        return dataclasses.replace(self, params=join(self.params, held), ema=ema)

    def started_from(self, variables: Mapping[str, Any]) -> "TrainState":
        """The state with other variables, from which the average starts too."""
        params, batch_stats = variables["params"], variables.get("batch_stats", {})
        ema = {"params": params, "batch_stats": batch_stats} if self.ema else {}
        # A step takes the state's memory over: nothing may be in it twice.
        ema = jax.tree.map(jnp.copy, ema)
        return dataclasses.replace(self, params=params, batch_stats=batch_stats, ema=ema)


Stepped = tuple[TrainState, dict[str, jax.Array]]
"""The state after a step, and what the step measured."""


def make_state(
    variables: Mapping[str, Any],
    optimizer: optax.GradientTransformation,
    frozen: Set[str] = frozenset(),
    averaged: bool = False,
) -> TrainState:
    """The state before the first step; see `descent.Descent` for `frozen`."""
    params, _ = split(variables["params"], frozen)
    state = TrainState(
        jnp.zeros((), jnp.int32),
        {},
        {},
        optimizer.init(params),
        {"params": {}} if averaged else {},
    )
    return state.started_from(variables)


@jax.jit
def all_finite(tree: Any) -> jax.Array:
    """Whether no number in `tree` is infinite or NaN."""
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]).all()


def split(params: Any, frozen: Set[str]) -> tuple[Any, dict[str, Any]]:
    """Parts parameters in those to train, nested, and those to keep, by path."""
    if not frozen:
        return params, {}
    flat = flatten_dict(params, sep="/")
    trained = {path: value for path, value in flat.items() if path not in frozen}
    held = {path: value for path, value in flat.items() if path in frozen}
    return unflatten_dict(trained, sep="/"), held


def join(trained: Any, held: dict[str, Any]) -> Any:
    """The other way round."""
    if not held:
        return trained
    return unflatten_dict(flatten_dict(trained, sep="/") | held, sep="/")
