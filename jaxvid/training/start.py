"""The state that a run starts from: its own last one, a checkpoint's parameters, or nothing."""

import flax
import jax
import numpy as np

from jaxvid import checkpoint
from jaxvid.base.errors import JaxvidError, listed
from jaxvid.devices import processes
from jaxvid.training.plan import Plan
from jaxvid.training.state import TrainState


def check_sources(init: str, teacher: str) -> None:
    """Refuses paths of checkpoints, where they are not empty, at which there is none."""
    for path in (init, teacher):
        if path:
            checkpoint.find(path)


def first_state(plan: Plan, checkpoints: checkpoint.Checkpoints, last: int | None) -> TrainState:
    """The state of the step `last`, or where that is None the one before the first step."""
    if last is not None:
        state = checkpoints.restore(last, plan.state)
        processes.log(f"resumed from step {last} of {checkpoints.folder(last).parent}")
        return state
    state = plan.init()
    if plan.config.init:
        state = start_from(state, plan.config.init, list(plan.classes))
    return state


def start_from(state: TrainState, path: str, classes: list[str]) -> TrainState:
    """Puts a checkpoint's parameters into a fresh state and says which ones stay new.

    The classifier is new where its shape or its class names differ, or where the checkpoint is of
    an encoder; so is what an image classifier or a network that pretrains did not have, where the
    checkpoint is of such a one. Of the latter the decoder is left out. Raises `JaxvidError` where
    anything else differs: then the checkpoint is another network's.
    """
    loaded = flax.traverse_util.flatten_dict(checkpoint.load_finite(path), sep="/")
    meta = checkpoint.load_meta(path)
    known, missing = meta.get("classes"), set(meta.get("new", ())) - loaded.keys()
    own = flax.traverse_util.flatten_dict(state.variables, sep="/")
    if meta.get("num_classes") == 0:
        missing |= {name for name in own if name.startswith("params/head/")} - loaded.keys()
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
    merged = {
        name: own[name]
        if name in new
        else jax.device_put(np.asarray(loaded[name], own[name].dtype), own[name].sharding)
        for name in own
    }
    tree = flax.traverse_util.unflatten_dict(merged, sep="/")
    processes.log(f"started from {path}: {len(own) - len(new)} arrays taken, {len(new)} new")
    for name in new:
        processes.log(f"  new: {name} {own[name].shape}")
    if decoder:
        processes.log(
            f"  left out: {len(decoder)} arrays of the decoder, which only pretraining needs"
        )
    return state.started_from(tree)
