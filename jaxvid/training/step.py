"""One step of training on a batch of the pipeline: by labels, or by filling in what is hidden."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Set
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from jaxvid.base.errors import JaxvidError
from jaxvid.config.parts import Config
from jaxvid.inference import reconstruct
from jaxvid.layers import spread
from jaxvid.layers.preprocess import normalizer
from jaxvid.layers.wide import wide_gradients
from jaxvid.objectives import losses, masking, mixing
from jaxvid.training import parts
from jaxvid.training.descent import Descent, make_descent
from jaxvid.training.lora import NONE, Lora
from jaxvid.training.norms import Norms, norms_of
from jaxvid.training.state import Stepped, TrainState

Teacher = Callable[[Any, jax.Array], jax.Array]
"""From its variables and clips to its logits: of tokens, [B, T', H', W', classes], for normalised
clips, or of the clips, [B, classes], for their pixels as they are."""


@dataclasses.dataclass(frozen=True)
class Lesson:
    """What a network is taught by clips and their labels.

    Attributes:
      kind: the loss of the labels, one of those of `losses.make_loss`.
      label_smoothing: the share of each label that all classes have alike.
      categories: those of the classes, where clips are annotated for some only.
      category_weights: pairs of a category and what its mean loss weighs; none makes classes weigh
        the same.
      class_weights: how often a clip of each class counts; see `weights`.
      weight: what this loss, as it is differentiated and measured, is multiplied by.
      aux_weight: what the loss of an auxiliary classifier, which answers `aux_logits` among the
        intermediates of training, is multiplied by before it is added; 0 leaves it untrained.
      teacher: what labels the tokens of each clip (`losses.token_labels`), for a network that
        answers `token_logits` among the intermediates of training.
      image_weight: what the loss of images beside the clips, which another head of the network
        answers, is multiplied by before it is added.
      token_weight: the share of the loss that the teacher's labels have, by their cross-entropy;
        the labels of the clips have the rest.
      distilled: the teacher whose answers for whole clips are learned (`losses.distillation`).
      distilled_weight, temperature: the share of the loss that these have, the labels having the
        rest, and what logits are divided by.
    """

    kind: str = "softmax"
    label_smoothing: float = 0.0
    categories: tuple[str, ...] = ()
    category_weights: tuple[tuple[str, float], ...] = ()
    class_weights: tuple[float, ...] = ()
    weight: float = 1.0
    aux_weight: float = 0.0
    image_weight: float = 1.0
    teacher: Teacher | None = None
    token_weight: float = 0.0
    distilled: Teacher | None = None
    distilled_weight: float = 0.0
    temperature: float = 1.0


@dataclasses.dataclass(frozen=True)
class Blocks:
    """The blocks of a network, by their paths.

    Attributes:
      paths: all of them, where the parameters of each come together by themselves.
      recomputed: whether the backward pass keeps their inputs only, and computes the rest again.
      dtype: what kernels travel in between devices; None is their own.
      wide: whether devices add gradients up in float32, rather than in `dtype`.
    """

    paths: frozenset[str] = frozenset()
    recomputed: bool = False
    dtype: Any = None
    wide: bool = False

    @property
    def _reduced_in(self) -> Any:
        return jnp.float32 if self.wide else None

    @contextlib.contextmanager
    def computing(self) -> Iterator[None]:
        """Lets a network that is applied inside compute them so."""
        recomputed = self.paths if self.recomputed else frozenset()
        with (
            spread.gathering(self.paths, self.dtype, recomputed, self._reduced_in),
            parts.recomputing(recomputed),
            wide_gradients(self.wide),
        ):
            yield

    def gather(self, params: Any) -> Any:
        """The parameters, of which those that lie in no block come together at once."""
        return spread.whole(params, self.dtype, self.paths, self._reduced_in)


def _make_loss(lesson: Lesson) -> Callable[..., jax.Array]:
    """The loss of what a network answers: (answers, video, pixels, labels, taught) -> loss.

    The answers are logits [B, classes] and intermediates for normalised clips [B, T, H, W, C], of
    which `pixels` are what they were before, and `taught` are the teacher's variables.
    """
    loss_fn = losses.make_loss(
        lesson.kind,
        lesson.label_smoothing,
        lesson.weight,
        lesson.categories,
        dict(lesson.category_weights),
        lesson.class_weights,
    )

    def loss_of(
        answers: tuple[jax.Array, Mapping[str, jax.Array]],
        video: jax.Array,
        pixels: jax.Array,
        labels: jax.Array,
        taught: Any,
    ) -> jax.Array:
        logits, out = answers
        _check_answers(lesson, out)
        loss = loss_fn(logits, labels)
        if lesson.aux_weight:
            loss += lesson.aux_weight * loss_fn(out["aux_logits"], labels)
        if lesson.teacher is not None:
            token_labels = losses.token_labels(lesson.teacher(taught, video))
            tokens = _token_loss(out["token_logits"], token_labels)
            loss = (1 - lesson.token_weight) * loss + lesson.token_weight * tokens
        if lesson.distilled is not None:
            theirs = jax.lax.stop_gradient(lesson.distilled(taught, pixels))
            apart = losses.distillation(lesson.kind, logits, theirs, lesson.temperature)
            loss = (1 - lesson.distilled_weight) * loss + lesson.distilled_weight * apart
        return loss

    return loss_of


def _make_image_loss(
    model: Any, weight: float, norms: Norms, held: Set[str]
) -> Callable[..., tuple[jax.Array, Any, dict[str, jax.Array]]]:
    """The loss of images beside clips, for a network with a head for each.

    (parameters, statistics, normalised images [B, 1, H, W, C], labels [B], clips beside them, rng)
    -> (weighted loss, statistics of the image's head, measurements). The trunk normalises images by
    their own statistics, and its running ones stay those of clips.
    """
    network, of_images = model.for_images()

    def loss_of(
        params: Any, stats: Any, images: jax.Array, labels: jax.Array, clips: int, rng: jax.Array
    ) -> tuple[jax.Array, Any, dict[str, jax.Array]]:
        with parts.grouping_norms(norms.groups(clips)), parts.holding_norms(held, norms.held):
            (logits, _), updated = network.apply(
                {"params": of_images(params), "batch_stats": stats},
                images,
                train=True,
                rngs={"dropout": rng},
                mutable=["batch_stats"],
            )
        loss = losses.softmax_cross_entropy(logits, labels)
        measured = {"image_loss": loss, "image_top1": losses.hits(logits, labels).mean()}
        return weight * loss, updated["batch_stats"]["head"]["image"], measured

    return loss_of


def _check_answers(lesson: Lesson, out: Mapping[str, jax.Array]) -> None:
    """Refuses a network that does not answer what it is asked."""
    if lesson.aux_weight and "aux_logits" not in out:
        raise JaxvidError(
            f"config.train.aux_weight={lesson.aux_weight} but this network has no auxiliary "
            "classifier: leave it 0"
        )
    if (lesson.teacher is not None) != ("token_logits" in out):
        raise JaxvidError(
            "labels of tokens need a network that answers for each token, and such a network needs "
            "config.train.teacher: set both or neither, the network by the field `token_labels` in "
            "config.model.overrides"
        )


def _token_loss(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Mean cross-entropy over all tokens; both are [B, T, H, W, classes]."""
    if logits.shape != labels.shape:
        raise JaxvidError(
            f"config.train.teacher answers for tokens {labels.shape[1:]} (T, H, W, classes), but "
            f"the network for {logits.shape[1:]}: take a teacher of its family"
        )
    classes = logits.shape[-1]
    return losses.softmax_cross_entropy(logits.reshape(-1, classes), labels.reshape(-1, classes))


def make_update(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    lesson: Lesson = Lesson(),
    *,
    descent: Descent = Descent(),
    norms: Norms = Norms(),
    blocks: Blocks = Blocks(),
    prepare: Callable[[jax.Array], jax.Array] = lambda video: video,
) -> Callable[..., Stepped]:
    """One step of training: (state, video, labels, rng) -> (state, {loss, top1, grad_norm}).

    `video` [B, T, H, W, C] is normalised, `labels` are integers [B] or probabilities [B, classes],
    `rng` drives dropout. All are global arrays under `jit`, so means over the batch are global
    ones. `top1` of a blend of labels counts the stronger one only; where a clip has several, any of
    them. A teacher's variables are a fifth argument. The sixth is `image` [B, 1, H, W, C] and
    `image_label` [B] of a batch of images, for a network with a head for them: its loss is added.

    Args:
      model: the network.
      optimizer: what updates those of its parameters that are not frozen.
      lesson: the loss.
      descent: how its gradients become a step.
      norms: which statistics BatchNorms use.
      blocks: its blocks, and what the backward pass keeps of them.
      prepare: applied to each part of the video, where it is needed.
    """
    lesson_loss = _make_loss(lesson)
    image_loss = None
    if hasattr(model, "for_images"):
        image_loss = _make_image_loss(model, lesson.image_weight, norms, descent.frozen)

    def loss_of(
        params: Any, stats: Any, part: dict[str, Any], rng: jax.Array, taught: Any
    ) -> tuple[jax.Array, tuple[Any, dict[str, jax.Array]]]:
        video, labels = prepare(part["video"]), part["label"]
        with (
            parts.grouping_norms(norms.groups(len(video))),
            parts.holding_norms(descent.frozen, norms.held),
            blocks.computing(),
        ):
            answers, updated = model.apply(
                {"params": blocks.gather(params), "batch_stats": stats},
                video,
                train=True,
                rngs={"dropout": rng},
                mutable=["batch_stats"],
            )
        loss = lesson_loss(answers, video, part["video"], labels, taught)
        measured = {"top1": losses.hits(answers[0], labels, lesson.kind).mean()}
        updated = updated.get("batch_stats", {})
        if "image" in part and image_loss:
            with blocks.computing():
                more, head, of_images = image_loss(
                    blocks.gather(params),
                    stats,
                    prepare(part["image"]),
                    part["image_label"],
                    len(video),
                    jax.random.fold_in(rng, 5),
                )
            loss, measured = loss + more, measured | of_images
            updated = updated | {"head": updated["head"] | {"image": head}}
        return loss, (updated, measured)

    descend = make_descent(loss_of, optimizer, descent)

    def update(
        state: TrainState,
        video: jax.Array,
        labels: jax.Array,
        rng: jax.Array,
        taught: Any = None,
        images: Mapping[str, jax.Array] | None = None,
    ) -> Stepped:
        return descend(state, {"video": video, "label": labels, **(images or {})}, rng, taught)

    return update


def make_reconstruction_update(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    *,
    descent: Descent = Descent(),
    blocks: Blocks = Blocks(),
    prepare: Callable[[jax.Array], jax.Array],
    scale: masking.Scale | None = None,
) -> Callable[..., Stepped]:
    """One step of filling in: (state, video, masks, rng) -> (state, {loss, grad_norm}).

    `video` is uint8 [B, T, H, W, C], which `prepare` normalises, `masks` a `masking.Masks`. The
    loss is the mean squared error over the cubes that count, which are normalised by `scale`, or
    each by its own mean and deviation, as `model.cubes` says. For the rest see `make_update`.
    """

    def loss_of(
        params: Any, stats: Any, part: dict[str, Any], rng: jax.Array, _: Any
    ) -> tuple[jax.Array, tuple[Any, dict[str, jax.Array]]]:
        masks = part["masks"]
        with blocks.computing():
            pixels, _ = model.apply(
                {"params": blocks.gather(params)},
                prepare(part["video"]),
                train=True,
                visible=masks.visible,
                decoded=masks.decoded,
                rngs={"dropout": rng},
            )
        sums, counts = masking.errors(part["video"], pixels, masks, model.cubes, scale)
        return sums.sum() / counts.sum(), (stats, {})

    descend = make_descent(loss_of, optimizer, descent)

    def update(
        state: TrainState, video: jax.Array, masks: masking.Masks, rng: jax.Array
    ) -> Stepped:
        return descend(state, {"video": video, "masks": masks}, rng)

    return update


def make_train_step(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    config: Config,
    frozen: Set[str] = frozenset(),
    blocks: Set[str] = frozenset(),
    teacher: Teacher | None = None,
    categories: tuple[str, ...] = (),
    class_weights: tuple[float, ...] = (),
    lora: Lora = NONE,
) -> Callable[[TrainState, dict[str, Any]], Stepped]:
    """The step on a batch of the pipeline, not compiled: (state, {video uint8, label}) -> as above.

    With a teacher its variables are in the batch too, as `teacher`. `categories` are those of the
    classes, where clips are annotated for some only. Where `lora` has factors, they are among the
    parameters.
    """
    train = config.train
    shared: dict[str, Any] = {
        "descent": Descent(frozen, train.accumulate_steps, train.ema_decay, lora.merged),
        "blocks": Blocks(
            frozenset(blocks), train.remat, config.model.compute_dtype, bool(train.reduce_dtype)
        ),
        "prepare": normalizer(config.data, jnp.dtype(config.model.dtype)),
    }
    if train.loss == "pixels":
        task = reconstruct.task_of(model, train, config.data)
        update = make_reconstruction_update(model, optimizer, scale=task.scale, **shared)
        make = _make_filling(update, task)
    else:
        lesson = Lesson(
            kind=train.loss,
            label_smoothing=train.label_smoothing,
            categories=categories,
            category_weights=train.category_weights,
            class_weights=class_weights,
            weight=train.loss_weight,
            aux_weight=train.aux_weight,
            image_weight=train.image_weight,
            **{"teacher" if labels_tokens(config) else "distilled": teacher},
            token_weight=train.token_weight,
            distilled_weight=train.teacher_weight,
            temperature=train.teacher_temperature,
        )
        update = make_update(model, optimizer, lesson, norms=norms_of(train), **shared)
        make = _make_classifying(update, model, config)

    def step(state: TrainState, batch: dict[str, Any]) -> Stepped:
        return make(state, batch, jax.random.fold_in(jax.random.key(config.seed), state.step))

    return step


def labels_tokens(config: Config) -> bool:
    """Whether a teacher is to label the tokens of clips, rather than the clips."""
    return bool(config.model.overrides.get("token_labels", False))


def _make_classifying(
    update: Callable[..., Stepped], model: nn.Module, config: Config
) -> Callable[..., Stepped]:
    """A step of `make_update` on a batch, whose clips and labels are blended before."""
    blend = mixing.Mixing(
        config.train.mixup,
        config.train.cutmix,
        config.train.mixup_switch_prob,
        config.data.repeats,
    )

    def make(state: TrainState, batch: dict[str, Any], rng: jax.Array) -> Stepped:
        video, labels = batch["video"], batch["label"]
        if blend:
            key = mixing.key_of(config.seed, state.step)
            video, labels = mixing.mix(blend, key, video, labels, model.num_classes)
        images = {name: batch[name] for name in ("image", "image_label") if name in batch}
        return update(state, video, labels, rng, batch.get("teacher"), images)

    return make


def _make_filling(update: Callable[..., Stepped], task: masking.Task) -> Callable[..., Stepped]:
    """A step of `make_reconstruction_update` on a batch, whose masks are drawn before."""

    def make(state: TrainState, batch: dict[str, Any], rng: jax.Array) -> Stepped:
        video = batch["video"]
        keys = jax.random.split(jax.random.fold_in(rng, 3), len(video))
        masks = masking.masks_of(task, keys, video.shape[1:])
        return update(state, video, masks, rng)

    return make
