"""The state that a run starts from: its own last one, a checkpoint's parameters, or nothing."""

from typing import Any

import flax
import jax
import numpy as np

from jaxvid import checkpoint
from jaxvid.base.errors import JaxvidError, listed
from jaxvid.config.parts import Config
from jaxvid.devices import processes
from jaxvid.training.lora import NONE, Lora
from jaxvid.training.plan import Plan
from jaxvid.training.state import TrainState, split


def check_sources(config: Config, fresh: bool) -> None:
    """Refuses paths of checkpoints, where they are not empty, at which there is none."""
    if fresh and config.train.lora_rank and not config.init:
        raise JaxvidError(
            f"config.train.lora_rank={config.train.lora_rank} trains little of a network that is "
            "trained already: name its checkpoint by init, or set the rank to 0"
        )
    for path in (config.init if fresh else "", config.train.teacher):
        if path:
            checkpoint.find(path)


def first_state(plan: Plan, checkpoints: checkpoint.Checkpoints, last: int | None) -> TrainState:
    """The state of the step `last`, or where that is None the one before the first step."""
    if last is not None:
        state = _restored(plan, checkpoints, last)
        processes.log(f"resumed from step {last} of {checkpoints.folder(last).parent}")
        return state
    state = plan.init()
    if plan.config.init:
        state = start_from(state, plan.config.init, list(plan.classes), plan.knobs.lora)
    return state


def _restored(plan: Plan, checkpoints: checkpoint.Checkpoints, last: int) -> TrainState:
    """The state of the step `last`, of which a base may have what is not trained."""
    base = checkpoint.load_base(checkpoints.folder(last))
    state = checkpoints.restore(last, plan.state.without(base.keys()))
    _, places = split(plan.state.params, base.keys())
    return state.completed(
        {path: jax.device_put(array, places[path].sharding) for path, array in base.items()}
    )


def base_of(plan: Plan, checkpoints: checkpoint.Checkpoints, last: int | None) -> dict[str, Any]:
    """What checkpoints of a run with factors say of their base."""
    if last is None:
        return checkpoint.describe_base(plan.config.init, plan.knobs.frozen)
    return checkpoint.load_lora(checkpoints.folder(last)) or {}


def start_from(
    state: TrainState, path: str, classes: list[str], factors: Lora = NONE
) -> TrainState:
    """Puts a checkpoint's parameters into a fresh state and says which ones stay new.

    The classifier is new where its shape or its class names differ, or where the checkpoint is of
    an encoder; so is what an image classifier or a network that pretrains did not have, where the
    checkpoint is of such a one. Of the latter the decoder is left out. `factors` of kernels are
    always new. Raises `JaxvidError` where anything else differs: then the checkpoint is another
    network's.
    """
    loaded = flax.traverse_util.flatten_dict(checkpoint.load_finite(path), sep="/")
    meta = checkpoint.load_meta(path)
    known, missing = meta.get("classes"), set(meta.get("new", ())) - loaded.keys()
    own = flax.traverse_util.flatten_dict(state.variables, sep="/")
    if meta.get("num_classes") == 0:
        missing |= {name for name in own if name.startswith("params/head/")} - loaded.keys()
    missing |= {f"params/{factor}" for _, factor in factors.paths()}
    decoder = [name for name in loaded if name.startswith("params/decoder/") and name not in own]
    for name in decoder:
        del loaded[name]
    other_classes = bool(known and list(known) != classes)

    def is_new(name: str) -> bool:
        if name in missing:
            return True
        in_head = name.startswith(("params/head/", "batch_stats/head/"))
        return in_head and (other_classes or loaded[name].shape != own[name].shape)

    problems = [f"{name} is missing" for name in own if name not in loaded.keys() | missing]
    problems += [f"{name} is too many" for name in loaded if name not in own]
    problems += [
        f"{name} is {loaded[name].shape}, not {own[name].shape}"
        for name in own
        if name in loaded and not is_new(name) and loaded[name].shape != own[name].shape
    ]
    if problems:
        raise JaxvidError(
            f"config.init={path} is not a checkpoint of this network: {listed(problems)}"
        )
    new = [name for name in own if is_new(name)]
    for name in new:
        if name.removeprefix("params/") in factors.frozen:
            raise JaxvidError(
                f"config.train.lora_rank would leave {name} as it is drawn, as config.init={path} "
                "does not have it: name it in config.train.lora_also"
            )
    merged = {
        name: own[name]
        if name in new
        else jax.device_put(np.asarray(loaded[name], own[name].dtype), own[name].sharding)
        for name in own
    }
    tree = flax.traverse_util.unflatten_dict(merged, sep="/")
    processes.log(f"started from {path}: {len(own) - len(new)} arrays taken, {len(new)} new")
    for name in new:
        if name.removeprefix("params/") not in factors:
            processes.log(f"  new: {name} {own[name].shape}")
    if decoder:
        processes.log(
            f"  left out: {len(decoder)} arrays of the decoder, which only pretraining needs"
        )
    return state.started_from(tree)
