"""A config as frozen dataclasses: what the rooms behind the front door are handed, part by part.

`fields.freeze` makes them of a ConfigDict once it has checked it; nothing is defaulted here, so
that a field is decided in one place, `published`.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np

from jaxvid.rows import CROP_COUNTS, Protocol, Sampling


@dataclasses.dataclass(frozen=True)
class Model:
    """Which network: a row or variant, its classes (0: those of the data), and what differs.

    `matmul_precision` is what float32 is multiplied in; "" is what the chip does by itself.
    `members` are rows or variants that are tested in its place, and their scores fused.
    """

    name: str
    num_classes: int
    dtype: str
    matmul_precision: str
    overrides: Mapping[str, Any]
    members: tuple[str, ...]

    @property
    def compute_dtype(self) -> np.dtype | None:
        """What networks take as `dtype`: None, which is that of the parameters, for float32."""
        return None if self.dtype == "float32" else np.dtype(ml_dtypes.bfloat16)


@dataclasses.dataclass(frozen=True)
class Data:
    """Which videos, and what training sees of each; see `jaxvid.rows.Recipe` for the fields.

    `flow` is how the optical flow of videos is computed that a network takes in place of RGB, ""
    where it does not.
    """

    dataset: str
    data_dir: str
    flow: str
    train_split: str
    test_split: str
    category: str
    mixture: tuple[tuple[str, float], ...]
    images: str
    sampling: Sampling
    trim: float
    balance: float
    crop: int
    crop_mode: str
    crop_scales: tuple[float, ...]
    even_sides: bool
    crop_scale_gap: int
    fixed_crops: int
    area: tuple[float, float]
    aspect: tuple[float, float]
    flip: float
    mirrored_labels: tuple[tuple[int, int], ...]
    color_jitter: tuple[float, float, float, float]
    hue_bytes: bool
    rand_augment: str
    rand_augment_fill: int
    rand_augment_after_crop: bool
    random_erasing: float
    repeats: int
    repeats_share_frames: bool
    mean: tuple[float, ...]
    std: tuple[float, ...]
    channel_order: str
    max_bad_records: int
    workers: int


@dataclasses.dataclass(frozen=True)
class Train:
    """How long and on what batches a run learns, by which loss, and what it keeps.

    `reduce_dtype` is what devices add gradients up in; "" is what kernels are multiplied in.
    """

    batch_size: int
    image_batch_size: int
    image_weight: float
    epochs: float
    loss: str
    loss_weight: float
    aux_weight: float
    teacher: str
    teacher_weight: float
    teacher_temperature: float
    token_weight: float
    label_smoothing: float
    category_weights: tuple[tuple[str, float], ...]
    class_weights: str
    mixup: float
    cutmix: float
    mixup_switch_prob: float
    mask_ratio: float
    decoder_mask_ratio: float
    normalize_cubes: bool
    accumulate_steps: int
    ema_decay: float
    lora_rank: int
    lora_alpha: float
    lora_layers: tuple[str, ...]
    lora_also: tuple[str, ...]
    freeze_norm: str
    norm_group: int
    precise_norm_batches: int
    remat: bool
    sharding: str
    mesh: str
    reduce_dtype: str
    log_steps: int
    eval_epochs: float
    patience: int
    checkpoint_steps: int
    stop_at_step: int

    @property
    def axes(self) -> str:
        """The mesh, as `devices.placement.make_mesh` takes it: `sharding` is a word for some."""
        return self.mesh or ("fsdp:-1" if self.sharding == "fsdp" else "")


@dataclasses.dataclass(frozen=True)
class Optim:
    """The optimizer, its rate at each step, and which parameters differ in theirs."""

    name: str
    lr: float
    momentum: float
    nesterov: bool
    betas: tuple[float, float]
    weight_decay: float
    lr_scales: tuple[tuple[str, float], ...]
    layer_decay: float
    freeze: tuple[str, ...]
    no_decay: tuple[str, ...]
    clip_norm: float
    schedule: str
    milestones: tuple[float, ...]
    gamma: float
    final_lr: float
    cosine_epochs: float
    cosine_from: str
    schedule_every: str
    warmup_epochs: float
    warmup_factor: float
    warmup: str
    warmup_every: str


@dataclasses.dataclass(frozen=True)
class Test:
    """The published test, and how it is computed."""

    __test__ = False  # pytest takes it for a test where it is imported

    sampling: Sampling
    short_side: int
    crops: str
    crop: int
    average: str
    weights: str
    batch_size: int
    views_per_step: int

    @property
    def protocol(self) -> Protocol:
        """The part of it that is published."""
        return Protocol(self.sampling, self.short_side, self.crops, self.crop, self.average)

    @property
    def views(self) -> int:
        """The views of one video."""
        return self.sampling.views * CROP_COUNTS[self.crops]


@dataclasses.dataclass(frozen=True)
class Config:
    """All that a run is told."""

    seed: int
    init: str
    model: Model
    data: Data
    train: Train
    optim: Optim
    test: Test

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts, tuples and values, by the names of the fields."""
        return dataclasses.asdict(self)


def from_dict(values: Mapping[str, Any]) -> Config:
    """The config of plain values, such as `Config.to_dict` gives or JSON holds.

    Raises:
      TypeError, AttributeError, KeyError: fields lack or are too many; `fields.check` says it in
        a sentence.
    """
    groups = {field.name: field.type for field in dataclasses.fields(Config)}
    made = {}
    for name, value in values.items():
        kind = groups.get(name)
        made[name] = _part(kind, value) if dataclasses.is_dataclass(kind) else value
    return Config(**made)


def _part(kind: Any, values: Mapping[str, Any]) -> Any:
    given = {name: _frozen(value) for name, value in values.items()}
    if "sampling" in given:
        given["sampling"] = Sampling(**given["sampling"])
    return kind(**given)


def _frozen(value: Any) -> Any:
    """Lists as tuples, also within them."""
    return tuple(map(_frozen, value)) if isinstance(value, list | tuple) else value
