"""X3D (Feichtenhofer, "X3D: Expanding Architectures", CVPR 2020).

In: video [B, T, H, W, C], one clip. Out: logits [B, classes].
What sets it apart: a thin, deep residual network whose only convolutions over space and time are
depthwise, with squeeze-excitation in every second block and swish, and which keeps all frames until
the end. The two published forms differ in the head: MMAction2 pools the last map whole, PySlowFast
over windows of the size it had in training, each of which is classified.
"""

from dataclasses import replace
from typing import Any

import flax.linen as nn
import jax

from jaxvid.layers import names
from jaxvid.layers.expanded import ExpandedHead, ExpandedStem, pyslowfast_ends
from jaxvid.layers.resnet import ConvNorm
from jaxvid.layers.squeeze import SqueezeExcite, rounded_width, squeeze_names
from jaxvid.rows import CLASS_COUNTS, OPENMMLAB_V1, Protocol, Recipe, Row, Sampling


class Block(nn.Module):
    """An inverted bottleneck: 1x1x1, depthwise 3x3x3 and 1x1x1 convolutions, and a shortcut.

    `inner` is the width between the pointwise convolutions; with `squeeze` its channels are scaled
    by squeeze-excitation.
    """

    width: int
    inner: int
    stride: int = 1
    squeeze: bool = False
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps x [B, T, H, W, C] to [B, T, H / stride, W / stride, width]."""
        stride = (1, self.stride, self.stride)
        pointwise = (1, 1, 1)
        y = ConvNorm(self.inner, pointwise, dtype=self.dtype, name="conv1")(x, train)
        y = ConvNorm(
            self.inner,
            (3, 3, 3),
            stride,
            (1, 1, 1),
            groups=self.inner,
            relu=False,
            dtype=self.dtype,
            name="conv2",
        )(y, train)
        if self.squeeze:
            y = SqueezeExcite(rounded_width(self.inner / 16), dtype=self.dtype, name="se")(y)
        y = ConvNorm(
            self.width, pointwise, relu=False, zero_init=True, dtype=self.dtype, name="conv3"
        )(nn.swish(y), train)
        if self.stride > 1 or x.shape[-1] != self.width:
            x = ConvNorm(
                self.width, pointwise, stride, relu=False, dtype=self.dtype, name="downsample"
            )(x, train)
        return nn.relu(x + y)


class X3D(nn.Module):
    """Stem, stages that each halve the picture, and a head with a hidden layer.

    `depths` counts the blocks of each stage, `width` the channels of the first; each further stage
    doubles them. `window` is the side of the last map at the training crop (a 32nd of it, rounded
    up), where the head is PySlowFast's; None pools any map whole.
    """

    num_classes: int = 400
    depths: tuple[int, ...] = (3, 5, 11, 7)
    width: int = 24
    hidden: int = 2048
    window: int | None = None
    dropout: float = 0.5
    dtype: Any = None

    @nn.compact
    def __call__(
        self, video: jax.Array, train: bool = False
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Maps video [B, T, H, W, C] to logits [B, classes] and the intermediates by name."""
        x = ExpandedStem(self.width, dtype=self.dtype, name="stem")(video, train)
        out = {"stem": x}
        width = inner = 0
        for i, blocks in enumerate(self.depths):
            width = self.width * 2**i
            inner = width * 9 // 4
            for j in range(blocks):
                x = Block(
                    width,
                    inner,
                    stride=2 if j == 0 else 1,
                    squeeze=j % 2 == 0,
                    dtype=self.dtype,
                    name=f"layer{i + 1}_{j}",
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


Model = X3D

_LARGE = (5, 10, 25, 15)
_TINY = {"width": 8, "hidden": 16}

FAMILY = "X3D"
VARIANTS: dict[str, dict[str, Any]] = {
    "x3d_s": {},
    "x3d_m": {},
    "pyslowfast_x3d_m": {"window": 7},
    "pyslowfast_x3d_l": {"depths": _LARGE, "window": 10},
    "pyslowfast_x3d_l_224": {"depths": _LARGE, "window": 7},
    "x3d_test": _TINY | {"depths": (2, 1)},
    "pyslowfast_x3d_test": _TINY | {"depths": (1,), "window": 4},
}

_MMACTION_NAMES = [
    *names.conv("backbone.conv1_s.conv", "stem/conv_s", "conv3d"),
    *names.conv("backbone.conv1_t.conv", "stem/conv_t", "conv3d"),
    *names.batch_norm("backbone.conv1_t.bn", "stem/bn"),
    *names.conv_norm(
        "backbone.layer{s}.{b}.{c:conv1|conv2|conv3|downsample}",
        "layer{s}_{b}/{c:conv1|conv2|conv3|downsample}",
        "conv3d",
    ),
    *squeeze_names("backbone.layer{s}.{b}.se_module", "layer{s}_{b}/se"),
    *names.conv_norm("backbone.conv5", "head/conv5", "conv3d"),
    *names.conv("cls_head.fc1", "head/hidden", "pointwise"),
    *names.dense("cls_head.fc2", "head/classifier/fc"),
]


def _pyslowfast_names() -> list[names.Rule]:
    rules = pyslowfast_ends()
    # Their first stage is the stem.
    for stage in range(1, 5):
        block, path = f"s{stage + 1}.pathway0_res{{b}}", f"layer{stage}_{{b}}"
        for theirs, ours in (
            ("branch2.a", "conv1"),
            ("branch2.b", "conv2"),
            ("branch2.c", "conv3"),
            ("branch1", "downsample"),
        ):
            rules += names.conv(f"{block}.{theirs}", f"{path}/{ours}/conv", "conv3d")
            rules += names.batch_norm(f"{block}.{theirs}_bn", f"{path}/{ours}/bn")
        rules += squeeze_names(f"{block}.branch2.se", f"{path}/se")
    return rules


NAMES = {
    variant: _pyslowfast_names() if "window" in fields else _MMACTION_NAMES
    for variant, fields in VARIANTS.items()
}

# Rows: what MMAction2 tests of the authors' weights, then what VoV3D's tables say of X3D.

_AUTHORS = Recipe(
    epochs=300,
    batch_size=128,
    lr=0.1,
    nesterov=True,
    weight_decay=5e-5,
    no_decay=("*/bn/*",),
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
_AUTHORS_SMALL = replace(_AUTHORS, crop_scales=(160 / 228, 160 / 182))
_AUTHORS_LARGE = replace(
    _AUTHORS,
    epochs=256,
    batch_size=64,
    lr=0.05,
    warmup_factor=0.2,
    crop_scales=(312 / 446, 312 / 356),
)
_SOMETHING = replace(
    _AUTHORS, epochs=100, batch_size=64, warmup_epochs=1, even_sides=False, flip=0.0
)
_SOMETHING_LARGE = replace(_SOMETHING, even_sides=True, flip=0.5)
_SECTIONS = {"sthv1": "Something-Something-V1", "sthv2": "Something-Something-V2"}
_DRAWN = "its test draws each frame at random from its part of the video, ours is in fixed places"
_M_FLOPS = "printed with the 6.1G of 256 pixels, but its config tests at 224 (4.7G)"
_L_CONFIG = (
    "its config, unlike its neighbours, leaves frames in OpenCV's BGR order and flips clips; the "
    "table's 5.6M parameters are 5.69M"
)


def _mmaction_row(
    size: str,
    clip: tuple[int, int],
    crops: tuple[int, int],
    top1: tuple[float, float],
    date: str,
) -> Row:
    """`clip` is its length and interval, `crops` the sides in training and test, `top1` that of 10
    and of 30 views.
    """
    length, interval = clip
    test = Sampling(clip_len=length, frame_interval=interval, num_clips=10, target_fps=30)
    upstream = f"x3d_{size}_{length}x{interval}x1_facebook-kinetics400-rgb"
    return Row(
        name=f"x3d_{size}_{length}x{interval}_k400",
        variant=f"x3d_{size}",
        dataset="kinetics400",
        num_classes=400,
        train=replace(test, num_clips=1),
        test=Protocol(test, short_side=crops[1], crops="three", crop=crops[1]),
        recipe=_AUTHORS_SMALL if size == "s" else _AUTHORS,
        train_crop=crops[0],
        train_short_side=crops[1],
        mean=(114.75,) * 3,
        std=(57.38,) * 3,
        top1=top1[1],
        source=f"{OPENMMLAB_V1}/x3d/facebook/{upstream}_{date}.pth",
        upstream=upstream,
        section="Kinetics-400",
        config=f"mmaction2/configs/recognition/x3d/{upstream}.py",
        note=f"printed 10-view / 30-view: {top1[0]} / {top1[1]}; the authors' weights and recipe, "
        "MMAction2 has none",
    )


def _pyslowfast_row(
    name: str,
    variant: str,
    crops: tuple[int, int],
    recipe: Recipe,
    top1: float,
    top5: float,
    upstream: str,
    source: str,
    config: str,
    note: str = "",
) -> Row:
    """`crops` are the sides in training and test."""
    dataset = upstream.rsplit("_", 1)[-1]
    if dataset == "k400":
        dataset, views = "kinetics400", "printed 30 views"
        test = Sampling("timed", 16, 5, num_clips=10, target_fps=30)
    else:
        views = f"printed 6 views; {_DRAWN}"
        test = Sampling("uniform", 16, num_clips=2)
    return Row(
        name=name,
        variant=variant,
        dataset=dataset,
        num_classes=CLASS_COUNTS[dataset],
        train=replace(test, num_clips=1),
        test=Protocol(test, short_side=crops[1], crops="three", crop=crops[1]),
        recipe=recipe,
        train_crop=crops[0],
        train_short_side=max(crops[1], 256),
        mean=(114.75,) * 3,
        std=(57.375,) * 3,
        channel_order="bgr" if recipe is _SOMETHING_LARGE else "rgb",
        top1=top1,
        top5=top5,
        source=source,
        upstream=upstream,
        section=_SECTIONS.get(dataset, "Kinetics-400"),
        config=config,
        pretrained="-",
        note=f"{views}; {note}" if note else views,
    )


_PYSLOWFAST = "https://dl.fbaipublicfiles.com/pyslowfast/x3d_models"
_VOV3D = "https://dl.dropbox.com/s"

# fmt: off
ROWS = [
    _mmaction_row("s", (13, 6), (160, 182), (73.2, 73.3), "20201027-623825a0"),
    _mmaction_row("m", (16, 5), (224, 256), (75.2, 76.4), "20201027-3f42382a"),
    _pyslowfast_row("pyslowfast_x3d_m_16x5_k400", "pyslowfast_x3d_m", (224, 256), _AUTHORS,
                    76.0, 92.3, "x3d_pyslowfast_300e_m_f16_k400", f"{_PYSLOWFAST}/x3d_m.pyth",
                    "SlowFast/configs/Kinetics/X3D_M.yaml"),
    _pyslowfast_row("pyslowfast_x3d_m_16x5_k400_256e", "pyslowfast_x3d_m", (224, 256),
                    replace(_AUTHORS, epochs=256), 75.0, 92.1, "x3d_our_256e_m_f16_k400",
                    f"{_VOV3D}/s87lnn7ch4a6e47/x3d_M_256e_k400.pth",
                    "VoV3D/configs/Kinetics/x3d/X3D_M_256e.yaml"),
    _pyslowfast_row("pyslowfast_x3d_l_16x5_k400", "pyslowfast_x3d_l", (312, 356), _AUTHORS_LARGE,
                    77.5, 92.9, "x3d_pyslowfast_l_f16_k400", f"{_PYSLOWFAST}/x3d_l.pyth",
                    "SlowFast/configs/Kinetics/X3D_L.yaml",
                    note="the table's 6.1M parameters are 6.15M"),
    _pyslowfast_row("pyslowfast_x3d_m_u16_sthv1", "pyslowfast_x3d_m", (224, 224), _SOMETHING,
                    46.4, 75.3, "x3d_m_f16_sthv1", f"{_VOV3D}/lb9uvj4tl19xzmn/x3d_M_ssv1.pth",
                    "VoV3D/configs/SSv1/x3d/x3d_M.yaml", note=_M_FLOPS),
    _pyslowfast_row("pyslowfast_x3d_m_u16_sthv2", "pyslowfast_x3d_m", (224, 224), _SOMETHING,
                    63.0, 87.9, "x3d_m_f16_sthv2", f"{_VOV3D}/b6gjywzrn85sa89/x3d_M_ssv2.pth",
                    "VoV3D/configs/SSv2/x3d/x3d_M.yaml",
                    note=f"{_M_FLOPS} and a single view"),
    _pyslowfast_row("pyslowfast_x3d_l_u16_sthv1", "pyslowfast_x3d_l_224", (224, 224),
                    _SOMETHING_LARGE, 47.0, 76.4, "x3d_l_f16_sthv1",
                    f"{_VOV3D}/yixwwfv6mv2bpnd/x3d_L_ssv1.pth",
                    "VoV3D/configs/SSv1/x3d/x3d_L.yaml", note=_L_CONFIG),
    _pyslowfast_row("pyslowfast_x3d_l_u16_sthv2", "pyslowfast_x3d_l_224", (224, 224),
                    _SOMETHING_LARGE, 62.7, 87.7, "x3d_l_f16_sthv2",
                    f"{_VOV3D}/iaqwbejrkbd7372/x3d_L_ssv2.pth",
                    "VoV3D/configs/SSv2/x3d/x3d_L.yaml", note=_L_CONFIG),
]
# fmt: on
