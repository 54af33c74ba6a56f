"""VoV3D (Lee et al., "Diverse Temporal Aggregation ...", arXiv 2012.00317).

In: video [B, T, H, W, C], one clip. Out: logits [B, classes].
What sets it apart from X3D, whose stem and head it keeps: a block is a chain of small bottlenecks,
all of whose outputs are concatenated and merged once (T-OSA), so that it sees several lengths of
time at a time; and the depthwise 3x3x3 convolution of a bottleneck is split into one over space and
one over time (D(2+1)D).
"""

from dataclasses import replace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxvid.layers import names
from jaxvid.layers.conv import Conv
from jaxvid.layers.expanded import ExpandedHead, ExpandedStem, kernel_init, pyslowfast_ends
from jaxvid.layers.norm import BatchNorm
from jaxvid.layers.resnet import ConvNorm
from jaxvid.layers.squeeze import SqueezeExcite, rounded_width, squeeze_names
from jaxvid.rows import CLASS_COUNTS, Protocol, Recipe, Row, Sampling


class Bottleneck(nn.Module):
    """A D(2+1)D bottleneck of `inner` channels that ends in half as many.

    There is a shortcut where shapes allow; with `squeeze` the inner channels are scaled by
    squeeze-excitation.
    """

    inner: int
    stride: int = 1
    squeeze: bool = False
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps x [B, T, H, W, C] to [B, T, H / stride, W / stride, inner / 2]."""
        depthwise = {"groups": self.inner, "kernel_init": kernel_init, "dtype": self.dtype}
        y = ConvNorm(self.inner, (1, 1, 1), dtype=self.dtype, name="conv1")(x, train)
        stride = (1, self.stride, self.stride)
        y = Conv(self.inner, (1, 3, 3), stride, (0, 1, 1), name="conv2_s", **depthwise)(y)
        y = Conv(self.inner, (3, 1, 1), padding=(1, 0, 0), name="conv2_t", **depthwise)(y)
        y = BatchNorm(dtype=self.dtype, name="bn2")(y, train)
        if self.squeeze:
            y = SqueezeExcite(rounded_width(self.inner / 16), dtype=self.dtype, name="se")(y)
        y = ConvNorm(self.inner // 2, (1, 1, 1), relu=False, dtype=self.dtype, name="conv3")(
            nn.swish(y), train
        )
        return nn.relu(x + y if x.shape == y.shape else y)


class Aggregation(nn.Module):
    """Temporal one-shot aggregation: a chain of bottlenecks, merged by one convolution.

    Where the grid stays, the block's input is merged too; there is a shortcut in any case. `chain`
    counts the bottlenecks, of `inner` channels.
    """

    width: int
    inner: int
    chain: int
    stride: int = 1
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps x [B, T, H, W, C] to [B, T, H / stride, W / stride, width]."""
        y = x
        parts = [x] if self.stride == 1 else []
        for i in range(self.chain):
            y = Bottleneck(
                self.inner,
                stride=self.stride if i == 0 else 1,
                squeeze=i % 2 == 0,
                dtype=self.dtype,
                name=f"layer{i}",
            )(y, train)
            parts.append(y)
        y = ConvNorm(
            self.width, (1, 1, 1), relu=False, zero_init=True, dtype=self.dtype, name="merge"
        )(jnp.concatenate(parts, axis=-1), train)
        if self.stride > 1 or x.shape[-1] != self.width:
            x = ConvNorm(
                self.width,
                (1, 1, 1),
                (1, self.stride, self.stride),
                relu=False,
                dtype=self.dtype,
                name="downsample",
            )(x, train)
        return nn.relu(x + y)


