"""The residual trunk of every 2-D and inflated 3-D network (He et al., 2016; Carreira, 2017).

A frame network is the case in which every temporal kernel is 1. What a family adds along time
enters through `hook`, which the blocks call at named places; the trunk knows no family.
"""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax

from jaxvid.layers import lanes, names
from jaxvid.layers.conv import Conv
from jaxvid.layers.norm import BatchNorm
from jaxvid.layers.pool import max_pool

Triple = tuple[int, int, int]

DEPTHS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}

HE_FAN_OUT = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


class Place(NamedTuple):
    """Where in the trunk a hook is called.

    `point` is one of `block_in`, `conv1_in`, `conv1_out`, `conv2_out` and `block_out`; `stage`
    counts from 1, `block` from 0 within a stage of `blocks`.
    """

    stage: int
    block: int
    blocks: int
    point: str


Hook = Callable[[Place, jax.Array, bool], jax.Array]
"""(place, x [B, T, H, W, C], train) -> x. Runs in the block: modules it makes are its children."""


def no_hook(place: Place, x: jax.Array, train: bool) -> jax.Array:
    """Leaves everything as it is: the plain trunk."""
    return x


def chain(*hooks: Hook) -> Hook:
    """All of `hooks` at every place, one after another."""

    def hook(place: Place, x: jax.Array, train: bool) -> jax.Array:
        for each in hooks:
            x = each(place, x, train)
        return x

    return hook


