"""A run as a value: what a config trains, how, and on which devices.

Nothing here touches a device, reads a video or writes a file, so that a run can be looked at,
compiled for machines that are elsewhere, and compared with another before it begins.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxvid.base.errors import JaxvidError
from jaxvid.config.parts import Config
from jaxvid.data import pipeline
from jaxvid.devices import placement
from jaxvid.inference.evaluate import make_network
from jaxvid.layers.backend import for_mesh
from jaxvid.training import lora, optim, parts, teachers
from jaxvid.training.lora import Lora
from jaxvid.training.norms import make_precise_norms, norms_of
from jaxvid.training.state import TrainState, make_state
from jaxvid.training.step import make_train_step

_LORA = 6  # What sets the random numbers of the factors apart.


class Length(NamedTuple):
    """How long a run is, and its rate at each step."""

    per_epoch: int
    steps: int
    rate: Callable[[Any], Any]

    def end(self, config: Config) -> int:
        """The step that a run of `config` goes up to."""
        return min(self.steps, config.train.stop_at_step or self.steps)


class Knobs(NamedTuple):
    """Which parts of a network a config singles out, by their paths; see `parts`.

    `blocks` are all that it has, `lora` the kernels with factors, of which `frozen` and `layer_of`
    know, and `said` lines that say what is singled out.
    """

    frozen: frozenset[str]
    blocks: frozenset[str]
    layer_of: dict[str, int]
    lora: Lora
    said: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Plan:
    """A run before its first step.

    Attributes:
      config: what it was told.
      mesh: the devices, which may be those of a machine that is not here; what is compiled is
        compiled for these.
      classes: their names; none of a network that pretrains.
      class_weights: what each weighs in the loss; none where that is the same.
      length: its steps, and the rate at each.
      model: the network.
      optimizer: what updates its parameters.
      knobs: the parts of it, and which are frozen or slower.
      teacher: the one whose answers are learned, if there is one.
      state: shapes, types and shardings of all that a step changes.
      batch: those of what it takes: `video` uint8 [B, T, H, W, C], `label`, `index` [B], and
        the teacher's variables as `teacher`.
      init: the compiled function () -> state, before the first step.
      step: the compiled function (state, batch) -> (state, measurements), which takes the memory
        of the state over; `step.lower(plan.state, plan.batch)` is the program.
      precise_norms: the function (state, batches) -> state with BatchNorm's statistics of these.
      merged: from the state's parameters to the network's, which are the same but for `lora`.
    """

    config: Config
    mesh: jax.sharding.Mesh
    classes: tuple[str, ...]
    class_weights: tuple[float, ...]
    length: Length
    model: nn.Module
    optimizer: optax.GradientTransformation
    knobs: Knobs
    teacher: teachers.Teaching | None
    state: TrainState
    batch: dict[str, Any]
    init: Callable[[], TrainState]
    step: Callable[[TrainState, dict[str, Any]], tuple[TrainState, dict[str, jax.Array]]]
    precise_norms: Callable[..., TrainState]
    merged: Callable[[Any], Any]


def plan(
    config: Config,
    mesh: jax.sharding.Mesh,
    classes: Sequence[str],
    videos: int | None = None,
    categories: tuple[str, ...] = (),
    class_weights: tuple[float, ...] = (),
) -> Plan:
    """The run of a config on the devices of `mesh`.

    Args:
      config: what the run is told.
      mesh: all devices of all processes.
      classes: names of the classes, none where the network pretrains.
      videos: how many there are to train on, which the rate depends on; None makes an epoch of
        one batch.
      categories: those of the classes, where videos are annotated for some only.
      class_weights: those of the loss, which depend on the videos; see `weights.of_classes`.

    Raises:
      JaxvidError: the config asks for what the network is not, or the batch does not divide.
    """
    check_batches(config, mesh)
    model = make_network(config.model, len(classes))
    if config.data.images and not hasattr(model, "for_images"):
        raise JaxvidError(
            f"config.data.images={config.data.images!r} is for networks with a head for images, as "
            f"omni_slowonly_r50_8x8_k400, and {config.model.name} has none: leave it empty"
        )
    clip_shape = pipeline.clip_shape(config.data)
    knobs = read_knobs(model, clip_shape, config)
    length = length_of(config, config.train.batch_size if videos is None else videos)
    optimizer = optim.make_optimizer(config.optim, length.rate, knobs.layer_of)

    def init() -> TrainState:
        clip = jnp.zeros((1, *clip_shape), jnp.float32)
        variables = model.init(jax.random.key(config.seed), clip, train=False)
        key = jax.random.fold_in(jax.random.key(config.seed), _LORA)
        params = knobs.lora.started(variables["params"], key)
        variables = {**variables, "params": params}
        return make_state(variables, optimizer, knobs.frozen, config.train.ema_decay > 0)

    state = jax.eval_shape(init)
    placed = placement.place_state(state, mesh)
    teacher = teachers.teaching(config, classes) if config.train.teacher else None
    step = make_train_step(
        model,
        optimizer,
        config,
        knobs.frozen,
        knobs.blocks,
        teacher.answer if teacher else None,
        categories,
        class_weights,
        knobs.lora,
    )
    return Plan(
        config=config,
        mesh=mesh,
        classes=tuple(classes),
        class_weights=class_weights,
        length=length,
        model=model,
        optimizer=optimizer,
        knobs=knobs,
        teacher=teacher,
        state=jax.tree.map(_described, state, placed),
        batch=_batch(config, mesh, clip_shape, len(classes), teacher),
        init=jax.jit(for_mesh(init, mesh), out_shardings=placed),
        step=jax.jit(
            for_mesh(step, mesh, config.model.matmul_precision),
            donate_argnums=0,
            out_shardings=(placed, placement.replicated(mesh)),
        ),
        precise_norms=make_precise_norms(
            model, config, knobs.frozen, placed.batch_stats, mesh, knobs.lora.merged
        ),
        merged=jax.jit(for_mesh(knobs.lora.merged, mesh)) if knobs.lora else knobs.lora.merged,
    )


def length_of(config: Config, videos: int) -> Length:
    """The length of a run on so many videos."""
    per_epoch = pipeline.steps_per_epoch(videos, config.train.batch_size, config.data.repeats)
    steps = max(round(config.train.epochs * per_epoch), 1)
    return Length(per_epoch, steps, optim.make_schedule(config.optim, steps, config.train.epochs))


def check_batches(config: Config, mesh: jax.sharding.Mesh) -> None:
    """Refuses batches that do not divide over the devices, or over these and the parts.

    Raises:
      JaxvidError: naming the field, and what it may be.
    """
    size, cuts, count = (
        config.train.batch_size,
        config.train.accumulate_steps,
        placement.shares(mesh),
    )
    placement.check_batch("train.batch_size", size, mesh)
    placement.check_batch("test.batch_size", config.test.batch_size, mesh)
    if images := config.train.image_batch_size:
        groups = norms_of(config.train).groups(size // cuts)
        least = cuts * math.lcm(count, groups)
        if images % least:
            raise JaxvidError(
                f"config.train.image_batch_size={images} must divide by config.train."
                f"accumulate_steps={cuts} and then over {count} devices and {groups} groups of "
                f"BatchNorm: take a multiple of {least}"
            )
    if size % (cuts * count):
        raise JaxvidError(
            f"config.train.batch_size={size} must divide by config.train.accumulate_steps={cuts} "
            f"and then over {count} devices: take a multiple of {cuts * count}"
        )


def read_knobs(model: nn.Module, clip_shape: Sequence[int], config: Config) -> Knobs:
    """Finds the parts of `model` that `config` freezes, recomputes or slows down."""
    found = parts.find(model, clip_shape)
    said = []
    frozen = parts.frozen(found, config.optim.freeze, config.train.freeze_norm)
    factors = lora.find(found, config.train, frozen)
    if factors:
        frozen = factors.frozen
        said.append(factors.described())
    if frozen:
        said.append(f"frozen: {len(frozen)} of {len(found.params)} arrays of parameters")
    blocks = parts.blocks(found.params)
    if config.train.remat and not blocks:
        raise JaxvidError(
            "config.train.remat recomputes numbered blocks, of which this network has none: leave "
            "it off"
        )
    layer_of = {}
    if config.optim.layer_decay != 1:
        layer_of = parts.layers(found.params)
        said.append(parts.describe_layers(layer_of, config.optim.layer_decay))
        layer_of |= {path: layer_of[kernel] for kernel, path in factors.paths()}
    return Knobs(frozen, blocks, layer_of, factors, tuple(said))


def _described(leaf: Any, place: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place)


def _batch(
    config: Config,
    mesh: jax.sharding.Mesh,
    clip_shape: tuple[int, ...],
    classes: int,
    teacher: teachers.Teaching | None,
) -> dict[str, Any]:
    """What a step takes: a global batch of the pipeline, and the teacher's variables."""
    size, split = config.train.batch_size, placement.split_batch(mesh)
    several = config.train.loss == "sigmoid"
    batch = {
        "video": jax.ShapeDtypeStruct((size, *clip_shape), np.uint8, sharding=split),
        "label": jax.ShapeDtypeStruct((size, classes), np.uint8, sharding=split)
        if several
        else jax.ShapeDtypeStruct((size,), np.int32, sharding=split),
        "index": jax.ShapeDtypeStruct((size,), np.int32, sharding=split),
    }
    if config.train.image_batch_size:
        images = config.train.image_batch_size
        shape = (images, 1, *clip_shape[1:])
        batch["image"] = jax.ShapeDtypeStruct(shape, np.uint8, sharding=split)
        batch["image_label"] = jax.ShapeDtypeStruct((images,), np.int32, sharding=split)
    if teacher:
        clip = jax.ShapeDtypeStruct((1, *teacher.clip_shape), np.float32)
        variables = jax.eval_shape(
            functools.partial(teacher.model.init, train=False), jax.random.key(0), clip
        )
        everywhere = placement.replicated(mesh)
        batch["teacher"] = jax.tree.map(lambda leaf: _described(leaf, everywhere), variables)
    return batch
