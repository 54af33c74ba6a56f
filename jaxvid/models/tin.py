"""Temporal interlacing network (Shao, Qian and Liu, "Temporal Interlacing Network", AAAI 2020).

In: video [B, T, H, W, C], one frame from each of T segments. Out: logits [B, classes].
What sets it apart from TSM: a quarter of the channels moves along time, in four groups, by
distances that each clip's own features decide: fractions of a frame up to two, two groups forth
and two the same way back; and each frame that has moved is weighed. The number of segments is part
of the weights.
"""

from dataclasses import replace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxvid.layers import names
from jaxvid.layers.conv import Conv
from jaxvid.layers.heads import MeanHead
from jaxvid.layers.resnet import (
    DEPTHS,
    BasicBlock,
    Bottleneck,
    Hook,
    Place,
    ResNet,
    resnet_names,
)
from jaxvid.layers.temporal import temporal_conv_per_sample
from jaxvid.rows import CLASS_COUNTS, OPENMMLAB_V1, Protocol, Recipe, Row, Sampling

# Channels that move are 1 / DIVISOR of all, the distances learnt GROUPS: as many groups again move
# the same way back. No distance is longer than REACH frames.
DIVISOR, GROUPS, REACH = 4, 2, 2

# As PyTorch draws the weights of a new layer: uniform within 1 / sqrt(inputs).
_INIT = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
# A new network moves all clips by half a frame.
_START = nn.initializers.constant(0.5108)


def shift_kernel(distances: jax.Array) -> jax.Array:
    """Temporal kernels [B, 5, G] that move channels later by `distances` [B, G], at most 2 frames.

    Between frames they interpolate linearly.
    """
    # Tap k of a kernel reads the frame that is k - REACH later.
    later = jnp.arange(-REACH, REACH + 1, dtype=distances.dtype)[:, None]
    return nn.relu(1 - jnp.abs(later + distances[:, None]))


class TemporalInterlace(nn.Module):
    """Moves the first quarter of the channels along time, as the clip decides."""

    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps x [B, T, H, W, C] to the same shape."""
        moving = x.shape[-1] // DIVISOR
        means = x[..., :moving].mean((2, 3), keepdims=True)
        distances, weights = self.distances(means), self.frame_weights(means)
        # Four groups: two move by the distances, two by their negatives.
        each = moving // (2 * GROUPS)
        distances = jnp.repeat(jnp.concatenate([distances, -distances], -1), each, axis=-1)
        weights = jnp.repeat(jnp.concatenate([weights, weights], -1), each, axis=-1)
        moved = weights * temporal_conv_per_sample(x[..., :moving], shift_kernel(distances))
        return jnp.concatenate([moved, x[..., moving:]], axis=-1)

    @nn.nowrap
    def distances(self, means: jax.Array) -> jax.Array:
        """Maps the means [B, T, 1, 1, C] to distances [B, 2] between -2 and 2."""
        dense = {"kernel_init": _INIT, "dtype": self.dtype}
        y = self.temporal_conv(1, "distances_conv")(means)[:, :, 0, 0, 0]
        y = nn.relu(nn.Dense(y.shape[-1], name="distances_fc1", **dense)(y))
        y = nn.Dense(GROUPS, bias_init=_START, name="distances_fc2", **dense)(y)
        return 2 * REACH * (nn.sigmoid(y) - 0.5)

    @nn.nowrap
    def frame_weights(self, means: jax.Array) -> jax.Array:
        """Maps the means [B, T, 1, 1, C] to weights [B, T, 1, 1, 2] between 0 and 2."""
        return 2 * nn.sigmoid(self.temporal_conv(GROUPS, "weights_conv")(means))

    @nn.nowrap
    def temporal_conv(self, features: int, name: str) -> Conv:
        return Conv(
            features,
            (3, 1, 1),
            padding=(1, 0, 0),
            use_bias=True,
            kernel_init=_INIT,
            dtype=self.dtype,
            name=name,
        )


def interlace_hook(dtype: Any) -> Hook:
    """Interlaces the input of conv1 in every block, and no shortcut."""

    def hook(place: Place, x: jax.Array, train: bool) -> jax.Array:
        if place.point == "conv1_in":
            return TemporalInterlace(dtype, name="interlace")(x)
        return x

    return hook


class TIN(nn.Module):
    """A ResNet on frames with interlaced channels, and the mean of the frames' scores.

    `depth` is a key of `layers.resnet.DEPTHS`; `blocks` and `width` override its stages.
    """

    num_classes: int = 400
    depth: int = 50
    blocks: tuple[int, ...] | None = None
    width: int = 64
    dropout: float = 0.5
    dtype: Any = None

    @nn.compact
    def __call__(
        self, video: jax.Array, train: bool = False
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Maps video [B, T, H, W, C] to logits [B, classes] and the intermediates by name."""
        x, out = ResNet(
            self.blocks or DEPTHS[self.depth],
            BasicBlock if self.depth < 50 else Bottleneck,
            width=self.width,
            hook=interlace_hook(self.dtype),
            dtype=self.dtype,
            name="backbone",
        )(video, train)
        logits, out["pre_logits"] = MeanHead(
            self.num_classes,
            self.dropout,
            per_frame=True,
            init_std=0.001,
            dtype=self.dtype,
            name="head",
        )(x, train)
        return logits, out


