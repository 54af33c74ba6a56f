"""One step of training: what it changes, and the compiled function that changes it."""

from collections.abc import Callable
from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import optax

from jaxvid import losses, mixing
from jaxvid.preprocess import normalize


@flax.struct.dataclass
class TrainState:
    """All that a step changes: what a checkpoint must hold to go on exactly."""

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any

    @property
    def variables(self) -> dict[str, Any]:
        """The model's variables, as `model.apply` takes them."""
        return {"params": self.params, "batch_stats": self.batch_stats}


def make_update(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    label_smoothing: float = 0.0,
    kind: str = "softmax",
) -> Callable[..., tuple[TrainState, dict[str, jax.Array]]]:
    """One step of training: (state, video, labels, rng) -> (state, {loss, top1, grad_norm}).

    `video` [B, T, H, W, C] is normalised, `labels` are integers [B] or probabilities [B, classes],
    `rng` drives dropout, `kind` is that of the loss. All are global arrays under `jit`, so means
    over the batch, BatchNorm's too, are global ones. `top1` of a blend of labels counts the
    stronger one only; where a clip has several, any of them.
    """
    loss_fn = losses.make_loss(kind, label_smoothing)

    def update(state: TrainState, video: jax.Array, labels: jax.Array, rng: jax.Array):
        def loss_of(params):
            (logits, _), updated = model.apply(
                {"params": params, "batch_stats": state.batch_stats},
                video,
                train=True,
                rngs={"dropout": rng},
                mutable=["batch_stats"],
            )
            return loss_fn(logits, labels), (logits, updated.get("batch_stats", {}))

        (loss, (logits, stats)), gradients = jax.value_and_grad(loss_of, has_aux=True)(state.params)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        measured = {
            "loss": loss,
            "top1": losses.hits(logits, labels, kind).mean(),
            "grad_norm": optax.tree.norm(gradients),
        }
        return TrainState(state.step + 1, params, stats, opt_state), measured

    return update


def make_train_step(
    model: nn.Module, optimizer: optax.GradientTransformation, config: ml_collections.ConfigDict
) -> Callable[[TrainState, dict[str, jax.Array]], tuple[TrainState, dict[str, jax.Array]]]:
    """The compiled step on a batch of the pipeline: (state, {video uint8, label}) -> as above."""
    update = make_update(model, optimizer, config.train.label_smoothing, config.train.loss)
    mean, std, seed = tuple(config.data.mean), tuple(config.data.std), config.seed
    dtype = jnp.dtype(config.model.dtype)
    blend = mixing.Mixing(
        config.train.mixup,
        config.train.cutmix,
        config.train.mixup_switch_prob,
        config.data.repeats,
    )

    def step(state: TrainState, batch: dict[str, jax.Array]):
        rng = jax.random.fold_in(jax.random.key(seed), state.step)
        video, labels = batch["video"], batch["label"]
        if blend:
            key = jax.random.fold_in(rng, 1)
            video, labels = mixing.mix(blend, key, video, labels, model.num_classes)
        return update(state, normalize(video, mean, std, dtype), labels, rng)

    return jax.jit(step, donate_argnums=0)
