"""A zoo row turned into the full ConfigDict that trains and tests it as published."""

import dataclasses
from typing import Any

import ml_collections

from jaxvid import zoo
from jaxvid.rows import CROP_COUNTS, FLOWS, Recipe, Row, Sampling

ARGUMENTS = {"dataset": "toy", "data_dir": "", "init": "", "classes": 0, "runlocal": False}
"""What every front door takes, with defaults; see `from_row`."""


def from_row(
    name: str,
    *,
    dataset: str = "toy",
    data_dir: str = "",
    init: str = "",
    classes: int = 0,
    runlocal: bool = False,
) -> ml_collections.ConfigDict:
    """The config that trains and tests the row (or bare variant) `name` as it was published.

    Args:
      name: anything `zoo.get_row` takes, or a variant such as `tsm_test`.
      dataset: `toy` (generated here), a name for the records in `data_dir`, `files`, or another
        library's dataset; see `jaxvid.data.datasets.open_split`.
      data_dir: folder that `python -m jaxvid.data.build` wrote, or of the `files`, or for what is
        generated or imported.
      init: folder of a converted or trained checkpoint to start from; '' starts from nothing. Of a
        row of several streams, the folder in which each has its own, called as its row.
      classes: number of classes; 0 takes the number of labels of the dataset.
      runlocal: shrink network, pictures and run to what a laptop does in minutes.
    """
    row, streams = zoo.starting_row(name), zoo.streams(name)
    if runlocal:
        row, streams = shrink(row), tuple(_tiny(zoo.get_row(stream)) for stream in streams)
    recipe = row.recipe or Recipe()
    config = ml_collections.ConfigDict()
    config.seed = 0
    config.init = init
    config.model = _model(row, classes, streams)
    config.data = _data(row, recipe, dataset, data_dir)
    if streams:
        config.data.flow = FLOWS[0]
    config.train = _train(recipe)
    config.optim = _optim(recipe)
    config.test = _test(row)
    if runlocal:
        local_run(config)
    return config


def _model(row: Row, classes: int, streams: tuple[str, ...]) -> dict[str, Any]:
    """Which network, or which are tested together."""
    return {
        "name": row.name,
        "num_classes": classes,
        "dtype": "float32",
        "matmul_precision": "",
        "overrides": dict(row.overrides),
        "members": streams,
    }


def _data(row: Row, recipe: Recipe, dataset: str, data_dir: str) -> dict[str, Any]:
    """Which videos, and what training sees of each."""
    return {
        "dataset": dataset,
        "data_dir": data_dir,
        "flow": FLOWS[0] if row.modality == "flow" else "",
        "train_split": "train",
        "test_split": "test",
        "category": "",
        "mixture": (),
        "images": "",
        "sampling": dataclasses.asdict(row.train),
        "trim": 0.0,
        "balance": 0.0,
        "crop": row.train_crop,
        "crop_mode": recipe.crop_mode,
        "crop_scales": recipe.crop_scales,
        "even_sides": recipe.even_sides,
        "crop_scale_gap": recipe.crop_scale_gap,
        "fixed_crops": recipe.fixed_crops,
        "area": (0.08, 1.0),
        "aspect": (3 / 4, 4 / 3),
        "flip": recipe.flip,
        "mirrored_labels": recipe.mirrored_labels,
        "color_jitter": recipe.color_jitter,
        "hue_bytes": recipe.hue_bytes,
        "rand_augment": recipe.rand_augment,
        "rand_augment_fill": recipe.rand_augment_fill,
        "rand_augment_after_crop": recipe.rand_augment_after_crop,
        "random_erasing": recipe.random_erasing,
        "repeats": recipe.repeated_augmentation,
        "repeats_share_frames": recipe.repeats_share_frames,
        "mean": row.mean,
        "std": row.std,
        "channel_order": row.channel_order,
        "max_bad_records": 0,
        "workers": 0,
    }


def _train(recipe: Recipe) -> dict[str, Any]:
    """How long and on what batches a run learns, by which loss, and what it keeps."""
    return {
        # Clips, of which each video gives `data.repeats`; recipes count videos.
        "batch_size": recipe.batch_size * recipe.repeated_augmentation,
        "image_batch_size": 0,
        "image_weight": 1.0,
        "epochs": float(recipe.epochs),
        "loss": recipe.loss,
        "loss_weight": recipe.loss_weight,
        "aux_weight": recipe.aux_weight,
        "teacher": "",
        "teacher_weight": 0.5,
        "teacher_temperature": 1.0,
        "token_weight": 0.5,
        "label_smoothing": recipe.label_smoothing,
        "category_weights": (),
        "class_weights": "",
        "mixup": recipe.mixup,
        "cutmix": recipe.cutmix,
        "mixup_switch_prob": 0.5,
        "mask_ratio": recipe.mask_ratio,
        "decoder_mask_ratio": recipe.decoder_mask_ratio,
        "normalize_cubes": True,
        "accumulate_steps": 1,
        "ema_decay": 0.0,
        "lora_rank": 0,
        "lora_alpha": 16.0,
        "lora_layers": ("linear",),
        "lora_also": (),
        "freeze_norm": recipe.freeze_norm,
        "norm_group": _norm_group(recipe),
        "precise_norm_batches": recipe.precise_norm_batches,
        "remat": False,
        "sharding": "replicated",
        "mesh": "",
        "reduce_dtype": "",
        "log_steps": 20,
        "eval_epochs": 5.0,
        "patience": 0,
        "checkpoint_steps": 1000,
        "stop_at_step": 0,
    }