class ConvNorm(nn.Module):
    """Convolution without bias, batch normalisation and, with `relu`, a ReLU."""

    features: int
    kernel_size: Triple
    stride: Triple = (1, 1, 1)
    padding: Triple = (0, 0, 0)
    groups: int = 1
    relu: bool = True
    epsilon: float = 1e-5
    momentum: float = 0.1
    zero_init: bool = False
    kernel_init: nn.initializers.Initializer = HE_FAN_OUT
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps x [B, T, H, W, C] to [B, T', H', W', features]."""
        x = Conv(
            self.features,
            self.kernel_size,
            stride=self.stride,
            padding=self.padding,
            groups=self.groups,
            kernel_init=self.kernel_init,
            dtype=self.dtype,
            name="conv",
        )(x)
        x = BatchNorm(
            self.epsilon,
            self.momentum,
            nn.initializers.zeros if self.zero_init else nn.initializers.ones,
            dtype=self.dtype,
            name="bn",
        )(x, train)
        return lanes.each(nn.relu, x) if self.relu else x


def _joined(x: jax.Array, y: jax.Array) -> jax.Array:
    return nn.relu(x + y)


class ResidualBlock(nn.Module):
    """What the two kinds of block are told; `stage`, `block` and `blocks` are those of `Place`."""

    width: int
    stage: int
    block: int
    blocks: int
    stride: Triple = (1, 1, 1)
    temporal: int = 1
    hook: Hook = no_hook
    zero_init: bool = False
    epsilon: float = 1e-5
    momentum: float = 0.1
    dtype: Any = None

    @nn.nowrap
    def at(self, point: str, x: jax.Array, train: bool) -> jax.Array:
        """Calls the hook at a place of this block."""
        return self.hook(Place(self.stage, self.block, self.blocks, point), x, train)


class BasicBlock(ResidualBlock):
    """Two 3x3 convolutions and a shortcut; `temporal` is conv1's and conv2's temporal kernel.

    `unit` makes a convolution with its norm.
    """

    expansion = 1
    unit: Callable[..., nn.Module] = ConvNorm

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps x [B, T, H, W, C] to [B, T', H', W', width]."""
        shared = {"epsilon": self.epsilon, "momentum": self.momentum, "dtype": self.dtype}
        kernel, pad = (self.temporal, 3, 3), (self.temporal // 2, 1, 1)
        x = self.at("block_in", x, train)
        y = self.at("conv1_in", x, train)
        y = self.unit(self.width, kernel, self.stride, pad, name="conv1", **shared)(y, train)
        y = self.at("conv1_out", y, train)
        y = self.unit(
            self.width,
            kernel,
            padding=pad,
            relu=False,
            zero_init=self.zero_init,
            name="conv2",
            **shared,
        )(y, train)
        if self.block == 0 and (self.stride != (1, 1, 1) or x.shape[-1] != self.width):
            x = self.unit(
                self.width, (1, 1, 1), self.stride, relu=False, name="downsample", **shared
            )(x, train)
        return self.at("block_out", lanes.each(_joined, x, y), train)


class Bottleneck(ResidualBlock):
    """1x1, 3x3, 1x1 convolutions and a shortcut; conv2 carries the stride.

    `temporal` is conv1's temporal kernel (the 3x1x1 style of inflation). ResNeXt (Xie et al., CVPR
    2017) has conv2 in `groups`, each `group_width` wide in stage 1 and twice as wide a stage later.
    """

    expansion = 4
    groups: int = 1
    group_width: int = 64

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps x [B, T, H, W, C] to [B, T', H', W', 4 * width]."""
        shared = {"epsilon": self.epsilon, "momentum": self.momentum, "dtype": self.dtype}
        features = self.width * self.expansion
        inner = self.width * self.group_width // 64 * self.groups
        x = self.at("block_in", x, train)
        y = self.at("conv1_in", x, train)
        y = ConvNorm(
            inner,
            (self.temporal, 1, 1),
            padding=(self.temporal // 2, 0, 0),
            name="conv1",
            **shared,
        )(y, train)
        y = self.at("conv1_out", y, train)
        y = ConvNorm(inner, (1, 3, 3), self.stride, (0, 1, 1), self.groups, name="conv2", **shared)(
            y, train
        )
        y = self.at("conv2_out", y, train)
        y = ConvNorm(
            features, (1, 1, 1), relu=False, zero_init=self.zero_init, name="conv3", **shared
        )(y, train)
        if self.block == 0 and (self.stride != (1, 1, 1) or x.shape[-1] != features):
            x = ConvNorm(features, (1, 1, 1), self.stride, relu=False, name="downsample", **shared)(
                x, train
            )
        return self.at("block_out", lanes.each(_joined, x, y), train)


class ResNet(nn.Module):
    """Stem, four stages of residual blocks, and every intermediate by name.

    `inflate` gives, per stage, the temporal kernels of its blocks, repeated as often as needed.
    `temporal_strides` and `spatial_strides` are those of each stage's first block. `stem_pool` is
    the stride of the stem's pooling and `stem_pool_padding` its padding. `pool2` halves time after
    stage 1. `stem_unit` makes the stem's convolution with its norm. With `packs` narrow arrays
    are packed into `lanes` on TPU, which is nothing for blocks whose convolutions are in groups.
    """

    depths: Sequence[int] = DEPTHS[50]
    block: Callable[..., nn.Module] = Bottleneck
    width: int = 64
    stem_kernel: Triple = (1, 7, 7)
    stem_stride: Triple = (1, 2, 2)
    stem_pool: Triple | None = (1, 2, 2)
    stem_pool_padding: Triple = (0, 1, 1)
    stem_unit: Callable[..., nn.Module] = ConvNorm
    inflate: Sequence[Sequence[int]] = ((1,), (1,), (1,), (1,))
    spatial_strides: Sequence[int] = (1, 2, 2, 2)
    temporal_strides: Sequence[int] = (1, 1, 1, 1)
    pool2: bool = False
    packs: bool = False
    hook: Hook = no_hook
    zero_init: bool = False
    epsilon: float = 1e-5
    momentum: float = 0.1
    dtype: Any = None

    @nn.compact
    def __call__(
        self, video: jax.Array, train: bool = False
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Maps video [B, T, H, W, C] to features [B, T', H', W', C'] and the intermediates."""
        out = {}
        stride = self.stem_stride[2] * (self.stem_pool[2] if self.stem_pool else 1)
        columns = video.shape[3] // stride
        with lanes.packing(self.width, columns) if self.packs else contextlib.nullcontext():
            x = self.stem_unit(
                self.width,
                self.stem_kernel,
                self.stem_stride,
                tuple(k // 2 for k in self.stem_kernel),
                epsilon=self.epsilon,
                momentum=self.momentum,
                dtype=self.dtype,
                name="conv1",
            )(video, train)
            if self.stem_pool:
                x = max_pool(x, (1, 3, 3), self.stem_pool, self.stem_pool_padding)
            out["stem"] = x
            for i, blocks in enumerate(self.depths):
                for j in range(blocks):
                    spatial = self.spatial_strides[i] if j == 0 else 1
                    x = self.block(
                        width=self.width * 2**i,
                        stage=i + 1,
                        block=j,
                        blocks=blocks,
                        stride=(self.temporal_strides[i] if j == 0 else 1, spatial, spatial),
                        temporal=self.inflate[i][j % len(self.inflate[i])],
                        hook=self.hook,
                        zero_init=self.zero_init,
                        epsilon=self.epsilon,
                        momentum=self.momentum,
                        dtype=self.dtype,
                        name=f"layer{i + 1}_{j}",
                    )(x, train)
                out[f"stage{i + 1}"] = x
                if i == 0 and self.pool2:
                    x = max_pool(x, (2, 1, 1), (2, 1, 1))
        return x, out


def stem_names(conv: str) -> list[names.Rule]:
    """Name rules of the stem of a trunk at `backbone.`; `conv` is its convolution's layout."""
    return names.conv_norm("backbone.conv1", "backbone/conv1", conv)


def block_names(conv: str, block: str = "layer{s}.{b}", conv1: str = "conv") -> list[names.Rule]:
    """Name rules of the blocks of a trunk at `backbone.`, whose convolutions have layout `conv`.

    `block` is what a block is called, with its stage `{s}` and its number `{b}`; `{b:0|2}` picks
    the blocks 0 and 2. `conv1` is what the convolution of its first unit is called below `conv1.`.
    A temporal wrapper lengthens either.
    """
    path = "backbone/layer{s}_{b}"
    others = "{c:conv2|conv3|downsample}"
    return [
        *names.conv(f"backbone.{block}.conv1.{conv1}", f"{path}/conv1/conv", conv),
        *names.batch_norm(f"backbone.{block}.conv1.bn", f"{path}/conv1/bn"),
        *names.conv_norm(f"backbone.{block}.{others}", f"{path}/{others}", conv),
    ]


def resnet_names(conv: str, conv1: str = "conv") -> list[names.Rule]:
    """Name rules of a trunk at `backbone.` all of whose blocks are called alike."""
    return [*stem_names(conv), *block_names(conv, conv1=conv1)]


def image_resnet_names(prefix: str = "", conv: str = "conv2d") -> list[names.Rule]:
    """Name rules of a ResNet or ResNeXt as torchvision, timm and mmpretrain call its layers.

    `prefix` stands before every key; ours are those of a trunk at `backbone/`. `conv` is the layout
    of its convolutions.
    """
    block, path = f"{prefix}layer{{s}}.{{b}}", "backbone/layer{s}_{b}"
    return [
        *names.conv(f"{prefix}conv1", "backbone/conv1/conv", conv),
        *names.batch_norm(f"{prefix}bn1", "backbone/conv1/bn"),
        *names.conv(f"{block}.conv{{c}}", f"{path}/conv{{c}}/conv", conv),
        *names.batch_norm(f"{block}.bn{{c}}", f"{path}/conv{{c}}/bn"),
        *names.conv(f"{block}.downsample.0", f"{path}/downsample/conv", conv),
        *names.batch_norm(f"{block}.downsample.1", f"{path}/downsample/bn"),
    ]
