"""The variables of a network: `{"params", "batch_stats"}` in a folder of their own, or a run's."""

import contextlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxvid.base import finite, locks
from jaxvid.base.errors import JaxvidError
from jaxvid.base.text import normal
from jaxvid.checkpoint import folders, leaves, lora, peers, trees
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
    `last`, the parameters themselves; None takes those that the run was tested with. What lies on a
    base (LoRA) is merged with it. Raises `JaxvidError` where there is no checkpoint, it is damaged,
    or its base is not what it was.
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
    read = {
        name.removeprefix(inside): array for name, array in trees.read(folder, record, like).items()
    }
    if said := _lora_of(record, folder):
        held = {f"params/{name}": array for name, array in load_base(path).items()}
        read = lora.merged(held | read, said["scale"])
    return {"params": {}, "batch_stats": {}} | leaves.nest(read)


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
    meta.pop("lora", None)  # It says what lies on disk, not what `load` makes of that.
    if meta.get("classes"):
        # Lists of names that are read today are composed, which an older one may not have been.
        meta["classes"] = [normal(name) for name in meta["classes"]]
    return meta


def load_lora(path: str | os.PathLike) -> dict[str, Any] | None:
    """Reads what a checkpoint of low-rank factors says of them and of its base; None of others."""
    folder = find(path)
    return _lora_of(record_of(folder), folder)


def describe_base(path: str | os.PathLike, names: Iterable[str]) -> dict[str, Any]:
    """What a checkpoint says of the base at `path`, of whose parameters it needs those of `names`.

    See `load_base`, which holds the base to it.
    """
    folder, names = find(path), sorted(names)
    arrays = _taken(load(folder), names)
    return {"base": str(folder), "digest": lora.digest(arrays), "held": names}


def load_base(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Reads the parameters, by their paths, that the checkpoint at `path` has in its base only.

    Raises:
      JaxvidError: the base is not there any more, or not what it was.
    """
    folder = find(path)
    said = load_lora(folder)
    if said is None:
        return {}
    needs = f"{folder} holds what was trained on top of {said['base']} (LoRA)"
    try:
        variables = load(said["base"])
    except JaxvidError as error:
        raise JaxvidError(f"{needs}, which cannot be read: put it back there ({error})") from error
    try:
        arrays = _taken(variables, said["held"])
    except KeyError as error:
        raise JaxvidError(f"{needs}, which lacks {error}: put back the one of then") from error
    if lora.digest(arrays) != said["digest"]:
        raise JaxvidError(f"{needs}, which is another one now: put back the one of then")
    return arrays


def _lora_of(record: Mapping[str, Any], folder: Path) -> dict[str, Any] | None:
    metas.check(record["meta"], folder / RECORD)
    return record["meta"].get("lora")


def _taken(variables: Mapping[str, Any], names: Iterable[str]) -> dict[str, np.ndarray]:
    """Parameters by their paths, as networks hold them; KeyError where one lacks."""
    found, arrays, _ = leaves.flatten(variables["params"])
    by_name = dict(zip(found, arrays, strict=True))
    return {name: np.asarray(by_name[name], np.float32) for name in names}


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
