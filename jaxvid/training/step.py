"""One step of training: what it changes, and the compiled function that changes it."""

from collections.abc import Callable, Iterable, Set
from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxvid.base.errors import JaxvidError
from jaxvid.config.parts import Config
from jaxvid.inference import reconstruct
from jaxvid.layers.preprocess import normalizer
from jaxvid.objectives import losses, masking
from jaxvid.training import mixing, parts


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

    def started_from(self, variables: dict[str, Any]) -> "TrainState":
        """The state with other variables, from which the average starts too."""
        params, batch_stats = variables["params"], variables.get("batch_stats", {})
        ema = {"params": params, "batch_stats": batch_stats} if self.ema else {}
        # A step takes the state's memory over: nothing may be in it twice.
        ema = jax.tree.map(jnp.copy, ema)
        return self.replace(params=params, batch_stats=batch_stats, ema=ema)


def make_state(
    variables: dict[str, Any],
    optimizer: optax.GradientTransformation,
    frozen: Set[str] = frozenset(),
    averaged: bool = False,
) -> TrainState:
    """The state before the first step; see `make_update` for `frozen`."""
    params, _ = _split(variables["params"], frozen)
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


Teacher = Callable[[Any, jax.Array], jax.Array]
"""From its variables and a normalised clip to logits [B, T', H', W', classes] of the tokens."""


def make_update(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    label_smoothing: float = 0.0,
    kind: str = "softmax",
    *,
    loss_weight: float = 1.0,
    aux_weight: float = 0.0,
    frozen: Set[str] = frozenset(),
    recomputed: Set[str] = frozenset(),
    held_norms: bool = False,
    norm_group: int = 0,
    accumulate: int = 1,
    ema_decay: float = 0.0,
    teacher: Teacher | None = None,
    token_weight: float = 0.0,
    prepare: Callable[[jax.Array], jax.Array] = lambda video: video,
) -> Callable[..., tuple[TrainState, dict[str, jax.Array]]]:
    """One step of training: (state, video, labels, rng) -> (state, {loss, top1, grad_norm}).

    `video` [B, T, H, W, C] is normalised, `labels` are integers [B] or probabilities [B, classes],
    `rng` drives dropout, `kind` is that of the loss. All are global arrays under `jit`, so means
    over the batch are global ones. `top1` of a blend of labels counts the
    stronger one only; where a clip has several, any of them. A teacher's variables are a fifth
    argument.

    Args:
      loss_weight: what the loss, as it is differentiated and measured, is multiplied by.
      aux_weight: what the loss of an auxiliary classifier, which answers `aux_logits` among the
        intermediates of training, is multiplied by before it is added; 0 leaves it untrained.
      frozen: paths of parameters that stay as they are; the optimizer has no state for them, and a
        BatchNorm all of whose parameters are among them uses its running statistics.
      recomputed: paths of blocks of which the backward pass keeps the inputs only.
      held_norms: every BatchNorm uses its running statistics, and scale and bias are trained.
      norm_group: clips that BatchNorm takes its statistics of together: those of each so many that
        follow one another, on however many devices they are; 0, or no fewer than there are, means
        all. The running statistics take in the mean of all groups'.
      accumulate: parts that the batch is computed in, one after another, before the one update that
        is made of their mean gradients. BatchNorm sees each part by itself.
      ema_decay: how much of the averaged copy a step keeps, of parameters and of BatchNorm's
        running statistics alike; 0 keeps no copy. In the first steps it is (1 + step) / (10 + step)
        where that is less, so that the copy forgets what the run began with.
      teacher: what labels the tokens of each clip (`losses.token_labels`), for a network that
        answers `token_logits` among the intermediates of training.
      token_weight: the share of the loss that the teacher's labels have, by their cross-entropy;
        the labels of the clips have the rest.
      prepare: applied to each part of the video, where it is needed.
    """
    loss_fn = losses.make_loss(kind, label_smoothing, loss_weight)

    def loss_of(params: Any, stats: Any, part: dict[str, Any], rng: jax.Array, taught: Any):
        video, labels = prepare(part["video"]), part["label"]
        groups = norm_groups(len(video), norm_group)
        with (
            parts.grouping_norms(groups),
            parts.holding_norms(frozen, held_norms),
            parts.recomputing(recomputed),
        ):
            (logits, out), updated = model.apply(
                {"params": params, "batch_stats": stats},
                video,
                train=True,
                rngs={"dropout": rng},
                mutable=["batch_stats"],
            )
        if aux_weight and "aux_logits" not in out:
            raise JaxvidError(
                f"config.train.aux_weight={aux_weight} but this network has no auxiliary "
                "classifier: leave it 0"
            )
        if (teacher is not None) != ("token_logits" in out):
            raise JaxvidError(
                "config.train.teacher needs a network that answers for each token, and such a "
                "network needs a teacher: set both or neither, the network by the field "
                "`token_labels` in config.model.overrides"
            )
        loss = loss_fn(logits, labels)
        if aux_weight:
            loss += aux_weight * loss_fn(out["aux_logits"], labels)
        if teacher is not None:
            token_labels = losses.token_labels(teacher(taught, video))
            tokens = _token_loss(out["token_logits"], token_labels)
            loss = (1 - token_weight) * loss + token_weight * tokens
        top1 = losses.hits(logits, labels, kind).mean()
        return loss, (updated.get("batch_stats", {}), {"top1": top1})

    descend = make_descent(
        loss_of, optimizer, frozen=frozen, accumulate=accumulate, ema_decay=ema_decay
    )

    def update(
        state: TrainState,
        video: jax.Array,
        labels: jax.Array,
        rng: jax.Array,
        taught: Any = None,
    ):
        return descend(state, {"video": video, "label": labels}, rng, taught)

    return update


