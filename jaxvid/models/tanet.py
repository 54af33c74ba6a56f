"""Temporal adaptive module (Liu et al., "TAM", ICCV 2021).

In: video [B, T, H, W, C], one frame from each of T segments. Out: logits [B, classes].
What sets it apart from TSM: the temporal kernel between a block's first two convolutions is not
fixed. Each clip makes its own, one per channel, from how that channel's mean runs over all frames,
and weighs each frame of a channel by what happens around it. The number of segments is part of the
weights.
"""

from dataclasses import replace
from typing import Any

import flax.linen as nn
import jax

from jaxvid.layers import names
from jaxvid.layers.conv import Conv
from jaxvid.layers.heads import MeanHead
from jaxvid.layers.norm import BatchNorm
from jaxvid.layers.resnet import DEPTHS, Bottleneck, Hook, Place, ResNet, block_names, stem_names
from jaxvid.layers.temporal import temporal_conv_per_sample
from jaxvid.rows import (
    CLASS_COUNTS,
    OPENMMLAB_V1,
    STHV1_MIRRORED,
    Protocol,
    Recipe,
    Row,
    Sampling,
)

KERNEL = 3
# How much wider the hidden layer of the kernel's network is than the clip is long, and how many
# times fewer channels than its input the hidden layer of the weights' network has.
WIDENING, SQUEEZE = 2, 4

# As PyTorch draws the weights of a new layer: uniform within 1 / sqrt(inputs).
_INIT = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


class TemporalAdaptive(nn.Module):
    """Weights the frames of each channel, then convolves them with the clip's own kernel."""

    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps x [B, T, H, W, C] to the same shape."""
        means = x.mean((2, 3))  # [B, T, C]
        weights = self.frame_weights(means, train)
        kernel = self.kernel(means, train)
        return temporal_conv_per_sample(x * weights, kernel)

    @nn.nowrap
    def kernel(self, means: jax.Array, train: bool) -> jax.Array:
        """Maps the means [B, T, C] to a kernel [B, 3, C] whose taps sum to 1; sees all frames."""
        dense = {"use_bias": False, "kernel_init": _INIT, "dtype": self.dtype}
        y = means.swapaxes(1, 2)  # Channels share one network: they are further samples.
        y = nn.Dense(WIDENING * y.shape[-1], name="kernel_fc1", **dense)(y)
        y = nn.relu(BatchNorm(dtype=self.dtype, name="kernel_bn")(y, train))
        y = nn.Dense(KERNEL, name="kernel_fc2", **dense)(y)
        return nn.softmax(y).swapaxes(1, 2)

    @nn.nowrap
    def frame_weights(self, means: jax.Array, train: bool) -> jax.Array:
        """Maps the means [B, T, C] to weights [B, T, 1, 1, C] in (0, 1); sees adjacent frames."""
        conv = {"kernel_init": _INIT, "dtype": self.dtype}
        channels = means.shape[-1]
        y = means[:, :, None, None]
        y = Conv(
            channels // SQUEEZE, (KERNEL, 1, 1), padding=(1, 0, 0), name="weights_conv1", **conv
        )(y)
        y = nn.relu(BatchNorm(dtype=self.dtype, name="weights_bn")(y, train))
        return nn.sigmoid(Conv(channels, name="weights_conv2", **conv)(y))


def adaptive_hook(dtype: Any) -> Hook:
    """Puts the module between conv1 and conv2 of every block."""

    def hook(place: Place, x: jax.Array, train: bool) -> jax.Array:
        if place.point == "conv1_out":
            return TemporalAdaptive(dtype, name="tam")(x, train)
        return x

    return hook


class TANet(nn.Module):
    """A ResNet of bottlenecks on frames with adaptive modules, and the mean of the frames' scores.

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
            Bottleneck,
            width=self.width,
            hook=adaptive_hook(self.dtype),
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


Model = TANet

FAMILY = "TANet"
VARIANTS = {
    "tanet_r50_8f": {"depth": 50},
    "tanet_r50_16f": {"depth": 50, "dropout": 0.6},
    "tanet_test": {"depth": 50, "blocks": (1, 1, 1, 1), "width": 8},
}