class VoV3D(nn.Module):
    """X3D's stem, stages of `Aggregation` that each halve the picture, and X3D's head.

    `depths` counts the blocks of each stage, `chain` the bottlenecks of a block. `inner` is the
    width of the first stage's bottlenecks; its blocks end in half as many channels, and each
    further stage doubles both. `window` is the side of the last map at the training crop.
    """

    num_classes: int = 400
    depths: tuple[int, ...] = (1, 1, 2, 2)
    chain: int = 4
    inner: int = 48
    hidden: int = 2048
    window: int = 7
    dropout: float = 0.5
    dtype: Any = None

    @nn.compact
    def __call__(
        self, video: jax.Array, train: bool = False
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Maps video [B, T, H, W, C] to logits [B, classes] and the intermediates by name."""
        x = ExpandedStem(self.inner // 2, dtype=self.dtype, name="stem")(video, train)
        out = {"stem": x}
        inner = 0
        for i, blocks in enumerate(self.depths):
            inner = self.inner * 2**i
            for j in range(blocks):
                x = Aggregation(
                    inner // 2,
                    inner,
                    self.chain,
                    stride=2 if j == 0 else 1,
                    dtype=self.dtype,
                    name=f"stage{i + 1}_{j}",
                )(x, train)
            out[f"stage{i + 1}"] = x
        head = ExpandedHead(
            self.num_classes,
            inner,
            self.hidden,
            self.window,
            self.dropout,
            dtype=self.dtype,
            name="head",
        )
        logits, out["pre_logits"] = head(x, train)
        return logits, out


Model = VoV3D

_MEDIUM = {"depths": (1, 1, 2, 2), "chain": 4}
_LARGE = {"depths": (1, 2, 5, 3), "chain": 5}

FAMILY = "VoV3D"
VARIANTS = {
    "vov3d_m": _MEDIUM,
    "vov3d_m_32f": _MEDIUM,
    "vov3d_l": _LARGE,
    "vov3d_l_32f": _LARGE,
    # What the authors' repository calls M since; no table prints it.
    "vov3d_m_head": {"depths": (1, 2, 3, 2), "chain": 5, "inner": 40},
    "vov3d_test": {"depths": (2,), "chain": 2, "inner": 8, "hidden": 16, "window": 4},
}


def _stage_names(stage: int) -> list[names.Rule]:
    # Their first stage is the stem.
    block, path = f"s{stage + 1}.pathway0_res{{b}}", f"stage{stage}_{{b}}"
    layer, inside = f"{block}.branch2.layers.{{i}}", f"{path}/layer{{i}}"
    return [
        *names.conv(f"{block}.branch1", f"{path}/downsample/conv", "conv3d"),
        *names.batch_norm(f"{block}.branch1_bn", f"{path}/downsample/bn"),
        *names.conv(f"{block}.branch2.c", f"{path}/merge/conv", "conv3d"),
        *names.batch_norm(f"{block}.branch2.c_bn", f"{path}/merge/bn"),
        *names.conv(f"{layer}.a.0", f"{inside}/conv1/conv", "conv3d"),
        *names.batch_norm(f"{layer}.a.1", f"{inside}/conv1/bn"),
        *names.conv(f"{layer}.b1", f"{inside}/conv2_s", "conv3d"),
        *names.conv(f"{layer}.b2", f"{inside}/conv2_t", "conv3d"),
        *names.batch_norm(f"{layer}.b_bn", f"{inside}/bn2"),
        *squeeze_names(f"{layer}.se", f"{inside}/se"),
        *names.conv(f"{layer}.c.0", f"{inside}/conv3/conv", "conv3d"),
        *names.batch_norm(f"{layer}.c.1", f"{inside}/conv3/bn"),
    ]


NAMES = [*pyslowfast_ends(), *(rule for stage in range(1, 5) for rule in _stage_names(stage))]

# Rows: the authors' tables, whose M is the one of their first commits.

# Norms do not decay, but for the bottlenecks' first and last, which their rule misses.
_KINETICS = Recipe(
    epochs=256,
    batch_size=128,
    lr=0.1,
    nesterov=True,
    weight_decay=5e-5,
    no_decay=("stem/bn/*", "*/bn2/*", "*/merge/bn/*", "*/downsample/bn/*", "head/conv5/bn/*"),
    schedule="cosine",
    cosine_from="start",
    warmup_epochs=35,
    warmup="line",
    norm_groups=8,
    precise_norm_batches=200,
    crop_mode="square",
    crop_scales=(224 / 320, 224 / 256),
    even_sides=True,
)
_SOMETHING = replace(
    _KINETICS, epochs=100, batch_size=64, warmup_epochs=1, even_sides=False, flip=0.0
)
_TUNED = replace(
    _SOMETHING,
    epochs=50,
    lr=0.05,
    schedule="step",
    milestones=(35, 45),
    warmup_epochs=0.19,
    warmup_factor=0.002,
    # Each four of their eight GPUs shared theirs.
    norm_groups=2,
)
_SECTIONS = {
    "kinetics400": ("Kinetics-400", "k400", "Kinetics"),
    "sthv1": ("Something-Something-V1", "sthv1", "SSv1"),
    "sthv2": ("Something-Something-V2", "sthv2", "SSv2"),
}
# What the printed figures leave unsaid, by size and frames.
_FIGURES = {
    ("m", 16, "k400"): "4.4G is that of 224 pixels, 5.8G that of the test's 256",
    ("l", 16, "k400"): "9.3G is that of 224 pixels, 12.2G that of the test's 256; the table's 6.2M "
    "parameters are 6.30M",
    ("l", 16, "sth"): "9.3G is that of 224 pixels, 12.2G that of the test's 256",
    ("l", 32, "sth"): "the printed 20.9G is neither that of 224 pixels (18.6G) nor that of the "
    "test's 256 (24.3G)",
}


def _row(
    size: str, frames: int, dataset: str, top1: float, top5: float, source: str, tuned: bool = False
) -> Row:
    """`tuned` says that training started from the row's size on Kinetics."""
    section, short, folder = _SECTIONS[dataset]
    notes = []
    if dataset == "kinetics400":
        test = Sampling("timed", frames, 5, num_clips=10, target_fps=30)
        recipe, views, config = _KINETICS, 30, f"vov3d_{size.upper()}"
    else:
        test = Sampling("uniform", frames, num_clips=2)
        recipe = replace(_TUNED, initial_weights=f"vov3d_{size}_16x5_k400") if tuned else _SOMETHING
        views, config = 6, f"vov3d_{size.upper()}_F{frames}"
        config = f"finetune/{config}_finetune" if tuned else config
        notes.append(
            "its test draws each frame at random from its part of the video, ours is in fixed "
            "places"
        )
    figures = _FIGURES.get((size, frames, short.rstrip("v12")))
    return Row(
        name=f"vov3d_{size}_{'16x5' if views == 30 else f'u{frames}'}_{short}{'_tuned' * tuned}",
        variant=f"vov3d_{size}_32f" if frames == 32 else f"vov3d_{size}",
        dataset=dataset,
        num_classes=CLASS_COUNTS[dataset],
        train=replace(test, num_clips=1),
        test=Protocol(test, short_side=256, crops="three", crop=256),
        recipe=recipe,
        mean=(114.75,) * 3,
        std=(57.375,) * 3,
        top1=top1,
        top5=top5,
        source=source,
        upstream=f"vov3d_{size}_{'k_400_' * tuned}f{frames}_{short}",
        section=section,
        config=f"VoV3D/configs/{folder}/vov3d/{config}.yaml",
        pretrained="K-400" if tuned else "-",
        note="; ".join([f"printed {views} views", *notes, *([figures] if figures else [])]),
    )


_FILES = "https://dl.dropbox.com/s"
_DRIVE = "https://etri.gov-dooray.com/share/drive-files/kdhawuidbrbd"

# fmt: off
ROWS = [
    _row("m", 16, "kinetics400", 73.9, 91.6, f"{_FILES}/hpk172nbvm3w5p1/vov3d_M_k400.pth"),
    _row("l", 16, "kinetics400", 76.3, 92.9, f"{_FILES}/lzmq8d4dqyj8fj6/vov3d_L_k400.pth"),
    _row("m", 16, "sthv1", 48.1, 76.9, f"{_FILES}/usbcudmhpknqvtd/vov3d_M_f16_ssv1.pth"),
    _row("m", 32, "sthv1", 49.8, 78.0, f"{_FILES}/fvet69zyeswe25v/vov3d_M_f32_ssv1.pth"),
    _row("m", 32, "sthv1", 52.6, 80.4, f"{_DRIVE}.C59lPfB2Toul7wcFMk1yeQ", tuned=True),
    _row("l", 16, "sthv1", 49.5, 78.0, f"{_FILES}/bdjam5tyaedkczl/vov3d_L_f16_ssv1.pth"),
    _row("l", 32, "sthv1", 50.6, 78.7, f"{_FILES}/g6lc5sj8h7f2r5v/vov3d_L_f32_ssv1.pth"),
    _row("l", 32, "sthv1", 54.9, 82.3, f"{_DRIVE}.r2fJ4HSDSWmFYNo1ARZuHQ", tuned=True),
    _row("m", 16, "sthv2", 63.2, 88.2, f"{_FILES}/hz34ltdl6iukdxc/vov3d_M_f16_ssv2.pth"),
    _row("m", 32, "sthv2", 64.2, 88.8, f"{_FILES}/z6qtyjgf0v13jnq/vov3d_M_f32_ssv2.pth"),
    _row("m", 32, "sthv2", 65.2, 89.4, f"{_DRIVE}.PHQw3KwbRI-lIcopWjm-ew", tuned=True),
    _row("l", 16, "sthv2", 64.1, 88.6, f"{_FILES}/678efl8zyrmq7ch/vov3d_L_f16_ssv2.pth"),
    _row("l", 32, "sthv2", 65.8, 89.5, f"{_FILES}/f4330e5htdiwqa5/vov3d_L_f32_ssv2.pth"),
    _row("l", 32, "sthv2", 67.3, 90.5, f"{_DRIVE}.pEg57hjpSkOp2boe1oNZvQ", tuned=True),
]
# fmt: on