def norm_groups(clips: int, size: int) -> int:
    """How many groups of `size` clips there are, of which each has BatchNorm statistics."""
    return clips // size if 0 < size < clips else 1


def make_reconstruction_update(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    *,
    frozen: Set[str] = frozenset(),
    recomputed: Set[str] = frozenset(),
    accumulate: int = 1,
    ema_decay: float = 0.0,
    prepare: Callable[[jax.Array], jax.Array],
    scale: masking.Scale | None = None,
) -> Callable[..., tuple[TrainState, dict[str, jax.Array]]]:
    """One step of filling in: (state, video, masks, rng) -> (state, {loss, grad_norm}).

    `video` is uint8 [B, T, H, W, C], which `prepare` normalises, `masks` a `masking.Masks`. The
    loss is the mean squared error over the cubes that count, which are normalised by `scale`, or
    each by its own mean and deviation. For the rest see `make_update`.
    """
    cube = masking.cube_of(model)

    def loss_of(params: Any, stats: Any, part: dict[str, Any], rng: jax.Array, _: Any):
        masks = part["masks"]
        with parts.recomputing(recomputed):
            pixels, _ = model.apply(
                {"params": params},
                prepare(part["video"]),
                train=True,
                visible=masks.visible,
                decoded=masks.decoded,
                rngs={"dropout": rng},
            )
        sums, counts = masking.errors(part["video"], pixels, masks, cube, scale)
        return sums.sum() / counts.sum(), (stats, {})

    descend = make_descent(
        loss_of, optimizer, frozen=frozen, accumulate=accumulate, ema_decay=ema_decay
    )

    def update(state: TrainState, video: jax.Array, masks: masking.Masks, rng: jax.Array):
        return descend(state, {"video": video, "masks": masks}, rng)

    return update


