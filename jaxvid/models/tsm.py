"""Temporal shift module (Lin, Gan and Han, "TSM", ICCV 2019).

In: video [B, T, H, W, C], one frame from each of T segments. Out: logits [B, classes].
What sets it apart from TSN: before the first convolution of a residual block an eighth of the
channels moves one frame back and an eighth one frame forth, so 2-D convolutions see motion at no
cost; and scores, not features, are averaged over the frames. Some forms have non-local blocks; the
online ones shift from the past alone, and take a video frame by frame.
"""

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxvid.base.errors import JaxvidError
from jaxvid.layers import names
from jaxvid.layers.heads import MeanHead
from jaxvid.layers.mobilenet import MobileNetV2, mobilenet_names
from jaxvid.layers.mobileone import MobileOne, mobileone_names
from jaxvid.layers.non_local import non_local_hook, non_local_names
from jaxvid.layers.resnet import (
    DEPTHS,
    BasicBlock,
    Bottleneck,
    Hook,
    Place,
    ResNet,
    block_names,
    chain,
    resnet_names,
    stem_names,
)
from jaxvid.layers.streaming import WithPast
from jaxvid.layers.temporal import temporal_shift
from jaxvid.rows import (
    CLASS_COUNTS,
    NORMS_UNKNOWN,
    OPENMMLAB_V1,
    STHV2_MIRRORED,
    Protocol,
    Recipe,
    Row,
    Sampling,
)


def shift_hook(
    every: int, divisor: int, point: str = "conv1_in", frames: int | None = None
) -> Hook:
    """Shifts what enters at `point` of every `every`-th block of a stage.

    At `conv1_in` it is the input of a block's convolutions but not of its shortcut. Where `frames`
    is given the shift does not leave groups of so many frames.
    """

    def hook(place: Place, x: jax.Array, train: bool) -> jax.Array:
        if place.point != point or place.block % every:
            return x
        if frames is None:
            return temporal_shift(x, divisor)
        if x.shape[1] % frames:
            raise JaxvidError(
                f"this network shifts within groups of {frames} frames: give it a multiple of "
                f"{frames}, not {x.shape[1]}"
            )
        return temporal_shift(x.reshape(-1, frames, *x.shape[2:]), divisor).reshape(x.shape)

    return hook


def online_hook(every: int, divisor: int, point: str) -> Hook:
    """`shift_hook` of networks that see the past alone: the first C // divisor channels of x.

    They come from the frame before, as in the authors' online demo, where a state carries them.
    """

    def hook(place: Place, x: jax.Array, train: bool) -> jax.Array:
        if place.point != point or place.block % every:
            return x
        fold = x.shape[-1] // divisor
        past = WithPast(1, name="shifted")(x[..., :fold])[:, :-1]
        return jnp.concatenate([past, x[..., fold:]], axis=-1)

    return hook


