"""Temporal pyramid network (Yang et al., "Temporal Pyramid Network", CVPR 2020).

In: video [B, T, H, W, C], a clip for the form on SlowOnly or one frame from each of T segments for
the form on TSM. Out: logits [B, classes]; in training also `aux_logits`, the scores of an auxiliary
classifier on stage 3, whose loss is added (`Recipe.aux_weight`).
What sets it apart: a neck between trunk and head. The maps of the last two stages, brought to one
size, are two levels of a pyramid, each seen at its own rate of time; what flows down the pyramid
and then up again is what is classified.
"""

from collections.abc import Sequence
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
    Bottleneck,
    ConvNorm,
    Place,
    ResNet,
    no_hook,
    resnet_names,
)
from jaxvid.layers.temporal import temporal_shift
from jaxvid.rows import (
    CLASS_COUNTS,
    OPENMMLAB_V1,
    STHV1_MIRRORED,
    Protocol,
    Recipe,
    Row,
    Sampling,
)

# Groups of the neck's grouped convolutions, and the frames that one of its steps in time covers.
GROUPS, RATE = 32, 8

_XAVIER = nn.initializers.xavier_uniform()


def shift(place: Place, x: jax.Array, train: bool) -> jax.Array:
    """TSM's shift: an eighth of the channels each way, before conv1 of every block."""
    return temporal_shift(x) if place.point == "conv1_in" else x


def peaks(x: jax.Array) -> jax.Array:
    """Maximum over every `RATE` frames of x [B, T, H, W, C]; the last ones may be fewer."""
    x = jnp.pad(
        x, ((0, 0), (0, -x.shape[1] % RATE), (0, 0), (0, 0), (0, 0)), constant_values=-jnp.inf
    )
    return x.reshape(x.shape[0], -1, RATE, *x.shape[2:]).max(2)


class LevelFusion(nn.Module):
    """Makes one map of the levels of the pyramid."""

    features: int
    dtype: Any = None

    @nn.compact
    def __call__(self, levels: Sequence[jax.Array], train: bool = False) -> jax.Array:
        """Maps levels [B, T, H, W, C], all of one shape, to [B, T, H, W, features]."""
        shared = {"kernel_init": _XAVIER, "dtype": self.dtype}
        point = (1, 1, 1)
        parts = [
            ConvNorm(x.shape[-1], point, groups=GROUPS, name=f"level{i}", **shared)(x, train)
            for i, x in enumerate(levels)
        ]
        x = jnp.concatenate(parts, axis=-1)
        return ConvNorm(self.features, point, name="fuse", **shared)(x, train)