def make_descent(
    loss_of: Callable[..., tuple[jax.Array, tuple[Any, dict[str, jax.Array]]]],
    optimizer: optax.GradientTransformation,
    *,
    frozen: Set[str],
    accumulate: int,
    ema_decay: float,
) -> Callable[..., tuple[TrainState, dict[str, jax.Array]]]:
    """One step down any loss: (state, batch, rng, beside) -> (state, {loss, grad_norm, ...}).

    `batch` is a pytree of arrays [B, ...], and `beside` what is not a batch's. The loss is a
    function (params, batch_stats, part of the batch, rng, beside) -> (loss, (batch_stats, what else
    was measured)). See `make_update` for the other arguments.
    """

    def descend(state: TrainState, batch: Any, rng: jax.Array, beside: Any = None):
        trained, held = _split(state.params, frozen)

        def differentiate(stats: Any, part: Any, rng: jax.Array):
            (loss, (stats, measured)), gradients = jax.value_and_grad(
                lambda trained: loss_of(_join(trained, held), stats, part, rng, beside),
                has_aux=True,
            )(trained)
            return gradients, stats, {"loss": loss, **measured}

        if accumulate == 1:
            gradients, stats, measured = differentiate(state.batch_stats, batch, rng)
        else:
            pieces = jax.tree.map(lambda array: _cut(array, accumulate), batch)
            rngs = jax.random.split(jax.random.fold_in(rng, 2), accumulate)

            def add(carried, piece):
                total, stats = carried
                gradients, stats, measured = differentiate(stats, *piece)
                return (jax.tree.map(jnp.add, total, gradients), stats), measured

            zeros = jax.tree.map(jnp.zeros_like, trained)
            (total, stats), measured = jax.lax.scan(add, (zeros, state.batch_stats), (pieces, rngs))
            gradients = jax.tree.map(lambda x: x / accumulate, total)
            measured = jax.tree.map(lambda x: x.mean(0), measured)

        updates, opt_state = optimizer.update(gradients, state.opt_state, trained)
        params = _join(optax.apply_updates(trained, updates), held)
        measured["grad_norm"] = optax.tree.norm(gradients)
        new = TrainState(state.step + 1, params, stats, opt_state)
        if ema_decay:
            decay = jnp.minimum(ema_decay, (1 + state.step) / (10 + state.step))
            ema = jax.tree.map(
                lambda average, x: average + ((1 - decay) * (x - average)).astype(average.dtype),
                state.ema,
                new.variables,
            )
            new = new.replace(ema=ema)
        return new, measured

    return descend


def make_train_step(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    config: Config,
    frozen: Set[str] = frozenset(),
    recomputed: Set[str] = frozenset(),
    teacher: Teacher | None = None,
) -> Callable[[TrainState, dict[str, Any]], tuple[TrainState, dict[str, jax.Array]]]:
    """The step on a batch of the pipeline, not compiled: (state, {video uint8, label}) -> as above.

    With a teacher its variables are in the batch too, as `teacher`.
    """
    shared = {
        "frozen": frozen,
        "recomputed": recomputed,
        "accumulate": config.train.accumulate_steps,
        "ema_decay": config.train.ema_decay,
        "prepare": normalizer(config.data, jnp.dtype(config.model.dtype)),
    }
    if config.train.loss == "pixels":
        task = reconstruct.task_of(model, config.train, config.data)
        update = make_reconstruction_update(model, optimizer, scale=task.scale, **shared)
        make = _make_filling(update, task)
    else:
        update = make_update(
            model,
            optimizer,
            config.train.label_smoothing,
            config.train.loss,
            loss_weight=config.train.loss_weight,
            aux_weight=config.train.aux_weight,
            teacher=teacher,
            token_weight=config.train.token_weight if teacher else 0.0,
            held_norms=config.train.freeze_norm == "statistics",
            norm_group=config.train.norm_group,
            **shared,
        )
        make = _make_classifying(update, model, config)

    def step(state: TrainState, batch: dict[str, Any]):
        return make(state, batch, jax.random.fold_in(jax.random.key(config.seed), state.step))

    return step


