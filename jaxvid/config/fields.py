"""What the fields of a config may be: names, types and values, checked before any work."""

import difflib
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import ml_collections

from jaxvid.base import paths, text
from jaxvid.base.errors import JaxvidError
from jaxvid.config import parts, published
from jaxvid.rows import (
    COSINE_FROM,
    CROP_COUNTS,
    CROP_MODES,
    DECODER_RATIOS,
    EVERY,
    FLOWS,
    FREEZE_NORM,
    LOSSES,
    MAX_SIDE,
    SAMPLERS,
    WARMUPS,
    Sampling,
)


class Rule(NamedTuple):
    """Which values are right, and how to say so after "must be"."""

    accepts: Callable[[Any], bool]
    words: str


def at_least(low: float) -> Rule:
    """Numbers from `low` on."""
    return Rule(lambda value: value >= low, f"at least {low}")


def above(low: float) -> Rule:
    """Numbers greater than `low`."""
    return Rule(lambda value: value > low, f"above {low}")


def between(low: float, high: float) -> Rule:
    """Numbers of a closed interval."""
    return Rule(lambda value: low <= value <= high, f"in {low}..{high}")


def below_one(low: float = 0) -> Rule:
    """Shares of which something is always left."""
    return Rule(lambda value: low <= value < 1, f"at least {low} and below 1")


def one_of(*names: str) -> Rule:
    """One of some words."""
    quoted = [repr(name) for name in names]
    return Rule(lambda value: value in names, f"{', '.join(quoted[:-1])} or {quoted[-1]}")


def each(rule: Rule, length: int | None = None) -> Rule:
    """A tuple of numbers that all follow a rule."""

    def accepts(value: Any) -> bool:
        numbers = all(_is_number(item) for item in value)
        return numbers and length in (None, len(value)) and all(map(rule.accepts, value))

    return Rule(accepts, f"{'numbers' if length is None else f'{length} numbers'}, {rule.words}")


def span(rule: Rule) -> Rule:
    """Two numbers, the lower first."""
    both = each(rule, 2)
    return Rule(lambda value: both.accepts(value) and value[0] <= value[1], f"{both.words}, rising")


WORDS = Rule(lambda value: all(isinstance(item, str) for item in value), "a tuple of texts")
SCALES = Rule(
    lambda value: all(
        _is_tuple(pair) and len(pair) == 2 and isinstance(pair[0], str) and _is_number(pair[1])
        for pair in value
    ),
    "a tuple of (pattern, number) pairs",
)
WEIGHTS = Rule(
    lambda value: SCALES.accepts(value) and all(weight > 0 for _, weight in value),
    "a tuple of (name, number above 0) pairs",
)
PAIRS = Rule(
    lambda value: all(
        _is_tuple(pair) and len(pair) == 2 and all(type(item) is int for item in pair)
        for pair in value
    ),
    "a tuple of pairs of classes",
)