_KEY, _PATH = "backbone.layer{s}.{b}.tam", "backbone/layer{s}_{b}/tam"
NAMES = [
    *stem_names("conv2d"),
    *block_names("conv2d", block="layer{s}.{b}.block"),
    *names.dense(f"{_KEY}.G.0", f"{_PATH}/kernel_fc1", bias=False),
    *names.batch_norm(f"{_KEY}.G.1", f"{_PATH}/kernel_bn"),
    *names.dense(f"{_KEY}.G.3", f"{_PATH}/kernel_fc2", bias=False),
    *names.conv(f"{_KEY}.L.0", f"{_PATH}/weights_conv1", "conv1d"),
    *names.batch_norm(f"{_KEY}.L.1", f"{_PATH}/weights_bn"),
    *names.conv(f"{_KEY}.L.3", f"{_PATH}/weights_conv2", "conv1d"),
    *names.dense("cls_head.fc_cls", "head/fc"),
]

# Rows: what the tables of TANet publish.

# Typed 103.5 in its configs, not 103.53 as everywhere else.
_MEAN = (123.675, 116.28, 103.5)
_SGD = Recipe(
    epochs=100,
    batch_size=64,
    lr=0.01,
    decay_norm_and_bias=False,
    clip_norm=20.0,
    milestones=(50, 75, 90),
    head_lr_scale=5.0,
    bias_lr_scale=2.0,
    norm_groups=8,
    crop_mode="multi_scale",
    fixed_crops=13,
)
_SGD_STHV1 = replace(
    _SGD,
    epochs=50,
    weight_decay=1e-3,
    milestones=(30, 40, 45),
    mirrored_labels=STHV1_MIRRORED,
)


def _row(
    name: str,
    test: Sampling,
    dataset: str,
    recipe: Recipe,
    top1: float,
    top5: float,
    upstream: str,
    date: str,
    note: str,
    dropout: float | None = None,
) -> Row:
    """`test` is also how training samples, but that training draws each segment's frame once.

    `dropout` is the row's where it is not its variant's.
    """
    return Row(
        name=name,
        variant=f"tanet_r50_{test.num_clips}f",
        dataset=dataset,
        num_classes=CLASS_COUNTS[dataset],
        train=replace(test, twice_sample=False),
        test=Protocol(test, crops="three", crop=256),
        recipe=recipe,
        mean=_MEAN,
        top1=top1,
        top5=top5,
        source=f"{OPENMMLAB_V1}/tanet/{upstream}/{upstream}_{date}.pth",
        upstream=upstream,
        section="Kinetics-400" if dataset == "kinetics400" else "Something-Something V1",
        config=f"mmaction2/configs/recognition/tanet/{upstream}.py",
        pretrained="ImageNet",
        note=note,
        overrides={} if dropout is None else {"dropout": dropout},
    )


# fmt: off
ROWS = [
    _row("tanet_r50_dense_1x1x8_k400", Sampling("dense", num_clips=8), "kinetics400", _SGD,
         76.25, 92.41,
         "tanet_imagenet-pretrained-r50_8xb8-dense-1x1x8-100e_kinetics400-rgb",
         "20220919-a34346bc",
         note="printed 8x3, but its config takes the 8 frames at each of 10 positions"),
    _row("tanet_r50_1x1x8_sthv1", Sampling(num_clips=8, twice_sample=True), "sthv1", _SGD_STHV1,
         49.71, 77.43,
         "tanet_imagenet-pretrained-r50_8xb8-1x1x8-50e_sthv1-rgb", "20220906-de50e4ef",
         dropout=0.6,
         note="printed 46.98/49.71 and 75.75/77.43: the former are of 8 frames and one centre crop "
              "of 224, the latter of this test"),
    _row("tanet_r50_1x1x16_sthv1", Sampling(num_clips=16, twice_sample=True), "sthv1",
         replace(_SGD_STHV1, batch_size=48, lr=0.0075), 50.95, 79.28,
         "tanet_imagenet-pretrained-r50_8xb6-1x1x16-50e_sthv1-rgb", "20220919-cc37e9b8",
         note="printed 16x3, 48.24/50.95 and 78.16/79.28: the former are of 16 frames and one "
              "centre crop of 224, as its config tests, the latter of this test; the table's 86.1G "
              "FLOPs are those of a crop of 256: 224 make 65.5G"),
]
# fmt: on