Model = TIN

FAMILY = "TIN"
VARIANTS = {
    "tin_r50": {"depth": 50, "dropout": 0.8},
    "tin_r50_k400": {"depth": 50},
    "tin_test": {"depth": 18, "blocks": (1, 1, 1, 1), "width": 16},
}

_KEY, _PATH = "backbone.layer{s}.{b}.conv1.conv.net1", "backbone/layer{s}_{b}/interlace"
NAMES = [
    *resnet_names("conv2d", conv1="conv.net2"),
    *names.conv(f"{_KEY}.offset_net.conv", f"{_PATH}/distances_conv", "conv1d", bias=True),
    *names.dense(f"{_KEY}.offset_net.{{c:fc1|fc2}}", f"{_PATH}/distances_{{c:fc1|fc2}}"),
    *names.conv(f"{_KEY}.weight_net.conv", f"{_PATH}/weights_conv", "conv1d", bias=True),
    *names.dense("cls_head.fc_cls", "head/fc"),
]

# Rows: what the tables of TIN publish.

_SGD = Recipe(
    epochs=40,
    batch_size=48,
    lr=0.01,
    weight_decay=5e-4,
    decay_norm_and_bias=False,
    clip_norm=20.0,
    schedule="cosine",
    warmup_epochs=1,
    head_lr_scale=5.0,
    bias_lr_scale=2.0,
    norm_groups=8,
    crop_mode="multi_scale",
    flip=0.0,
)
_SGD_K400 = replace(
    _SGD,
    epochs=50,
    weight_decay=1e-4,
    clip_norm=40.0,
    schedule="step",
    milestones=(20, 40),
    warmup_epochs=0,
    flip=0.5,
    initial_weights="tsm_r50_1x1x8_k400",
)
_SAMPLING = Sampling(num_clips=8)


def _row(
    name: str,
    section: str,
    dataset: str,
    recipe: Recipe,
    top1: float,
    top5: float,
    upstream: str,
    date: str,
    note: str,
) -> Row:
    kinetics = dataset == "kinetics400"
    return Row(
        name=name,
        variant="tin_r50_k400" if kinetics else "tin_r50",
        dataset=dataset,
        num_classes=CLASS_COUNTS[dataset],
        train=_SAMPLING,
        test=Protocol(_SAMPLING),
        recipe=recipe,
        top1=top1,
        top5=top5,
        source=f"{OPENMMLAB_V1}/tin/{upstream}/{upstream}_{date}.pth",
        upstream=upstream,
        section=section,
        config=f"mmaction2/configs/recognition/tin/{upstream}.py",
        pretrained="TSM-Kinetics400" if kinetics else "ImageNet",
        note=note,
    )


# fmt: off
ROWS = [
    _row("tin_r50_1x1x8_sthv1", "Something-Something V1", "sthv1", _SGD, 39.68, 68.55,
         "tin_imagenet-pretrained-r50_8xb6-1x1x8-40e_sthv1-rgb", "20220913-9b7804d6",
         note="frames were stored 100 pixels high; the authors' own code gave 44.04"),
    _row("tin_r50_1x1x8_sthv2", "Something-Something V2", "sthv2", replace(_SGD, clip_norm=40.0),
         54.78, 82.18,
         "tin_imagenet-pretrained-r50_8xb6-1x1x8-40e_sthv2-rgb", "20220913-84f9b4b0",
         note="frames were stored 240 pixels high; the authors' own code gave 56.48"),
    _row("tin_r50_1x1x8_k400", "Kinetics-400", "kinetics400", _SGD_K400, 71.86, 90.44,
         "tin_kinetics400-pretrained-tsm-r50_1x1x8-50e_kinetics400-rgb", "20220913-7f10d0c0",
         note="the table links the config of Something-Something V2; this checkpoint's own starts "
              "from the TSM of 2020, which the table says is that of 2022"),
]
# fmt: on
