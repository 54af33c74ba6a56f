"""What a run is, so that a workdir goes on only with what made it.

Its network, classes and videos stay the same from the first step to the last. Other fields may
change where it goes on; each change is said, and kept: `config.json` holds the values that the run
began with, `config_from_STEP.json` those of the steps after STEP. So each says what the weights saw
from there on, and one whose steps were never saved goes again.
"""

import copy
import dataclasses
import hashlib
import json
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxvid import checkpoint, zoo
from jaxvid.base import whole
from jaxvid.base.errors import JaxvidError, listed
from jaxvid.config import fields, parts
from jaxvid.config.parts import Config
from jaxvid.data import datasets
from jaxvid.devices import processes
from jaxvid.training import plan

CONFIG = "config.json"
_LATER = re.compile(r"config_from_(\d{8,})\.json")

_MEANINGS = {
    "init": "without effect: the weights are this run's own",
    "seed": "another order of videos and other random numbers",
    "data.dataset": "the same videos under another name",
    "data.data_dir": "the same videos in another place",
    "data.flow": "the same videos, and the network learns from both ways",
    "data.balance": "another order of videos",
    "data.mixture": "another order of videos",
    "train.image_weight": "losses before and after do not compare",
    "data.test_split": "the best checkpoint so far is the best on the old one",
    "test.weights": "the best checkpoint so far was chosen by the old ones",
    "train.teacher": "what is learned beside the labels comes from another network",
    "train.teacher_weight": "losses before and after do not compare",
    "train.teacher_temperature": "losses before and after do not compare",
    "train.class_weights": "losses before and after do not compare",
    "train.loss_weight": "losses before and after do not compare",
    "train.label_smoothing": "losses before and after do not compare",
}
"""What a change means to a run that goes on, where its name does not say it."""


def describe(config: Config, classes: Sequence[str], short_side: int) -> dict[str, Any]:
    """What a checkpoint must say of itself so that prediction needs nothing else.

    `short_side` is that of the largest picture in the records.
    """
    row = zoo.starting_row(config.model.name)
    return {
        "row": config.model.name,
        "variant": row.variant,
        "num_classes": len(classes),
        "classes": list(classes),
        "mean": list(config.data.mean),
        "std": list(config.data.std),
        "channel_order": config.data.channel_order,
        "overrides": dict(config.model.overrides),
        **({"flow": config.data.flow} if config.data.flow else {}),
        "loss": config.train.loss,
        **({"lora": _factors(config.train)} if config.train.lora_rank else {}),
        "test": dataclasses.asdict(config.test),
        "short_side": short_side,
        "new": [f"params/{path}" for path in row.new],
    }


def _factors(train: parts.Train) -> dict[str, Any]:
    """What a checkpoint must say of factors of kernels, beside which base they have."""
    return {
        "rank": train.lora_rank,
        "alpha": train.lora_alpha,
        "scale": train.lora_alpha / train.lora_rank,
        "layers": list(train.lora_layers),
        "also": list(train.lora_also),
    }


def fingerprint(split: datasets.Split) -> dict[str, Any]:
    """What tells the videos of a split from others, wherever they lie."""
    said: list[Any] = [split.paths, [list(map(int, each)) for each in split.source.labels]]
    if split.categories:
        said += [split.categories, split.annotated]
    names = json.dumps(said)
    return {
        "videos": len(split),
        "frames": int(np.sum(split.source.num_frames)),
        "digest": hashlib.sha256(names.encode("utf-8", "surrogatepass")).hexdigest()[:16],
    }


def compare(
    workdir: pathlib.Path,
    folder: pathlib.Path,
    config: Config,
    meta: dict[str, Any],
    videos: int,
) -> None:
    """Refuses to go on from the checkpoint in `folder` with what did not make it.

    What else differs is said, as is what cannot be compared.
    """
    then = checkpoint.load_meta(folder) | {"lora": checkpoint.load_lora(folder)}
    lines = check_same(workdir, then, meta, config.data.dataset)
    lines += differences(workdir, config, then["step"], videos)
    if lines:
        processes.log(f"what differs in {workdir} after step {then['step']}:")
    for line in lines:
        processes.log(f"  {line}")


