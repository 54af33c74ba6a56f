"""Optimizers with PyTorch's semantics, schedules in epochs, and which parameters decay."""

import fnmatch
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxvid.base.errors import JaxvidError
from jaxvid.config.parts import Optim


def make_schedule(config: Optim, steps: int, epochs: float) -> optax.Schedule:
    """The learning rate at each of `steps` steps that make up `epochs` epochs.

    `config.schedule` is `cosine` (half a cosine from `lr` at the end of the warm-up to `final_lr`
    `cosine_epochs` later; 0 means at the end of the run), `step` (times `gamma` at each epoch of
    `milestones`) or `constant`. With `cosine_from="start"` the cosine begins with the run, under
    the warm-up; with `schedule_every="epoch"` a schedule moves at the first step of each epoch.

    During `warmup_epochs` the rate is multiplied by what rises linearly from `warmup_factor` to 1,
    at every step or, with `warmup_every="epoch"`, once an epoch, where the last of several has all.
    With `warmup="line"` it rises straight from `warmup_factor` times `lr` to where the schedule is
    at the end of the warm-up.
    """
    per_epoch = steps / epochs
    warmup = min(round(config.warmup_epochs * per_epoch), steps)
    starts = np.round(np.arange(math.ceil(epochs)) * per_epoch).astype(np.int32)

    def held(step: Any) -> jax.Array:
        """The first step of the epoch of a step."""
        return jnp.asarray(starts)[jnp.searchsorted(starts, step, side="right") - 1]

    if config.schedule == "cosine":
        begin = 0 if config.cosine_from == "start" else warmup
        length = round(config.cosine_epochs * per_epoch) or steps - begin
        moving = _cosine(config.lr, config.final_lr, begin, max(length, 1))
    elif config.schedule == "step":
        scales: dict[int, float] = {}
        for milestone in config.milestones:  # Of a short run several may fall into one step.
            step = round(milestone * per_epoch)
            scales[step] = scales.get(step, 1.0) * config.gamma
        moving = optax.piecewise_constant_schedule(config.lr, scales)
    elif config.schedule == "constant":
        moving = optax.constant_schedule(config.lr)
    else:
        raise JaxvidError(
            f"config.optim.schedule={config.schedule!r} is unknown: take cosine, step or constant"
        )

    def base(step: Any) -> Any:
        return moving(held(step) if config.schedule_every == "epoch" else step)

    if not warmup:
        return base
    if config.warmup == "line":
        low, high = config.warmup_factor * config.lr, base(warmup)

        def line(step: Any) -> jax.Array:
            return jnp.where(step < warmup, low + (high - low) * (step / warmup), base(step))

        return line
    rise = round((config.warmup_epochs - 1) * per_epoch)
    if config.warmup_every == "epoch" and rise > 0:
        ramp = optax.linear_schedule(config.warmup_factor, 1.0, rise)
        return lambda step: ramp(held(step)) * base(step)
    ramp = optax.linear_schedule(config.warmup_factor, 1.0, warmup)
    return lambda step: ramp(step) * base(step)


def _cosine(first: float, last: float, begin: int, length: int) -> optax.Schedule:
    """Half a cosine from `first` at step `begin` to `last` at `length` steps later."""

    def rate(step: Any) -> jax.Array:
        left = jnp.clip((begin + length - step) / length, 0, 1)
        # (1 + cos(x)) / 2, which cancels where little is left.
        return last + (first - last) * jnp.square(jnp.sin(jnp.pi / 2 * left))

    return rate


def path_of(key_path: Sequence[Any]) -> str:
    """Writes a pytree key path as `backbone/conv1/conv/kernel`."""
    return "/".join(str(getattr(key, "key", key)) for key in key_path)


def decay_mask(params: Any, no_decay: Sequence[str]) -> Any:
    """True for every parameter that decays: all but those whose path matches a pattern.

    Patterns are fnmatch globs on the path (`*/bias`) or `ndim<2`, which stands for all vectors
    (norm scales and biases).
    """

    def decays(key_path: Any, value: Any) -> bool:
        path = path_of(key_path)
        return not any(
            np.ndim(value) < 2 if pattern == "ndim<2" else fnmatch.fnmatch(path, pattern)
            for pattern in no_decay
        )

    return jax.tree_util.tree_map_with_path(decays, params)


def scale_rates(scales: Sequence[tuple[str, float]]) -> optax.GradientTransformation:
    """Multiplies the updates of parameters whose path matches a glob by its scale.

    `scales` are (pattern, scale) pairs; where several match, all of them multiply.
    """

    def scale(key_path: Any, update: jax.Array) -> jax.Array:
        path = path_of(key_path)
        for pattern, factor in scales:
            if fnmatch.fnmatch(path, pattern):
                update = update * factor
        return update

    return optax.stateless(lambda updates, _: jax.tree_util.tree_map_with_path(scale, updates))


def scale_layers(layer_of: Mapping[str, int], decay: float) -> optax.GradientTransformation:
    """Multiplies the updates of the k-th layer from the top by `decay` ** k.

    `layer_of` gives every parameter's layer by its path, counted from 0 at the input.
    """
    top = max(layer_of.values())

    def scale(key_path: Any, update: jax.Array) -> jax.Array:
        return update * decay ** (top - layer_of[path_of(key_path)])

    return optax.stateless(lambda updates, _: jax.tree_util.tree_map_with_path(scale, updates))


def make_optimizer(
    config: Optim,
    schedule: optax.Schedule,
    layer_of: Mapping[str, int] | None = None,
) -> optax.GradientTransformation:
    """SGD or AdamW as PyTorch computes them.

    SGD adds the decay to the gradient before the momentum and multiplies the rate after it;
    AdamW (Loshchilov and Hutter, 2019) decays apart from the moments. Gradients are clipped to
    the global norm `clip_norm` first (0: not at all). `lr_scales` are for `scale_rates`,
    `layer_decay` and `layer_of`, where given, for `scale_layers`.
    """

    def mask(params: Any) -> Any:
        return decay_mask(params, config.no_decay)

    parts = [optax.clip_by_global_norm(config.clip_norm)] if config.clip_norm else []
    if config.name == "sgd":
        parts.append(optax.add_decayed_weights(config.weight_decay, mask))
        if config.momentum:
            parts.append(optax.trace(config.momentum, nesterov=config.nesterov))
    elif config.name == "adamw":
        parts.append(optax.scale_by_adam(*config.betas))
        parts.append(optax.add_decayed_weights(config.weight_decay, mask))
    else:
        raise JaxvidError(f"config.optim.name={config.name!r} is unknown: take sgd or adamw")
    if config.lr_scales:
        parts.append(scale_rates(config.lr_scales))
    if layer_of:
        parts.append(scale_layers(layer_of, config.layer_decay))
    return optax.chain(*parts, optax.scale_by_learning_rate(schedule))
