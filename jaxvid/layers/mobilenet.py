"""MobileNetV2's trunk on frames (Sandler et al., "MobileNetV2", CVPR 2018)."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax

from jaxvid.layers import names
from jaxvid.layers.conv import Conv
from jaxvid.layers.norm import BatchNorm
from jaxvid.layers.resnet import Hook, Place, no_hook

# Per stage: how many times wider a block is inside, its width, the blocks, the first one's stride.
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


class ConvNorm6(nn.Module):
    """Convolution without bias, batch normalisation and, with `relu`, a ReLU up to 6."""

    features: int
    size: int = 1
    stride: int = 1
    groups: int = 1
    relu: bool = True
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps x [B, T, H, W, C] to [B, T, H', W', features]."""
        half = self.size // 2
        x = Conv(
            self.features,
            (1, self.size, self.size),
            stride=(1, self.stride, self.stride),
            padding=(0, half, half),
            groups=self.groups,
            kernel_init=nn.initializers.variance_scaling(2.0, "fan_out", "normal"),
            dtype=self.dtype,
            name="conv",
        )(x)
        x = BatchNorm(dtype=self.dtype, name="bn")(x, train)
        return nn.relu6(x) if self.relu else x


class InvertedResidual(nn.Module):
    """Expands, convolves each channel apart, projects; a shortcut where nothing changes shape.

    `hook` is called at `conv1_in`, the input of the expansion, of a block that has a shortcut.
    """

    place: Place
    expansion: int
    width: int
    stride: int = 1
    hook: Hook = no_hook
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps x [B, T, H, W, C] to [B, T, H', W', width]."""
        inner = x.shape[-1] * self.expansion
        shortcut = self.stride == 1 and x.shape[-1] == self.width
        y = x
        if self.expansion != 1:
            if shortcut:
                y = self.hook(self.place, y, train)
            y = ConvNorm6(inner, dtype=self.dtype, name="expand")(y, train)
        y = ConvNorm6(inner, 3, self.stride, inner, dtype=self.dtype, name="depthwise")(y, train)
        y = ConvNorm6(self.width, relu=False, dtype=self.dtype, name="project")(y, train)
        return x + y if shortcut else y


class MobileNetV2(nn.Module):
    """Stem, stages of inverted residuals as in `STAGES`, and a last 1x1 convolution."""

    stages: Sequence[tuple[int, int, int, int]] = STAGES
    stem_width: int = 32
    features: int = 1280
    hook: Hook = no_hook
    dtype: Any = None

    @nn.compact
    def __call__(
        self, video: jax.Array, train: bool = False
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Maps video [B, T, H, W, C] to features [B, T, H', W', C'] and the intermediates."""
        out = {}
        x = ConvNorm6(self.stem_width, 3, 2, dtype=self.dtype, name="conv1")(video, train)
        out["stem"] = x
        for i, (expansion, width, blocks, stride) in enumerate(self.stages, start=1):
            for j in range(blocks):
                x = InvertedResidual(
                    Place(i, j, blocks, "conv1_in"),
                    expansion,
                    width,
                    stride if j == 0 else 1,
                    hook=self.hook,
                    dtype=self.dtype,
                    name=f"layer{i}_{j}",
                )(x, train)
            out[f"stage{i}"] = x
        return ConvNorm6(self.features, dtype=self.dtype, name="conv2")(x, train), out


def mobilenet_names(prefix: str = "backbone.", wrapper: str = "") -> list[names.Rule]:
    """Name rules of MMAction2's and mmpretrain's MobileNetV2 behind `prefix`.

    `wrapper` lengthens what the expansion is called in blocks with a shortcut.
    """
    wide = "{s:2|3|4|5|6|7}"
    units = [
        ("layer{s:1}.{b}", "conv.0", "depthwise"),
        ("layer{s:1}.{b}", "conv.1", "project"),
        (f"layer{wide}.{{b:0}}", "conv.0", "expand"),
        (f"layer{wide}.{{b:1|2|3}}", f"conv.0{wrapper}", "expand"),
        (f"layer{wide}.{{b}}", "conv.1", "depthwise"),
        (f"layer{wide}.{{b}}", "conv.2", "project"),
    ]
    rules = names.conv_norm(f"{prefix}{{c:conv1|conv2}}", "backbone/{c:conv1|conv2}", "conv2d")
    for block, key, unit in units:
        path = f"backbone/{block.replace('.', '_')}/{unit}"
        rules += names.conv_norm(f"{prefix}{block}.{key}", path, "conv2d")
    return rules


def torchvision_mobilenet_names() -> list[names.Rule]:
    """Name rules of torchvision's MobileNetV2, which counts its blocks through all stages."""
    last = sum(blocks for _, _, blocks, _ in STAGES) + 1
    units = [("features.0.0", "features.0.1", "conv1")]
    units += [(f"features.{last}.0", f"features.{last}.1", "conv2")]
    places = [(i, j) for i, stage in enumerate(STAGES, start=1) for j in range(stage[2])]
    for number, (i, j) in enumerate(places, start=1):
        key, path = f"features.{number}.conv", f"layer{i}_{j}"
        inside = ["depthwise"] if STAGES[i - 1][0] == 1 else ["expand", "depthwise"]
        units += [(f"{key}.{k}.0", f"{key}.{k}.1", f"{path}/{u}") for k, u in enumerate(inside)]
        end = len(inside)
        units += [(f"{key}.{end}", f"{key}.{end + 1}", f"{path}/project")]
    return _unit_names(units)


def timm_mobilenet_names() -> list[names.Rule]:
    """Name rules of timm's MobileNetV2, which counts its stages from 0."""
    units = [("conv_stem", "bn1", "conv1"), ("conv_head", "bn2", "conv2")]
    for i, (expansion, *_) in enumerate(STAGES, start=1):
        inside = ["conv_dw", "conv_pw"] if expansion == 1 else ["conv_pw", "conv_dw", "conv_pwl"]
        ours = ["expand", "depthwise", "project"][-len(inside) :]
        for number, (conv, unit) in enumerate(zip(inside, ours, strict=True), start=1):
            key = f"blocks.{i - 1}.{{b}}"
            units += [(f"{key}.{conv}", f"{key}.bn{number}", f"layer{i}_{{b}}/{unit}")]
    return _unit_names(units)


def _unit_names(units: Sequence[tuple[str, str, str]]) -> list[names.Rule]:
    """Name rules of convolutions and their norms: (convolution, norm, our unit) each."""
    rules = []
    for conv, norm, unit in units:
        rules += names.conv(conv, f"backbone/{unit}/conv", "conv2d")
        rules += names.batch_norm(norm, f"backbone/{unit}/bn")
    return rules
