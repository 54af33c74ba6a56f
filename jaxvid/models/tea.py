"""Temporal excitation and aggregation (Li et al., "TEA", CVPR 2020).

In: video [B, T, H, W, C], one frame from each of T segments. Out: logits [B, classes].
What sets it apart from TSM: its blocks are those of Res2Net-50 (26w x 4s), whose 3x3 convolutions
follow one another on four groups of channels. Before each lies a depthwise convolution along time,
which starts as TSM's shift on the last group, so that the groups see further and further in time;
and before all of them the channels that differ from frame to frame are excited.
"""

from dataclasses import replace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxvid.layers import names
from jaxvid.layers.conv import Conv
from jaxvid.layers.heads import MeanHead
from jaxvid.layers.resnet import DEPTHS, ConvNorm, ResidualBlock, ResNet, Triple
from jaxvid.rows import CLASS_COUNTS, NORMS_UNKNOWN, Protocol, Recipe, Row, Sampling

# Groups of channels in a block, and the channels of each where a plain ResNet has 64.
GROUPS, GROUP_WIDTH = 4, 26
SQUEEZE = 16
_INIT = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


def stay(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    """Temporal kernels [3, 1, 1, 1, C] that leave every frame where it is."""
    return jnp.zeros(shape, dtype).at[1].set(1)


def move(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    """Temporal kernels [3, 1, 1, 1, C] that shift: half of the channels each way, as TSM does."""
    half = shape[-1] // 2
    taps = jnp.ones(shape[-1], jnp.int32).at[:half].set(2).at[half : 2 * half].set(0)
    return nn.one_hot(taps, 3, dtype=dtype, axis=0).reshape(shape)


def mean_pool(x: jax.Array, stride: Triple) -> jax.Array:
    """Means over 3x3 pixels of x [B, T, H, W, C]; zeros around the picture count."""
    frames = x.reshape(-1, *x.shape[2:])
    frames = nn.avg_pool(frames, (3, 3), stride[1:], [(1, 1), (1, 1)])
    return frames.reshape(*x.shape[:2], *frames.shape[1:])


class MotionExcitation(nn.Module):
    """Weighs the channels of each frame by how the next one differs from it."""

    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps x [B, T, H, W, C] to the same shape."""
        squeezed = x.shape[-1] // SQUEEZE
        point = (1, 1, 1)
        y = ConvNorm(squeezed, point, relu=False, dtype=self.dtype, name="conv1")(x, train)
        following = Conv(
            squeezed,
            (1, 3, 3),
            padding=(0, 1, 1),
            groups=squeezed,
            kernel_init=_INIT,
            dtype=self.dtype,
            name="conv2",
        )(y[:, 1:])
        motion = (following - y[:, :-1]).mean((2, 3), keepdims=True)
        # Nothing follows the last frame: it counts as unmoved.
        motion = jnp.pad(motion, ((0, 0), (0, 1), (0, 0), (0, 0), (0, 0)))
        motion = ConvNorm(x.shape[-1], point, relu=False, dtype=self.dtype, name="conv3")(
            motion, train
        )
        return x + x * (nn.sigmoid(motion) - 0.5)


class AggregationBlock(ResidualBlock):
    """Bottleneck whose middle is four groups of channels, each after a convolution along time.

    A group is added to what the one before became, but in the first block of a stage, where all
    are apart; the last has no 3x3 convolution.
    """

    expansion = 4

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps x [B, T, H, W, C] to [B, T, H', W', 4 * width]."""
        shared = {"epsilon": self.epsilon, "momentum": self.momentum, "dtype": self.dtype}
        features, width = self.width * self.expansion, self.width * GROUP_WIDTH // 64
        first = self.block == 0
        y = ConvNorm(GROUPS * width, (1, 1, 1), name="conv1", **shared)(x, train)
        y = MotionExcitation(self.dtype, name="me")(y, train)
        *groups, last = jnp.split(y, GROUPS, axis=-1)
        parts: list[jax.Array] = []
        for i, group in enumerate(groups):
            y = group if first or not parts else group + parts[-1]
            y = self.along_time(width, stay, f"shift{i}")(y)
            y = ConvNorm(width, (1, 3, 3), self.stride, (0, 1, 1), name=f"conv2_{i}", **shared)(
                y, train
            )
            parts.append(y)
        last = self.along_time(width, move, f"shift{len(parts)}")(last)
        parts.append(mean_pool(last, self.stride) if first else last)
        y = jnp.concatenate(parts, axis=-1)
        y = ConvNorm(features, (1, 1, 1), relu=False, name="conv3", **shared)(y, train)
        if first:
            x = ConvNorm(features, (1, 1, 1), self.stride, relu=False, name="downsample", **shared)(
                x, train
            )
        return nn.relu(x + y)

    @nn.nowrap
    def along_time(self, width: int, init: nn.initializers.Initializer, name: str) -> Conv:
        return Conv(
            width,
            (3, 1, 1),
            padding=(1, 0, 0),
            groups=width,
            kernel_init=init,
            dtype=self.dtype,
            name=name,
        )


class TEA(nn.Module):
    """A Res2Net on frames that sees motion, and the mean of the frames' scores.

    `depth` is a key of `layers.resnet.DEPTHS`; `blocks` and `width` override its stages.
    """

    num_classes: int = 174
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
            AggregationBlock,
            width=self.width,
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


Model = TEA

FAMILY = "TEA"
VARIANTS = {
    "tea_r50_8f": {"depth": 50},
    "tea_r50_16f": {"depth": 50},
    "tea_test": {"depth": 50, "blocks": (1, 2), "width": 16},
}

# The authors' files are those of a network under DataParallel.
_NET = "module.base_model"
_KEY, _PATH = f"{_NET}.layer{{s}}.{{b}}", "backbone/layer{s}_{b}"
NAMES = [
    *names.conv(f"{_NET}.conv1", "backbone/conv1/conv", "conv2d"),
    *names.batch_norm(f"{_NET}.bn1", "backbone/conv1/bn"),
    *names.conv(f"{_KEY}.conv{{i:1|3}}", f"{_PATH}/conv{{i:1|3}}/conv", "conv2d"),
    *names.batch_norm(f"{_KEY}.bn{{i:1|3}}", f"{_PATH}/conv{{i:1|3}}/bn"),
    *names.conv(f"{_KEY}.me.conv{{i:1|3}}", f"{_PATH}/me/conv{{i:1|3}}/conv", "conv2d"),
    *names.batch_norm(f"{_KEY}.me.bn{{i:1|3}}", f"{_PATH}/me/conv{{i:1|3}}/bn"),
    *names.conv(f"{_KEY}.me.conv2", f"{_PATH}/me/conv2", "conv2d"),
    *names.conv(f"{_KEY}.shifts.{{i}}.conv", f"{_PATH}/shift{{i}}", "conv1d"),
    *names.conv(f"{_KEY}.convs.{{i}}", f"{_PATH}/conv2_{{i}}/conv", "conv2d"),
    *names.batch_norm(f"{_KEY}.bns.{{i}}", f"{_PATH}/conv2_{{i}}/bn"),
    *names.conv(f"{_KEY}.downsample.0", f"{_PATH}/downsample/conv", "conv2d"),
    *names.batch_norm(f"{_KEY}.downsample.1", f"{_PATH}/downsample/bn"),
    *names.dense("module.new_fc", "head/fc"),
]

# Rows: what VoV3D's tables quote of TEA's paper; its authors publish no weights.

_SGD = Recipe(
    epochs=50,
    batch_size=64,
    lr=0.02,
    weight_decay=5e-4,
    decay_norm_and_bias=False,
    clip_norm=20.0,
    milestones=(30, 40, 45),
    head_lr_scale=5.0,
    bias_lr_scale=2.0,
    crop_mode="multi_scale",
    fixed_crops=13,
    flip=0.0,
)
_SAMPLING = Sampling(num_clips=16)


def _row(version: int, top1: float, top5: float) -> Row:
    """The row of one version of Something-Something."""
    dataset = f"sthv{version}"
    return Row(
        name=f"tea_r50_1x1x16_{dataset}",
        variant="tea_r50_16f",
        dataset=dataset,
        num_classes=CLASS_COUNTS[dataset],
        train=_SAMPLING,
        test=Protocol(
            replace(_SAMPLING, twice_sample=True), crops="three", crop=256, average="score"
        ),
        recipe=_SGD,
        top1=top1,
        top5=top5,
        upstream=f"tea_r_50_im_f16_{dataset}",
        section=f"Something-Something-V{version}",
        pretrained="IM",
        note="printed 10x3, of draws at random as in training; here are two fixed ones; no weights "
        "are published, and the recipe is that of the authors' script for 8 frames of "
        f"Something-Something V1 (github.com/Phoenix1327/tea-action-recognition); {NORMS_UNKNOWN}",
    )


ROWS = [_row(1, 52.3, 81.9), _row(2, 65.1, 89.9)]