def make_precise_norms(
    model: nn.Module,
    config: Config,
    frozen: Set[str] = frozenset(),
    placed: Any = None,
) -> Callable[[TrainState, Iterable[dict[str, Any]]], TrainState]:
    """What gives a state BatchNorm's statistics of batches: (state, batches of clips) -> state.

    They are mean and variance of all clips together, each batch normalised by its own statistics as
    in training, and replace the moving averages, the averaged copy's too. They follow from the
    parameters, the step and the batches alone. `placed` are the shardings of `state.batch_stats`.
    """
    prepare = normalizer(config.data, jnp.dtype(config.model.dtype))
    held = config.train.freeze_norm == "statistics"
    part = config.train.batch_size // config.train.accumulate_steps
    groups = config.train.accumulate_steps * norm_groups(part, config.train.norm_group)

    def add(variables: Any, stats: Any, step: jax.Array, number: jax.Array, video: jax.Array):
        key = jax.random.fold_in(jax.random.key(config.seed), step)
        key = jax.random.fold_in(jax.random.fold_in(key, 4), number)
        with parts.grouping_norms(groups, measure=True), parts.holding_norms(frozen, held):
            _, measured = model.apply(
                variables,
                prepare(video),
                train=True,
                rngs={"dropout": key},
                mutable=["batch_stats"],
            )
        old, new = (flatten_dict(tree) for tree in (stats, measured["batch_stats"]))
        for *norm, kind in list(old):
            if kind == "mean":
                mean, var = (*norm, "mean"), (*norm, "var")
                shift = new[mean] - old[mean]
                between = jnp.square(shift) * ((number - 1) / number)
                old[var] += (new[var] - old[var] + between) / number
                old[mean] += shift / number
        return unflatten_dict(old)

    add = jax.jit(add, donate_argnums=1, out_shardings=placed)

    def measure(state: TrainState, batches: Iterable[dict[str, Any]]) -> TrainState:
        copies = [state.variables] + ([state.ema] if state.ema else [])
        stats = [jax.tree.map(jnp.zeros_like, copy["batch_stats"]) for copy in copies]
        for number, batch in enumerate(batches, 1):
            stats = [
                add(copy, each, state.step, number, batch["video"])
                for copy, each in zip(copies, stats, strict=True)
            ]
        ema = state.ema | {"batch_stats": stats[-1]} if state.ema else state.ema
        return state.replace(batch_stats=stats[0], ema=ema)

    return measure


def _make_classifying(
    update: Callable[..., Any], model: nn.Module, config: Config
) -> Callable[..., Any]:
    """A step of `make_update` on a batch, whose clips and labels are blended before."""
    blend = mixing.Mixing(
        config.train.mixup,
        config.train.cutmix,
        config.train.mixup_switch_prob,
        config.data.repeats,
    )

    def make(state: TrainState, batch: dict[str, Any], rng: jax.Array):
        video, labels = batch["video"], batch["label"]
        if blend:
            key = jax.random.fold_in(rng, 1)
            video, labels = mixing.mix(blend, key, video, labels, model.num_classes)
        return update(state, video, labels, rng, batch.get("teacher"))

    return make


def _make_filling(update: Callable[..., Any], task: masking.Task) -> Callable[..., Any]:
    """A step of `make_reconstruction_update` on a batch, whose masks are drawn before."""

    def make(state: TrainState, batch: dict[str, Any], rng: jax.Array):
        video = batch["video"]
        keys = jax.random.split(jax.random.fold_in(rng, 3), len(video))
        grid = masking.grid_of(video.shape[1:], task.cube)
        masks = masking.draw(keys, grid, task.ratio, task.decoder_ratio)
        return update(state, video, masks, rng)

    return make


def _token_loss(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Mean cross-entropy over all tokens; both are [B, T, H, W, classes]."""
    if logits.shape != labels.shape:
        raise JaxvidError(
            f"config.train.teacher answers for tokens {labels.shape[1:]} (T, H, W, classes), but "
            f"the network for {logits.shape[1:]}: take a teacher of its family"
        )
    classes = logits.shape[-1]
    return losses.softmax_cross_entropy(logits.reshape(-1, classes), labels.reshape(-1, classes))


def _split(params: Any, frozen: Set[str]) -> tuple[Any, dict[str, Any]]:
    """Parts parameters in those to train, nested, and those to keep, by path."""
    if not frozen:
        return params, {}
    flat = flatten_dict(params, sep="/")
    trained = {path: value for path, value in flat.items() if path not in frozen}
    held = {path: value for path, value in flat.items() if path in frozen}
    return unflatten_dict(trained, sep="/"), held


def _join(trained: Any, held: dict[str, Any]) -> Any:
    """The other way round."""
    if not held:
        return trained
    return unflatten_dict(flatten_dict(trained, sep="/") | held, sep="/")


def _cut(batch: jax.Array, count: int) -> jax.Array:
    """Cuts [B, ...] into [count, B / count, ...], so that each device has its share of each."""
    return batch.reshape(-1, count, *batch.shape[1:]).swapaxes(0, 1)