_SAMPLING = {
    "sampler": one_of(*SAMPLERS),
    "clip_len": at_least(1),
    "frame_interval": at_least(1),
    "num_clips": at_least(1),
    "out_of_bound": one_of("loop", "repeat_last"),
    "target_fps": above(0),
    "sample_range": at_least(1),
    "num_sample_positions": at_least(1),
    "clip_interval": at_least(1),
}
RULES = {
    "seed": at_least(0),
    "model.num_classes": at_least(0),
    "model.dtype": one_of("float32", "bfloat16"),
    "model.matmul_precision": one_of("", "bfloat16", "tensorfloat32", "float32"),
    **{f"data.sampling.{name}": rule for name, rule in _SAMPLING.items()},
    "model.members": WORDS,
    "data.flow": one_of("", *FLOWS),
    "data.mixture": WEIGHTS,
    "data.trim": between(0, 1),
    "data.balance": between(0, 1),
    "data.crop": at_least(1),
    "data.crop_mode": one_of(*CROP_MODES),
    "data.crop_scales": each(above(0)),
    "data.crop_scale_gap": at_least(0),
    "data.fixed_crops": Rule(lambda value: value in (5, 13), "5 or 13"),
    "data.area": span(above(0)),
    "data.aspect": span(above(0)),
    "data.flip": between(0, 1),
    "data.mirrored_labels": PAIRS,
    "data.color_jitter": each(at_least(0), 4),
    "data.rand_augment_fill": between(0, 255),
    "data.random_erasing": between(0, 1),
    "data.repeats": at_least(1),
    "data.mean": each(at_least(0)),
    "data.std": each(above(0)),
    "data.channel_order": one_of("rgb", "bgr"),
    "data.max_bad_records": at_least(0),
    "data.workers": at_least(0),
    "train.batch_size": at_least(1),
    "train.image_batch_size": at_least(0),
    "train.image_weight": above(0),
    "train.epochs": above(0),
    "train.loss": one_of(*LOSSES, "pixels"),
    "train.loss_weight": above(0),
    "train.aux_weight": at_least(0),
    "train.teacher_weight": between(0, 1),
    "train.teacher_temperature": above(0),
    "train.token_weight": between(0, 1),
    "train.label_smoothing": below_one(),
    "train.category_weights": WEIGHTS,
    "train.mixup": at_least(0),
    "train.cutmix": at_least(0),
    "train.mixup_switch_prob": between(0, 1),
    "train.mask_ratio": below_one(),
    "train.decoder_mask_ratio": Rule(
        lambda value: value in DECODER_RATIOS, f"one of {', '.join(map(str, DECODER_RATIOS))}"
    ),
    "train.accumulate_steps": at_least(1),
    "train.ema_decay": below_one(),
    "train.lora_rank": at_least(0),
    "train.lora_alpha": above(0),
    "train.lora_layers": WORDS,
    "train.lora_also": WORDS,
    "train.freeze_norm": one_of(*FREEZE_NORM),
    "train.norm_group": at_least(0),
    "train.precise_norm_batches": at_least(0),
    "train.sharding": one_of("replicated", "fsdp"),
    "train.reduce_dtype": one_of("", "float32"),
    "train.log_steps": at_least(1),
    "train.eval_epochs": above(0),
    "train.patience": at_least(0),
    "train.checkpoint_steps": at_least(1),
    "train.stop_at_step": at_least(0),
    "optim.name": one_of("sgd", "adamw"),
    "optim.lr": at_least(0),
    "optim.momentum": below_one(),
    "optim.betas": each(below_one(), 2),
    "optim.weight_decay": at_least(0),
    "optim.lr_scales": SCALES,
    "optim.layer_decay": Rule(lambda value: 0 < value <= 1, "above 0 and at most 1"),
    "optim.freeze": WORDS,
    "optim.no_decay": WORDS,
    "optim.clip_norm": at_least(0),
    "optim.schedule": one_of("cosine", "step", "constant"),
    "optim.milestones": each(at_least(0)),
    "optim.gamma": above(0),
    "optim.final_lr": at_least(0),
    "optim.cosine_epochs": at_least(0),
    "optim.cosine_from": one_of(*COSINE_FROM),
    "optim.schedule_every": one_of(*EVERY),
    "optim.warmup_epochs": at_least(0),
    "optim.warmup_factor": between(0, 1),
    "optim.warmup": one_of(*WARMUPS),
    "optim.warmup_every": one_of(*EVERY),
    **{f"test.sampling.{name}": rule for name, rule in _SAMPLING.items()},
    "test.short_side": at_least(1),
    "test.crops": one_of(*CROP_COUNTS),
    "test.crop": at_least(1),
    "test.average": one_of("prob", "score"),
    "test.weights": one_of("ema", "last"),
    "test.batch_size": at_least(1),
    "test.views_per_step": at_least(1),
}
"""Fields whose type does not say all. Files, patterns and names of data are checked where they are
read, and `model.overrides` where the network is made."""

PATHS = ("init", "train.teacher", "data.data_dir")
"""Fields that are paths of files or folders, or empty. A split's name may be one, too: see
`jaxvid.data.datasets`."""

# What a field may be at most, so that no plan of frames and pictures takes all of the memory.
_MOST = {
    "model.num_classes": text.MAX_CLASSES,
    **{
        f"{group}.sampling.{name}": most
        for group in ("data", "test")
        for name, most in {
            **dict.fromkeys(("clip_len", "num_clips", "num_sample_positions"), 10000),
            **dict.fromkeys(("frame_interval", "sample_range", "clip_interval"), 1000000),
            "target_fps": 1000,
        }.items()
    },
    **dict.fromkeys(("data.crop", "test.crop", "test.short_side"), MAX_SIDE),
    "test.views_per_step": 1_000_000,
}
MAX_VIDEO_BYTES = 4 << 30
"""Bytes of the pixels of all views of one video."""