def _optim(recipe: Recipe) -> dict[str, Any]:
    """The optimizer, its rate at each step, and which parameters differ in theirs."""
    return {
        "name": recipe.optimizer,
        "lr": recipe.lr,
        "momentum": recipe.momentum,
        "nesterov": recipe.nesterov,
        "betas": recipe.betas,
        "weight_decay": recipe.weight_decay,
        "lr_scales": _lr_scales(recipe),
        "layer_decay": recipe.layer_decay,
        "freeze": recipe.freeze,
        "no_decay": recipe.no_decay + (() if recipe.decay_norm_and_bias else ("ndim<2",)),
        "clip_norm": recipe.clip_norm or 0.0,
        "schedule": recipe.schedule,
        "milestones": recipe.milestones,
        "gamma": recipe.gamma,
        "final_lr": recipe.final_lr,
        "cosine_epochs": float(recipe.cosine_epochs or 0),
        "cosine_from": recipe.cosine_from,
        "schedule_every": recipe.schedule_every,
        "warmup_epochs": float(recipe.warmup_epochs),
        "warmup_factor": recipe.warmup_factor,
        "warmup": recipe.warmup,
        "warmup_every": recipe.warmup_every,
    }


def _test(row: Row) -> dict[str, Any]:
    """The published test, and how it is computed."""
    return {
        "sampling": dataclasses.asdict(row.test.sampling),
        "short_side": row.test.short_side,
        "crops": row.test.crops,
        "crop": row.test.crop,
        "average": row.test.average,
        "weights": "ema",
        # All views of a video are in memory at once: few videos fill as much as a training batch.
        "batch_size": 8,
        "views_per_step": 1,
    }


def _lr_scales(recipe: Recipe) -> tuple[tuple[str, float], ...]:
    bias = recipe.bias_lr_scale
    # Biases of norms are not meant: what multiplies those of all layers is taken back from them.
    pairs = (("head/*", recipe.head_lr_scale), ("*/bias", bias), ("*bn/bias", 1 / bias))
    return tuple((pattern, scale) for pattern, scale in pairs if scale != 1) + recipe.lr_scales


def _norm_group(recipe: Recipe) -> int:
    """Clips of each group that has BatchNorm statistics of its own, 0 for the whole batch."""
    clips = recipe.batch_size * recipe.repeated_augmentation
    return clips // recipe.norm_groups if recipe.norm_groups > 1 else 0


def shrink(row: Row) -> Row:
    """The row on its family's tiny variant, 64-pixel pictures and a single view.

    Frame nets keep at most 8 segments and clips at most 8 frames, so that a step takes a fraction
    of a second on a laptop.
    """
    tiny = _tiny(row)
    train = _fewer_frames(row.train)
    test = dataclasses.replace(
        row.test, sampling=_fewer_frames(row.test.sampling), short_side=64, crops="center", crop=64
    )
    return dataclasses.replace(
        zoo.starting_row(tiny),
        train=train,
        test=test,
        train_crop=64,
        train_short_side=64,
        recipe=row.recipe,
        mean=row.mean,
        std=row.std,
        channel_order=row.channel_order,
    )


def _tiny(row: Row) -> str:
    """The tiny variant of the row's family that takes and gives what the row does."""
    if row.modality == "flow":
        return row.variant if row.variant.endswith("_test") else f"{row.variant}_test"
    family = zoo.family(row.variant).__name__.rsplit(".", 1)[-1]
    return f"{family}_pretrain_test" if zoo.pretrains(row.variant) else f"{family}_test"


def _fewer_frames(sampling: Sampling) -> Sampling:
    """At most 8 frames, and one view of them."""
    sampling = dataclasses.replace(sampling, twice_sample=False, num_sample_positions=1)
    if sampling.clip_len == 1 or sampling.sampler == "stacks":
        return dataclasses.replace(sampling, num_clips=min(sampling.num_clips, 8))
    return dataclasses.replace(
        sampling,
        clip_len=min(sampling.clip_len, 8),
        frame_interval=min(sampling.frame_interval, 4),
        num_clips=1,
    )


def local_run(config: ml_collections.ConfigDict) -> None:
    """Settings of a run of minutes on a CPU: small batches, AdamW, few epochs, plain clips.

    The toy classes are directions of motion, which a flip would swap.
    """
    if config.data.flow and config.data.dataset == "toy":
        config.data.flow = "farneback"  # TV-L1 takes some twenty times as long.
    config.data.update({"flip": 0.0, "area": (0.6, 1.0), "color_jitter": (0.0, 0.0, 0.0, 0.0)})
    config.data.update({"rand_augment": "", "random_erasing": 0.0, "repeats": 1})
    config.train.update(
        {"batch_size": 16, "epochs": 20.0, "eval_epochs": 5.0, "checkpoint_steps": 100}
    )
    config.train.update({"mixup": 0.0, "cutmix": 0.0, "freeze_norm": ""})
    config.train.update({"norm_group": 0, "precise_norm_batches": 0})
    config.test.batch_size = 16
    config.optim.update(
        {
            "name": "adamw",
            "lr": 2e-3,
            "lr_scales": (),
            "layer_decay": 1.0,
            "weight_decay": 0.05,
            "no_decay": ("ndim<2",),
            "clip_norm": 1.0,
            "schedule": "cosine",
            "cosine_epochs": 0.0,
            "cosine_from": "warmup",
            "schedule_every": "step",
            "final_lr": 0.0,
            "warmup_epochs": 0.5,
            "warmup": "scale",
            "warmup_every": "step",
        }
    )


def views(config: ml_collections.ConfigDict) -> int:
    """Number of views of one video under `config.test`."""
    return Sampling(**config.test.sampling).views * CROP_COUNTS[config.test.crops]