def check_same(
    workdir: pathlib.Path, then: Mapping[str, Any], now: Mapping[str, Any], dataset: str
) -> list[str]:
    """Refuses to go on with another network, loss, classes or videos.

    `then` is what the last checkpoint says of itself, `now` what the next one would say.

    Returns:
      Lines that say what could not be compared.
    """
    now = json.loads(json.dumps(now))
    way_out = (
        f"choose another --workdir, where init={workdir} starts from its weights, or go on with "
        "what made it"
    )
    for field, what in (("row", "config.model.name"), ("overrides", "config.model.overrides")):
        if then.get(field, now[field]) != now[field]:
            raise JaxvidError(
                f"{workdir} holds a run with {what}={_said(then[field])}, not {_said(now[field])}: "
                f"{way_out}"
            )
    factors, others = (said.get("lora") or {"rank": 0} for said in (then, now))
    for name in ("rank", "alpha", "layers", "also") if factors["rank"] or others["rank"] else ():
        if factors.get(name) != others.get(name):
            raise JaxvidError(
                f"{workdir} holds a run with config.train.lora_{name}="
                f"{_said(factors.get(name))}, not {_said(others.get(name))}: {way_out}"
            )
    if then.get("loss", now["loss"]) != now["loss"]:
        raise JaxvidError(
            f"{workdir} holds a run with the loss {then['loss']}, not {now['loss']}, which decides "
            f"what its answers mean: {way_out}"
        )
    if list(then.get("classes", now["classes"])) != now["classes"]:
        raise JaxvidError(
            f"{workdir} holds a run that learned {len(then['classes'])} classes, which are not "
            f"those of {dataset} ({len(now['classes'])}): {way_out}"
        )
    if not isinstance(then.get("records"), dict):
        return ["not known, as an older version saved it: which videos it learned from"]
    for split, videos in now["records"].items():
        before = then["records"].get(split)
        if before is not None and before != videos:
            raise JaxvidError(
                f"{workdir} holds a run with other videos in the split {split!r} of {dataset} "
                f"({_counts(before)}) than there are here ({_counts(videos)}): {way_out}"
            )
    return []


def _counts(videos: Mapping[str, Any]) -> str:
    return f"{videos.get('videos')} videos, {videos.get('frames')} frames"


def begin(workdir: pathlib.Path, config: Config) -> None:
    """Notes the values that a run begins with, before its first step."""
    _write(workdir, 0, config)


def go_on(workdir: pathlib.Path, config: Config, step: int) -> None:
    """Notes the values of the steps after `step`, where they are others than of those before."""
    if _read(workdir, step) != _plain(config):
        _write(workdir, step, config)


def _write(workdir: pathlib.Path, step: int, config: Config) -> None:
    for path, first in _later(workdir).items():
        if first >= step:  # Of steps that were never saved.
            path.unlink()
    path = workdir / (f"config_from_{step:08d}.json" if step else CONFIG)
    whole.text(path, json.dumps(config.to_dict(), indent=1) + "\n", durable=True)


def _plain(config: Config) -> dict[str, Any]:
    """The values as JSON holds them."""
    return json.loads(json.dumps(config.to_dict()))


def _read(workdir: pathlib.Path, step: int) -> dict[str, Any] | None:
    """The values that `step` was made with, or None where they cannot be read."""
    later = {path: first for path, first in _later(workdir).items() if first < step}
    path = max(later, key=later.__getitem__, default=workdir / CONFIG)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return values if isinstance(values, dict) else None


def _later(workdir: pathlib.Path) -> dict[pathlib.Path, int]:
    """The files of changed values, and the step after which each holds."""
    found = ((path, _LATER.fullmatch(path.name)) for path in workdir.iterdir())
    return {path: int(match[1]) for path, match in found if match}


def differences(workdir: pathlib.Path, config: Config, step: int, videos: int) -> list[str]:
    """Lines that say what differs after `step`, old value and new, and what that means."""
    old = _read(workdir, step)
    if old is None:
        return [f"not known which fields, as {workdir / CONFIG} cannot be read"]
    new = _plain(config)
    before, now = fields.flat(old), fields.flat(new)
    changed = [name for name in now if name in before and before[name] != now[name]]
    unknown = [name for name in now if name not in before]
    lines = [
        f"{name}: {_said(before[name])} -> {_said(now[name])}"
        + (f" ({_MEANINGS[name]})" if name in _MEANINGS else "")
        for name in changed
    ]
    if unknown:
        lines.append(f"not known, as an older version began it: {listed(unknown, separator=', ')}")
    lines += _new_plan(_merged(new, old), config, step, videos)
    return lines


def _new_plan(old: Mapping[str, Any], config: Config, step: int, videos: int) -> list[str]:
    """Says what becomes of the length of the run and of its rate."""
    try:
        was = plan.length_of(parts.from_dict(old), videos)
        rate = float(was.rate(step))
    except (ValueError, TypeError, AttributeError, KeyError, ArithmeticError):
        return []  # Values that this version does not know.
    now, lines = plan.length_of(config, videos), []
    for what, before, after in (
        ("steps in an epoch", was.per_epoch, now.per_epoch),
        ("steps in all", was.steps, now.steps),
    ):
        if before != after:
            lines.append(f"{what}: {before} -> {after}")
    new_rate = float(now.rate(step))
    if not np.isclose(rate, new_rate, rtol=1e-6, atol=0):
        lines.append(f"the rate at step {step + 1}: {rate:.3g} -> {new_rate:.3g}")
    return lines


def _merged(new: Mapping[str, Any], old: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of `new` with the values of `old`, where that has one."""
    merged = dict(copy.deepcopy(new))
    for name, value in old.items():
        inside = isinstance(value, dict) and isinstance(merged.get(name), dict)
        merged[name] = _merged(merged[name], value) if inside else value
    return merged


def _said(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