_OPTIONAL = ".target_fps"
"""The end of fields that may be None, whatever they are in another config."""

# What says nothing to a network that fills in masked cubes, and what says nothing to the others.
_OF_CLASSES = (
    "data.balance",
    "data.images",
    "train.aux_weight",
    "train.category_weights",
    "train.class_weights",
    "train.cutmix",
    "train.label_smoothing",
    "train.loss_weight",
    "train.mixup",
    "train.teacher",
)
_GROUP = "train.norm_group"
_OF_MASKS = ("train.mask_ratio", "train.decoder_mask_ratio", "train.normalize_cubes")


def freeze(config: ml_collections.ConfigDict | parts.Config) -> parts.Config:
    """The config as what rooms are handed, once it is checked; what is frozen already is returned.

    Raises:
      JaxvidError: see `check`.
    """
    if isinstance(config, parts.Config):
        return config
    check(config)
    return parts.from_dict(config.to_dict())


def check(config: ml_collections.ConfigDict) -> None:
    """Refuses a config with a field that is unknown, missing, of the wrong type or out of range.

    Raises:
      JaxvidError: naming the first such field, and what it must be or the nearest known name.
    """
    name = config.get("model", {}).get("name")
    if not isinstance(name, str):
        raise JaxvidError("config.model.name is missing: make the config by config.from_row")
    known = flat(published.from_row(name))
    given = flat(config)
    for field in given:
        if field not in known:
            raise JaxvidError(unknown(field, known))
    for field, like in known.items():
        if field not in given:
            raise JaxvidError(f"config.{field} is missing: make the config by config.from_row")
        kind = _kind(None if field.endswith(_OPTIONAL) else like)
        value = given[field]
        if not kind.accepts(value):
            raise JaxvidError(f"config.{field}={value!r} must be {kind.words}")
        rule = RULES.get(field)
        if rule and value is not None and not rule.accepts(value):
            raise JaxvidError(f"config.{field}={value!r} must be {rule.words}")
        if field in _MOST and value is not None and value > _MOST[field]:
            raise JaxvidError(f"config.{field}={value!r} must be at most {_MOST[field]}")
    _check_rate("test", config.test.sampling)
    _check_rate("data", config.data.sampling)
    _check_size("test", config.test.sampling, published.views(config), config.test.crop)
    _check_size("data", config.data.sampling, 1, config.data.crop)
    if not given["model.members"]:
        _check_flow(given, known)
    for field in PATHS:
        if given[field]:
            paths.anywhere(given[field], f"config.{field}")
    part, group = given["train.batch_size"] // given["train.accumulate_steps"], given[_GROUP]
    if group and part > group and part % group:
        raise JaxvidError(
            f"config.{_GROUP}={group} must divide the {part} clips of config.train.batch_size over "
            f"config.train.accumulate_steps: take {part // group * group} of them, or set "
            f"config.{_GROUP} to 0, which makes BatchNorm's statistics those of all"
        )
    if bool(given["data.images"]) != bool(given["train.image_batch_size"]):
        raise JaxvidError(
            f"config.data.images={given['data.images']!r} and config.train.image_batch_size="
            f"{given['train.image_batch_size']} go together: set both, or neither"
        )
    pixels = known["train.loss"] == "pixels"
    if pixels != (given["train.loss"] == "pixels"):
        raise JaxvidError(
            f"config.train.loss={given['train.loss']!r} is not for {name}: the loss pixels is for "
            "networks that pretrain, such as videomae_pretrain_vit_b, and the only one for them"
        )
    for field in _OF_CLASSES if pixels else _OF_MASKS:
        if given[field] != known[field]:
            raise JaxvidError(
                f"config.{field}={given[field]!r} has no use with the loss "
                f"{given['train.loss']}: leave it {known[field]!r}"
            )


