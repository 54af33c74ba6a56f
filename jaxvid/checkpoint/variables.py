"""The variables of a network: `{"params", "batch_stats"}` in a folder of their own, or a run's."""

import contextlib
import os
from pathlib import Path
from typing import Any

from jaxvid.base import finite, locks
from jaxvid.base.errors import JaxvidError
from jaxvid.base.text import normal
from jaxvid.checkpoint import folders, leaves, peers, trees
from jaxvid.checkpoint import meta as metas
from jaxvid.checkpoint.record import RECORD, read_record, record_of
from jaxvid.checkpoint.run import Checkpoints


def save(path: str | Path, variables: dict, meta: dict, *, overwrite: bool = False) -> None:
    """Writes `{"params", "batch_stats"}` and what they are to the folder `path`, whole or not.

    `meta` is anything JSON can hold. Raises `JaxvidError` where `path` already holds a checkpoint
    and `overwrite` is false, holds other files, cannot be written, or another process writes there.
    """
    folder = folders.local(path)
    with contextlib.ExitStack() as stack:
        if peers.is_first():
            with folders.refused(folder):
                stack.enter_context(locks.hold(folder, ""))
        folders.refuse_if_taken(folder, overwrite)
        trees.begin(folder, variables, {"meta": meta})()
        peers.wait_for_all("written")


def load(path: str | os.PathLike, weights: str | None = None) -> dict[str, Any]:
    """Reads `{"params", "batch_stats"}`: nested dicts of numpy arrays, whatever devices wrote them.

    `path` is a checkpoint's folder or a training run's, which means its best checkpoint, or its
    last where none was measured. `weights` is `ema`, the averaged copy where the run kept one, or
    `last`, the parameters themselves; None takes those that the run was tested with. Raises
    `JaxvidError` where there is no checkpoint or it is damaged.
    """
    folder = find(path)
    record = record_of(folder)
    test = record["meta"].get("test")
    tested = test.get("weights", "ema") if isinstance(test, dict) else "ema"
    averaged = any(name.startswith("ema/") for name in record["leaves"])
    inside = "ema/" if averaged and (weights or tested) == "ema" else ""
    like = {}
    with trees.damage(folder):
        for name, described in record["leaves"].items():
            if name.startswith((f"{inside}params/", f"{inside}batch_stats/")):
                like[name] = leaves.like_described(described)
    if not like:
        raise JaxvidError(f"{folder} holds no params: give the folder of a network's checkpoint")
    read = leaves.nest(trees.read(folder, record, like))
    return {"params": {}, "batch_stats": {}} | (read["ema"] if inside else read)


def load_finite(path: str | os.PathLike, weights: str | None = None) -> dict[str, Any]:
    """Reads as `load` does what is to be computed with: no array may hold NaN or infinity."""
    variables = load(path, weights)
    names, arrays, _ = leaves.flatten(variables)
    finite.refuse(path, zip(names, arrays, strict=True))
    return variables


def load_meta(path: str | os.PathLike) -> dict[str, Any]:
    """Reads what the checkpoint at `path` says of itself, with `step` and `metric` in training."""
    folder = find(path)
    record = record_of(folder)
    metas.check(record["meta"], folder / RECORD)
    meta = record["meta"] | {key: record[key] for key in ("step", "metric") if key in record}
    if meta.get("classes"):
        # Lists of names that are read today are composed, which an older one may not have been.
        meta["classes"] = [normal(name) for name in meta["classes"]]
    return meta


def find(path: str | os.PathLike) -> Path:
    """Returns the folder of the checkpoint that `path` means; see `load`."""
    path = folders.local(path)
    if read_record(path) is not None:
        return path
    for parent in (path, path / "checkpoints"):
        checkpoints = Checkpoints(parent)
        step = checkpoints.best_step()
        if step is None:
            step = checkpoints.latest_step()
        if step is not None:
            return checkpoints.folder(step)
    raise JaxvidError(
        f"{path} holds no finished checkpoint ({RECORD}, or step_* folders that have one): "
        "give a converted checkpoint's folder or a training run's"
    )