class TSM(nn.Module):
    """A trunk on frames with shifted channels, and the mean of the frames' scores.

    `depth` is a key of `layers.resnet.DEPTHS`; `blocks` and `width` override its stages. ResNets
    with 23 or more blocks in stage 3 shift in every second block only. `trunk` takes the place of
    the ResNet: a module that maps video to features and intermediates, as yet without its hook,
    type and name. `shift_point` and `shift_frames` say where the shift is, see `shift_hook`; with
    `causal` it is that of `online_hook`, and the network can carry a state.
    `non_local` is a mode of `layers.non_local`, None for a net without such blocks.
    """

    num_classes: int = 400
    depth: int = 50
    blocks: tuple[int, ...] | None = None
    width: int = 64
    trunk: Callable[..., nn.Module] | None = None
    shift_divisor: int = 8
    shift_point: str = "conv1_in"
    shift_frames: int | None = None
    causal: bool = False
    non_local: str | None = None
    dropout: float = 0.5
    dtype: Any = None

    @nn.compact
    def __call__(
        self, video: jax.Array, train: bool = False
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Maps video [B, T, H, W, C] to logits [B, classes] and the intermediates by name."""
        depths = self.blocks or DEPTHS[self.depth]
        block = BasicBlock if self.depth < 50 else Bottleneck
        every = 2 if self.trunk is None and depths[2] >= 23 else 1
        if self.causal and (self.shift_frames or self.non_local):
            raise JaxvidError(
                "a causal TSM shifts from the past alone: leave shift_frames and non_local at None"
            )
        if self.causal:
            hook = online_hook(every, self.shift_divisor, self.shift_point)
        else:
            hook = shift_hook(every, self.shift_divisor, self.shift_point, self.shift_frames)
        if self.non_local:
            hook = chain(hook, non_local_hook(self.non_local, dtype=self.dtype))
        trunk = self.trunk or functools.partial(ResNet, depths, block, width=self.width, packs=True)
        x, out = trunk(hook=hook, dtype=self.dtype, name="backbone")(video, train)
        logits, out["pre_logits"] = MeanHead(
            self.num_classes,
            self.dropout,
            per_frame=True,
            causal=self.causal,
            init_std=0.001,
            dtype=self.dtype,
            name="head",
        )(x, train)
        return logits, out


Model = TSM

# MobileOne's blocks have no shortcut apart from their other branches, so whole blocks are shifted;
# and the published network, which sees 16 frames, was told of 8 to shift among.
_WHOLE_BLOCKS = {"shift_point": "block_in", "shift_frames": 8}
_TINY_MOBILEONE = functools.partial(
    MobileOne, (1, 1), widths=(16, 32), squeezed=(0, 1), stem_width=8
)

FAMILY = "TSM"
VARIANTS = {
    "tsm_r50_8f": {"depth": 50},
    "tsm_r50_16f": {"depth": 50},
    "tsm_r101_8f": {"depth": 101},
    "tsm_r50_nl_dot": {"depth": 50, "non_local": "dot_product"},
    "tsm_r50_nl_gauss": {"depth": 50, "non_local": "gaussian"},
    "tsm_r50_nl_embgauss": {"depth": 50, "non_local": "embedded_gaussian"},
    "tsm_mobilenetv2": {"trunk": MobileNetV2},
    "tsm_mobileone_s4": {"trunk": MobileOne, **_WHOLE_BLOCKS},
    "tsm_mobileone_s4_deploy": {
        "trunk": functools.partial(MobileOne, deploy=True),
        **_WHOLE_BLOCKS,
    },
    "tsm_r50_online": {"depth": 50, "causal": True},
    "tsm_mobilenetv2_online": {"trunk": MobileNetV2, "causal": True},
    "tsm_test": {"depth": 18, "blocks": (1, 1, 1, 1), "width": 16, "dropout": 0.0},
    "tsm_nl_test": {"depth": 18, "blocks": (1, 1, 1), "width": 8, "non_local": "gaussian"},
    "tsm_online_test": {"depth": 18, "blocks": (1, 1, 1), "width": 16, "causal": True},
    "tsm_mobilenet_test": {
        "trunk": functools.partial(
            MobileNetV2, ((1, 8, 1, 1), (2, 16, 2, 2)), stem_width=8, features=16
        ),
    },
    "tsm_mobileone_test": {"trunk": _TINY_MOBILEONE, "shift_point": "block_in", "shift_frames": 2},
}

_HEAD_NAMES = names.dense("cls_head.fc_cls", "head/fc")
# What is wrapped by a module of its own has that module's name in its keys: a shifted convolution
# `net`, a block before a non-local one `block`.
_EVEN, _ODD = "{b:0|2|4|6|8|10|12|14|16|18|20|22}", "{b:1|3|5|7|9|11|13|15|17|19|21}"
_DEEP_NAMES = [
    *stem_names("conv2d"),
    *block_names("conv2d", "layer{s}." + _EVEN, "conv.net"),
    *block_names("conv2d", "layer{s}." + _ODD),
    *_HEAD_NAMES,
]
_NON_LOCAL_NAMES = [
    *stem_names("conv2d"),
    *block_names("conv2d", "layer{s:1|4}.{b}", "conv.net"),
    *block_names("conv2d", "layer{s:2|3}." + _ODD, "conv.net"),
    *block_names("conv2d", "layer{s:2|3}." + _EVEN + ".block", "conv.net"),
    *non_local_names(),
    *_HEAD_NAMES,
]
NAMES = {
    **dict.fromkeys(VARIANTS, resnet_names("conv2d", conv1="conv.net") + _HEAD_NAMES),
    **dict.fromkeys(
        ("tsm_mobilenetv2", "tsm_mobilenetv2_online", "tsm_mobilenet_test"),
        mobilenet_names(wrapper=".net") + _HEAD_NAMES,
    ),
    **dict.fromkeys(
        ("tsm_r50_nl_dot", "tsm_r50_nl_gauss", "tsm_r50_nl_embgauss", "tsm_nl_test"),
        _NON_LOCAL_NAMES,
    ),
    **dict.fromkeys(
        ("tsm_mobileone_s4", "tsm_mobileone_s4_deploy", "tsm_mobileone_test"),
        mobileone_names(wrapper=".net") + _HEAD_NAMES,
    ),
    "tsm_r101_8f": _DEEP_NAMES,
}

# Rows: what the tables of TSM publish, and the two rows of its authors that VoV3D quotes.

_SGD = Recipe(
    epochs=50,
    batch_size=128,
    lr=0.02,
    decay_norm_and_bias=False,
    clip_norm=20.0,
    milestones=(25, 45),
    warmup_epochs=5,
    warmup_every="epoch",
    head_lr_scale=5.0,
    bias_lr_scale=2.0,
    norm_groups=8,
    crop_mode="multi_scale",
    fixed_crops=13,
)
_SGD_100 = replace(_SGD, epochs=100, milestones=(50, 90), warmup_epochs=10)
_SGD_MOBILE = replace(_SGD, weight_decay=2e-5)
_SGD_STHV2 = replace(_SGD, weight_decay=5e-4, mirrored_labels=STHV2_MIRRORED)
_SGD_AUTHORS = replace(
    _SGD,
    batch_size=64,
    lr=0.01,
    weight_decay=5e-4,
    milestones=(20, 40),
    warmup_epochs=0,
    norm_groups=1,
    flip=0.0,
)
_HEAD = "the table's 23.87M parameters are those of 174 classes: 400 make 24.33M"
_AUTHORS = "https://github.com/mit-han-lab/temporal-shift-module"


def _row(
    name: str,
    test: Sampling,
    dataset: str,
    recipe: Recipe,
    top1: float,
    top5: float,
    upstream: str,
    date: str,
    variant: str = "",
    note: str = _HEAD,
) -> Row:
    """`test` is also how training samples, but that training draws each segment's frame once."""
    kinetics = dataset == "kinetics400"
    return Row(
        name=name,
        variant=variant or f"tsm_r50_{test.num_clips}f",
        dataset=dataset,
        num_classes=CLASS_COUNTS[dataset],
        train=replace(test, twice_sample=False),
        test=Protocol(test, crops="ten") if kinetics else Protocol(test, crops="three", crop=256),
        recipe=recipe,
        top1=top1,
        top5=top5,
        source=f"{OPENMMLAB_V1}/tsm/{upstream}/{upstream}_{date}.pth",
        upstream=upstream,
        section="Kinetics-400" if kinetics else "Something-something V2",
        config=f"mmaction2/configs/recognition/tsm/{upstream}.py",
        pretrained="ImageNet",
        note=note,
    )


def _authors_row(version: int, top1: float, top5: float, listed: float) -> Row:
    """A row of TSM's authors on Something-Something, as VoV3D's table quotes it."""
    dataset = f"sthv{version}"
    test = Sampling(num_clips=16, twice_sample=True)
    return Row(
        name=f"tsm_r50_1x1x16_{dataset}_authors",
        variant="tsm_r50_16f",
        dataset=dataset,
        num_classes=CLASS_COUNTS[dataset],
        train=Sampling(num_clips=16),
        test=Protocol(test, crops="three", crop=256, average="score"),
        recipe=_SGD_AUTHORS,
        top1=top1,
        top5=top5,
        source=f"{_AUTHORS}#something-something-v{version}",
        upstream=f"tsm_r_50_k_400_f16_{dataset}",
        section=f"Something-Something-V{version}",
        pretrained="K-400",
        note="quoted by VoV3D as 6 views (2 clips x 3 crops) from Kinetics weights; the authors' "
        f"page lists {listed} and advises ImageNet weights, and names no config: recipe and "
        "test are those of its commands; the printed 33G and 24.3M are those of 8 frames and of "
        f"400 classes; {NORMS_UNKNOWN}",
    )


# fmt: off
ROWS = [
    _row("tsm_r50_1x1x8_k400", Sampling(num_clips=8), "kinetics400", _SGD, 73.18, 90.56,
         "tsm_imagenet-pretrained-r50_8xb16-1x1x8-50e_kinetics400-rgb", "20220831-64d69186"),
    _row("tsm_r50_1x1x8_k400_100e", Sampling(num_clips=8), "kinetics400", _SGD_100, 73.22, 90.22,
         "tsm_imagenet-pretrained-r50_8xb16-1x1x8-100e_kinetics400-rgb", "20220831-a6db1e5d"),
    _row("tsm_r50_1x1x16_k400", Sampling(num_clips=16), "kinetics400", _SGD, 75.12, 91.55,
         "tsm_imagenet-pretrained-r50_8xb16-1x1x16-50e_kinetics400-rgb", "20220831-042b1748"),
    _row("tsm_r50_dense_1x1x8_k400", Sampling("dense", num_clips=8), "kinetics400", _SGD,
         73.38, 90.78,
         "tsm_imagenet-pretrained-r50_8xb16-dense-1x1x8-50e_kinetics400-rgb", "20220831-f55d3c2b",
         note=f"{_HEAD}; printed 8x10, but its config takes the 8 frames at each of 10 positions"),
    _row("tsm_r50_nl_dot_1x1x8_k400", Sampling(num_clips=8), "kinetics400", _SGD, 74.49, 91.15,
         "tsm_imagenet-pretrained-r50-nl-dot-product_8xb16-1x1x8-50e_kinetics400-rgb",
         "20220831-108bfde5", "tsm_r50_nl_dot", note=""),
    _row("tsm_r50_nl_gauss_1x1x8_k400", Sampling(num_clips=8), "kinetics400", _SGD, 73.66, 90.99,
         "tsm_imagenet-pretrained-r50-nl-gaussian_8xb16-1x1x8-50e_kinetics400-rgb",
         "20220831-7e54dacf", "tsm_r50_nl_gauss", note=""),
    _row("tsm_r50_nl_embgauss_1x1x8_k400", Sampling(num_clips=8), "kinetics400", _SGD, 74.34, 91.23,
         "tsm_imagenet-pretrained-r50-nl-embedded-gaussian_8xb16-1x1x8-50e_kinetics400-rgb",
         "20220831-35eddb57", "tsm_r50_nl_embgauss", note=""),
    _row("tsm_r50_1x1x8_sthv2", Sampling(num_clips=8, twice_sample=True), "sthv2", _SGD_STHV2,
         62.72, 87.70,
         "tsm_imagenet-pretrained-r50_8xb16-1x1x8-50e_sthv2-rgb", "20230317-be0fc26e",
         note="printed 8x3, but its config samples the 8 frames twice"),
    _row("tsm_r50_1x1x16_sthv2", Sampling(num_clips=16), "sthv2", _SGD_STHV2, 64.16, 88.61,
         "tsm_imagenet-pretrained-r50_8xb16-1x1x16-50e_sthv2-rgb", "20230317-ec6696ad",
         note="its config makes the 16 frames by sampling 8 twice, so that they enter out of order "
              "(all middles of 8 parts, then all beginnings); here they are the middles of 16"),
    _row("tsm_r101_1x1x8_sthv2", Sampling(num_clips=8, twice_sample=True), "sthv2", _SGD_STHV2,
         63.70, 88.28,
         "tsm_imagenet-pretrained-r101_8xb16-1x1x8-50e_sthv2-rgb", "20230320-efcc0d1b",
         "tsm_r101_8f", note="printed 8x3, but its config samples the 8 frames twice"),
    replace(
        _row("tsm_mobilenetv2_1x1x8_k400", Sampling(num_clips=8), "kinetics400",
             replace(_SGD_MOBILE, epochs=100, milestones=(40, 80), warmup_epochs=0), 68.71, 88.32,
             "tsm_imagenet-pretrained-mobilenetv2_8xb16-1x1x8-100e_kinetics400-rgb",
             "20230414-401127fd", "tsm_mobilenetv2", note=""),
        test=Protocol(Sampling(num_clips=8), crops="three", crop=256),
    ),
    replace(
        _row("tsm_mobileone_s4_1x1x16_k400", Sampling(num_clips=16), "kinetics400",
             replace(_SGD_MOBILE, batch_size=64, lr=0.01, lr_scales=(("*/skip/bias", 0.5),)),
             74.38, 91.71,
             "tsm_imagenet-pretrained-mobileone-s4_8xb16-1x1x16-50e_kinetics400-rgb",
             "20230825-a7f8876b", "tsm_mobileone_s4",
             note="printed 16x10, but its config takes three crops; named 16 videos a GPU, but its "
             "config has 8, for which it halves the rate that it writes; shifts within groups of 8 "
             "of its 16 frames"),
        test=Protocol(Sampling(num_clips=16), crops="three", crop=256),
    ),
    _authors_row(1, 48.3, 78.1, listed=48.4),
    _authors_row(2, 63.0, 88.1, listed=63.1),
]
# fmt: on