def _check_rate(group: str, sampling: Mapping[str, Any]) -> None:
    """Refuses to sample by time without a rate."""
    if sampling["sampler"] == "timed" and sampling["target_fps"] is None:
        raise JaxvidError(
            f"config.{group}.sampling.target_fps=None must be a number where the sampler is timed"
        )


def _check_size(group: str, sampling: Mapping[str, Any], views: int, crop: int) -> None:
    """Refuses a plan whose views of one video take more memory than any that is published."""
    drawn = Sampling(**sampling)
    frames = drawn.length
    size = views * frames * crop * crop * drawn.channels
    if size > MAX_VIDEO_BYTES:
        raise JaxvidError(
            f"config.{group} asks of a video for {views} views of {frames} frames of {crop} x "
            f"{crop} pixels, {size / 2**30:.1f} GiB: lower config.{group}.crop or the sampling's "
            "clip_len and num_clips"
        )


def _check_flow(given: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    """Refuses to feed optical flow to a network of RGB, or the reverse, or to recolour flow."""
    name, flow = given["model.name"], bool(known["data.flow"])
    takes = "optical flow" if flow else "RGB"
    wrong = [] if bool(given["data.flow"]) == flow else ["data.flow"]
    wrong += [
        field
        for field in ("data.sampling.sampler", "test.sampling.sampler")
        if (given[field] == "stacks") != flow
    ]
    if flow:
        wrong += ["data.color_jitter"] * any(given["data.color_jitter"])
        wrong += ["data.rand_augment"] * bool(given["data.rand_augment"])
    for field in wrong:
        raise JaxvidError(
            f"config.{field}={given[field]!r} is not for {name}, which takes {takes}: leave it "
            f"{known[field]!r}"
        )
    for group in ("data", "test") if flow else ():
        field = f"{group}.sampling.clip_len"
        if 2 * given[field] != len(given["data.mean"]):
            raise JaxvidError(
                f"config.{field}={given[field]} pairs of x and y are not the "
                f"{len(given['data.mean'])} channels of config.data.mean: change both, and those "
                "of training and test alike"
            )


def unknown(field: str, known: Iterable[str]) -> str:
    """Says that a field does not exist, and which one may be meant."""
    known = list(known)
    group, _, last = f".{field}".rpartition(".")
    group = f"{group}.".lstrip(".")
    beside = dict.fromkeys(
        name.removeprefix(group).split(".")[0] for name in known if name.startswith(group)
    )
    if not beside:  # The group itself does not exist.
        return unknown(group[:-1], known)
    # A right name in a wrong place is nearer than any other.
    near = [name for name in known if name.split(".")[-1] == last]
    near = near or [group + name for name in difflib.get_close_matches(last, beside, n=1)]
    near = near or difflib.get_close_matches(field, known, n=1, cutoff=0.8)
    if near:
        meant = " or ".join(f"config.{name}" for name in near)
        return f"config.{field} is unknown: did you mean {meant}?"
    return f"config.{field} is unknown: there are {', '.join(beside)}"


def names(config: ml_collections.ConfigDict) -> list[str]:
    """The names of all fields of a config, such as `optim.lr`."""
    return list(flat(config))


def flat(config: Mapping[str, Any] | ml_collections.ConfigDict, prefix: str = "") -> dict[str, Any]:
    """All fields by their full names; the overrides of the network are one field."""
    fields: dict[str, Any] = {}
    for name, value in config.items():
        if hasattr(value, "items") and prefix + name != "model.overrides":
            fields |= flat(value, f"{prefix}{name}.")
        else:
            fields[prefix + name] = value
    return fields


def _kind(like: Any) -> Rule:
    """The type of a field, by a value that it has in another config."""
    if hasattr(like, "items"):
        return Rule(lambda value: hasattr(value, "items"), "a dict of the network's fields")
    if isinstance(like, bool):
        return Rule(lambda value: isinstance(value, bool), "True or False")
    if isinstance(like, int):
        return Rule(lambda value: type(value) is int, "a whole number")
    if isinstance(like, float):
        return Rule(_is_number, "a finite number")
    if isinstance(like, str):
        return Rule(lambda value: isinstance(value, str), "text")
    if like is None:
        return Rule(lambda value: value is None or _is_number(value), "a number or None")
    return Rule(_is_tuple, "a tuple")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_tuple(value: Any) -> bool:
    return isinstance(value, (tuple, list))