class Pyramid(nn.Module):
    """The neck: two levels, what flows down from the upper and then up from the lower."""

    dtype: Any = None

    @nn.compact
    def __call__(self, lower: jax.Array, upper: jax.Array, train: bool = False) -> jax.Array:
        """Maps stages [B, T, 2H, 2W, C] and [B, T, H, W, 2C] to [B, T / 8, H, W, 2C]."""
        features = upper.shape[-1]
        shared = {"kernel_init": _XAVIER, "dtype": self.dtype}
        along_time = {"kernel_size": (3, 1, 1), "padding": (1, 0, 0), **shared}
        lower = ConvNorm(features, (1, 3, 3), (1, 2, 2), (0, 1, 1), name="spatial", **shared)(
            lower, train
        )
        lower, upper = (
            peaks(Conv(features // 2, groups=GROUPS, name=f"rate{i}", **along_time)(x))
            for i, x in enumerate((lower, upper))
        )
        lower += upper
        down = LevelFusion(features, self.dtype, name="fusion1")((lower, upper), train)
        upper += Conv(features // 2, name="upward", **along_time)(lower)
        up = LevelFusion(features, self.dtype, name="fusion2")((lower, upper), train)
        x = jnp.concatenate([down, up], axis=-1)
        return ConvNorm(features, (1, 1, 1), name="pyramid", **shared)(x, train)


class Heads(nn.Module):
    """The classifier and, where it is asked, the auxiliary one."""

    num_classes: int
    dropout: float
    dtype: Any = None

    @nn.compact
    def __call__(
        self, x: jax.Array, auxiliary: jax.Array | None, train: bool = False
    ) -> tuple[jax.Array, jax.Array, jax.Array | None]:
        """Maps two maps [B, T, H, W, C] to logits [B, classes], features [B, C], other logits."""
        settings = (self.num_classes, self.dropout)
        logits, features = MeanHead(*settings, dtype=self.dtype, name="main")(x, train)
        if auxiliary is None:
            return logits, features, None
        others, _ = MeanHead(*settings, dtype=self.dtype, name="aux")(auxiliary, train)
        return logits, features, others


class TPN(nn.Module):
    """A ResNet of bottlenecks, a pyramid on its last two stages, and a linear layer on its mean.

    `depth` is a key of `layers.resnet.DEPTHS`; `blocks` and `width` override its stages. `inflate`
    gives the temporal kernel of each stage's blocks; with `shifted` frames meet by TSM's shift.
    """

    num_classes: int = 400
    depth: int = 50
    blocks: tuple[int, ...] | None = None
    width: int = 64
    inflate: tuple[int, ...] = (1, 1, 1, 1)
    shifted: bool = False
    dropout: float = 0.5
    dtype: Any = None

    @nn.compact
    def __call__(
        self, video: jax.Array, train: bool = False
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Maps video [B, T, H, W, C] to logits [B, classes] and the intermediates by name."""
        depths = self.blocks or DEPTHS[self.depth]
        upper, out = ResNet(
            depths,
            Bottleneck,
            width=self.width,
            inflate=tuple((kernel,) for kernel in self.inflate),
            hook=shift if self.shifted else no_hook,
            zero_init=not self.shifted,
            dtype=self.dtype,
            name="backbone",
        )(video, train)
        lower = out[f"stage{len(depths) - 1}"]
        out["neck"] = Pyramid(self.dtype, name="neck")(lower, upper, train)
        auxiliary = None
        if train or self.is_initializing():
            auxiliary = ConvNorm(
                upper.shape[-1],
                (1, 3, 3),
                (1, 2, 2),
                (0, 1, 1),
                kernel_init=_XAVIER,
                dtype=self.dtype,
                name="aux",
            )(lower, train)
        heads = Heads(self.num_classes, self.dropout, self.dtype, name="head")
        logits, out["pre_logits"], others = heads(out["neck"], auxiliary, train)
        if others is not None:
            out["aux_logits"] = others
        return logits, out


Model = TPN

FAMILY = "TPN"
VARIANTS = {
    "tpn_slowonly_r50": {"depth": 50, "inflate": (1, 1, 3, 3)},
    "tpn_tsm_r50": {"depth": 50, "shifted": True},
    "tpn_test": {"depth": 50, "blocks": (1, 1), "width": 8, "inflate": (1, 3)},
    "tpn_tsm_test": {"depth": 50, "blocks": (1, 1), "width": 8, "shifted": True},
}

_NECK = [
    *names.conv_norm("neck.spatial_modulation.spatial_modulation.0.0", "neck/spatial", "conv3d"),
    *names.conv("neck.temporal_modulation_ops.{i}.conv.conv", "neck/rate{i}", "conv3d"),
    *names.conv("neck.downsample_ops.0.conv.conv", "neck/upward", "conv3d"),
    *names.conv_norm(
        "neck.level_fusion_{f}.downsamples.{i}.conv", "neck/fusion{f}/level{i}", "conv3d"
    ),
    *names.conv_norm("neck.level_fusion_{f}.fusion_conv", "neck/fusion{f}/fuse", "conv3d"),
    *names.conv_norm("neck.pyramid_fusion", "neck/pyramid", "conv3d"),
    *names.conv_norm("neck.aux_head.conv", "aux", "conv3d"),
    *names.dense("neck.aux_head.fc", "head/aux/fc"),
    *names.dense("cls_head.fc_cls", "head/main/fc"),
    # A copy of fc_cls as a convolution, which a test with the reference leaves behind.
    ("cls_head.new_cls.{c:weight|bias}", None, "drop"),
]
_ON_SLOWONLY = [*resnet_names("conv3d"), *_NECK]
_ON_TSM = [*resnet_names("conv2d", conv1="conv.net"), *_NECK]
NAMES = {
    "tpn_slowonly_r50": _ON_SLOWONLY,
    "tpn_tsm_r50": _ON_TSM,
    "tpn_test": _ON_SLOWONLY,
    "tpn_tsm_test": _ON_TSM,
}

# Rows: what the tables of TPN publish, and the two rows of its authors that VoV3D quotes.

_SGD_K400 = Recipe(
    epochs=150,
    batch_size=64,
    lr=0.01,
    nesterov=True,
    clip_norm=40.0,
    milestones=(75, 125),
    norm_groups=8,
    color_jitter=(0.5, 0.5, 0.5, 0.1),
    hue_bytes=True,
    aux_weight=0.5,
)
_SGD_STH = replace(_SGD_K400, weight_decay=5e-4, clip_norm=20.0)
_SGD_AUTHORS = replace(_SGD_STH, hue_bytes=False)
_CLIP = Sampling(clip_len=8, frame_interval=8, num_clips=10)
_SEGMENTS = Sampling(num_clips=8, twice_sample=True)
_UNSCALED = "in training, crops were cut from frames of their own size, not resized before"
_COLORS = (
    "the order of colour changes was drawn once, values clipped before hue and at the end only"
)
_QUOTED = (
    "quoted by VoV3D; test and recipe are those of the authors' config, but that its two clips are "
    "every other of 16 middles; flips change no labels, and colours change there frame by frame "
    "and by other amounts"
)
_AUTHORS = "https://github.com/decisionforce/TPN/blob/master/MODELZOO.md#something-something"


def _row(
    name: str,
    test: Sampling,
    dataset: str,
    recipe: Recipe,
    top1: float,
    top5: float | None,
    upstream: str,
    section: str,
    pretrained: str,
    weights: str = "",
    note: str = f"{_UNSCALED}; {_COLORS}",
) -> Row:
    """`weights` is the checkpoint's path under the family's address, '' for the authors' own."""
    clips = test.clip_len > 1
    return Row(
        name=name,
        variant="tpn_slowonly_r50" if clips else "tpn_tsm_r50",
        dataset=dataset,
        num_classes=CLASS_COUNTS[dataset],
        train=replace(test, num_clips=1) if clips else replace(test, twice_sample=False),
        test=Protocol(test, crops="three", crop=256),
        recipe=recipe,
        top1=top1,
        top5=top5,
        source=f"{OPENMMLAB_V1}/tpn/{weights}.pth" if weights else _AUTHORS,
        upstream=upstream,
        section=section,
        config=f"mmaction2/configs/recognition/tpn/{upstream}.py" if weights else "",
        pretrained=pretrained,
        note=note,
    )


# fmt: off
ROWS = [
    _row("tpn_slowonly_r50_8x8_k400", _CLIP, "kinetics400", _SGD_K400, 74.20, 91.48,
         "tpn-slowonly_r50_8xb8-8x8x1-150e_kinetics400-rgb", "Kinetics-400", "None",
         "tpn-slowonly_r50_8xb8-8x8x1-150e_kinetics400-rgb/"
         "tpn-slowonly_r50_8xb8-8x8x1-150e_kinetics400-rgb_20220913-97d0835d"),
    _row("tpn_slowonly_r50_8x8_k400_in1k", _CLIP, "kinetics400", _SGD_K400, 76.74, 92.57,
         "tpn-slowonly_imagenet-pretrained-r50_8xb8-8x8x1-150e_kinetics400-rgb", "Kinetics-400",
         "ImageNet",
         "tpn_imagenet_pretrained_slowonly_r50_8x8x1_150e_kinetics_rgb/tpn-slowonly_"
         "imagenet-pretrained-r50_8xb8-8x8x1-150e_kinetics400-rgb_20220913-fed3f4c1"),
    _row("tpn_tsm_r50_1x1x8_sthv1", _SEGMENTS, "sthv1",
         replace(_SGD_STH, mirrored_labels=STHV1_MIRRORED), 51.87, 79.67,
         "tpn-tsm_imagenet-pretrained-r50_8xb8-1x1x8-150e_sthv1-rgb", "Something-Something V1",
         "TSM",
         "tpn-tsm_imagenet-pretrained-r50_8xb8-1x1x8-150e_sthv1-rgb/"
         "tpn-tsm_imagenet-pretrained-r50_8xb8-1x1x8-150e_sthv1-rgb_20230221-940a3615",
         note=f"printed 8x3, but its config samples the 8 frames twice; {_UNSCALED}; {_COLORS}"),
    _row("tpn_tsm_r50_1x1x8_sthv1_authors", _SEGMENTS, "sthv1", _SGD_AUTHORS, 50.7, None,
         "tsm_tpn_r_50_im_f8_sthv1", "Something-Something-V1", "IM", note=_QUOTED),
    _row("tpn_tsm_r50_1x1x8_sthv2_authors", _SEGMENTS, "sthv2", _SGD_AUTHORS, 64.7, None,
         "tsm_tpn_r_50_im_f8_sthv2", "Something-Something-V2", "IM", note=_QUOTED),
]
# fmt: on
