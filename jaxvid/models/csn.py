"""Channel-separated networks (Tran et al., "Video Classification with CSNs", ICCV 2019).

In: video [B, T, H, W, C], a clip. Out: logits [B, classes].
A ResNet whose only convolutions over space and time are depthwise 3x3x3 ones: they mix no channels,
and the 1x1x1 convolutions around them, which do, see one pixel of one frame. The
interaction-reduced form (ir) replaces a bottleneck's conv2 by such a convolution; the
interaction-preserved one (ip) keeps a 1x1x1 convolution before it. Stages 2 to 4 halve time.
"""

from dataclasses import replace
from functools import partial
from typing import Any

import flax.linen as nn
import jax

from jaxvid.layers import names
from jaxvid.layers.heads import MeanHead
from jaxvid.layers.resnet import DEPTHS, ConvNorm, ResidualBlock, ResNet, stem_names
from jaxvid.rows import (
    CLASS_COUNTS,
    OPENMMLAB_V0,
    OPENMMLAB_V1,
    STHV1_MIRRORED,
    Protocol,
    Recipe,
    Row,
    Sampling,
)


class SeparatedBottleneck(ResidualBlock):
    """1x1x1, depthwise 3x3x3 with the stride, 1x1x1, and a shortcut.

    With `preserve` a 1x1x1 convolution without ReLU stands before the depthwise one. `temporal` is
    not looked at: no block spans less than three frames.
    """

    expansion = 4
    preserve: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps x [B, T, H, W, C] to [B, T', H', W', 4 * width]."""
        unit = partial(ConvNorm, epsilon=self.epsilon, momentum=self.momentum, dtype=self.dtype)
        one, three = (1, 1, 1), (3, 3, 3)
        features = self.width * self.expansion
        x = self.at("block_in", x, train)
        y = self.at("conv1_in", x, train)
        y = unit(self.width, one, name="conv1")(y, train)
        y = self.at("conv1_out", y, train)
        if self.preserve:
            y = unit(self.width, one, relu=False, name="mix")(y, train)
        y = unit(self.width, three, self.stride, one, self.width, name="conv2")(y, train)
        y = self.at("conv2_out", y, train)
        y = unit(features, one, relu=False, zero_init=self.zero_init, name="conv3")(y, train)
        if self.block == 0 and (self.stride != one or x.shape[-1] != features):
            x = unit(features, one, self.stride, relu=False, name="downsample")(x, train)
        return self.at("block_out", nn.relu(x + y), train)


class CSN(nn.Module):
    """A ResNet of channel-separated blocks and a linear layer on its mean feature.

    `depth` is a key of `layers.resnet.DEPTHS`; `blocks` and `width` override its stages. `preserve`
    makes the interaction-preserved form.
    """

    num_classes: int = 400
    depth: int = 152
    blocks: tuple[int, ...] | None = None
    width: int = 64
    preserve: bool = False
    dropout: float = 0.5
    dtype: Any = None

    @nn.compact
    def __call__(
        self, video: jax.Array, train: bool = False
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Maps video [B, T, H, W, C] to logits [B, classes] and the intermediates by name."""
        x, out = ResNet(
            self.blocks or DEPTHS[self.depth],
            partial(SeparatedBottleneck, preserve=self.preserve),
            width=self.width,
            stem_kernel=(3, 7, 7),
            temporal_strides=(1, 2, 2, 2),
            epsilon=1e-3,
            dtype=self.dtype,
            name="backbone",
        )(video, train)
        head = MeanHead(self.num_classes, self.dropout, dtype=self.dtype, name="head")
        logits, out["pre_logits"] = head(x, train)
        return logits, out


Model = CSN

_TINY = {"blocks": (1, 1), "width": 8}

FAMILY = "CSN"
VARIANTS: dict[str, dict[str, Any]] = {
    "csn_ir_r152": {"depth": 152},
    "csn_ir_r50": {"depth": 50},
    "csn_ip_r152": {"depth": 152, "preserve": True},
    "csn_test": _TINY,
    "csn_ip_test": {**_TINY, "preserve": True},
}


def _names(preserve: bool) -> list[names.Rule]:
    block, path = "backbone.layer{s}.{b}", "backbone/layer{s}_{b}"
    unit = "{c:conv1|conv3|downsample}"
    middle = ("mix", "conv2") if preserve else ("conv2",)
    rules = [
        *stem_names("conv3d"),
        *names.conv_norm(f"{block}.{unit}", f"{path}/{unit}", "conv3d"),
        *names.dense("cls_head.fc_cls", "head/fc"),
    ]
    for i, name in enumerate(middle):
        rules += names.conv_norm(f"{block}.conv2.{i}", f"{path}/{name}", "conv3d")
    return rules


NAMES = {
    variant: _names(preserve=fields.get("preserve", False)) for variant, fields in VARIANTS.items()
}

# Rows: what the table of CSN publishes, and the row of its authors that VoV3D quotes.

_VMZ_MEAN = (110.2008, 100.63983, 95.99475)
_VMZ_STD = (58.14765, 56.46975, 55.332195)

_STEPS = Recipe(
    epochs=58,
    batch_size=96,
    lr=5e-4,
    clip_norm=40.0,
    milestones=(32, 48),
    warmup_epochs=16,
    warmup_every="epoch",
    freeze_norm="all",
    norm_groups=8,
)
_SCRATCH = Recipe(
    epochs=180,
    batch_size=32,
    lr=0.08,
    clip_norm=40.0,
    schedule="cosine",
    cosine_from="start",
    schedule_every="epoch",
    warmup_epochs=40,
    norm_groups=8,
)
_VMZ = "the authors' weights (VMZ)"
_INHERITED = (
    f"{_VMZ}; its config inherits fine-tuning for 58 epochs, so the recipe is that of the 0.x "
    "config; both freeze BatchNorm, which no training from scratch can have done"
)


def _row(
    name: str,
    variant: str,
    recipe: Recipe,
    top1: float,
    top5: float,
    upstream: str,
    weights: str,
    pretrained: str = "IG65M",
    vmz_pixels: bool = False,
    note: str = "",
) -> Row:
    """`weights` is the checkpoint's path under VMZ's, or the date of the table's own."""
    test = Sampling(clip_len=32, frame_interval=2, num_clips=10)
    if weights.startswith("vmz"):
        source = f"{OPENMMLAB_V0}/csn/vmz/{weights}.pth"
    else:
        source = f"{OPENMMLAB_V1}/csn/{upstream}/{upstream}_{weights}.pth"
    row = Row(
        name=name,
        variant=variant,
        dataset="kinetics400",
        num_classes=CLASS_COUNTS["kinetics400"],
        train=replace(test, num_clips=1),
        test=Protocol(test, crops="three", crop=256),
        recipe=recipe,
        top1=top1,
        top5=top5,
        source=source,
        upstream=upstream,
        section="Kinetics-400",
        config=f"mmaction2/configs/recognition/csn/{upstream}.py",
        pretrained=pretrained,
        note=note,
    )
    return replace(row, mean=_VMZ_MEAN, std=_VMZ_STD) if vmz_pixels else row


# fmt: off
ROWS = [
    _row("csn_ir_r152_32x2_k400_ig65m", "csn_ir_r152", _STEPS, 82.87, 95.90,
         "ircsn_ig65m-pretrained-r152_8xb12-32x2x1-58e_kinetics400-rgb", "20220811-c7a3cc5b",
         note="named as if BatchNorm were not frozen, as it is not in the 0.x config, but its "
              "config inherits that it is"),
    _row("csn_ir_r152_32x2_k400_ig65m_bnfrozen", "csn_ir_r152", _STEPS, 82.84, 95.92,
         "ircsn_ig65m-pretrained-r152-bnfrozen_8xb12-32x2x1-58e_kinetics400-rgb",
         "20220811-7d1dacde"),
    _row("csn_ir_r50_32x2_k400_ig65m_bnfrozen", "csn_ir_r50", _STEPS, 79.44, 94.26,
         "ircsn_ig65m-pretrained-r50-bnfrozen_8xb12-32x2x1-58e_kinetics400-rgb",
         "20220811-44395bae"),
    _row("csn_ip_r152_32x2_k400", "csn_ip_r152", _SCRATCH, 77.80, 93.10,
         "ipcsn_r152_32x2x1-180e_kinetics400-rgb",
         "vmz_ipcsn_from_scratch_r152_32x2x1_180e_kinetics400_rgb_20210617-d565828d",
         pretrained="None", vmz_pixels=True, note=_INHERITED),
    _row("csn_ir_r152_32x2_k400", "csn_ir_r152", _SCRATCH, 76.53, 92.28,
         "ircsn_r152_32x2x1-180e_kinetics400-rgb",
         "vmz_ircsn_from_scratch_r152_32x2x1_180e_kinetics400_rgb_20210617-5c933ae1",
         pretrained="None", vmz_pixels=True, note=_INHERITED),
    _row("csn_ip_r152_32x2_k400_ig65m_bnfrozen", "csn_ip_r152", _STEPS, 82.68, 95.69,
         "ipcsn_ig65m-pretrained-r152-bnfrozen_32x2x1-58e_kinetics400-rgb",
         "vmz_ipcsn_ig65m_pretrained_r152_32x2x1_58e_kinetics400_rgb_20210617-c3be9793",
         note=_VMZ),
    _row("csn_ip_r152_32x2_k400_sports1m_bnfrozen", "csn_ip_r152", _STEPS, 79.07, 93.82,
         "ipcsn_sports1m-pretrained-r152-bnfrozen_32x2x1-58e_kinetics400-rgb",
         "vmz_ipcsn_sports1m_pretrained_r152_32x2x1_58e_kinetics400_rgb_20210617-3367437a",
         pretrained="Sports1M", vmz_pixels=True, note=_VMZ),
    _row("csn_ir_r152_32x2_k400_sports1m_bnfrozen", "csn_ir_r152", _STEPS, 78.57, 93.44,
         "ircsn_sports1m-pretrained-r152-bnfrozen_32x2x1-58e_kinetics400-rgb",
         "vmz_ircsn_sports1m_pretrained_r152_32x2x1_58e_kinetics400_rgb_20210617-b9b10241",
         pretrained="Sports1M", vmz_pixels=True,
         note=f"{_VMZ}; the printed 33.02M parameters and 109.9G are those of ip-CSN: these are "
              "29.70M and 97.6G"),
    Row(
        name="csn_ip_r152_32x2_sthv1",
        variant="csn_ip_r152",
        dataset="sthv1",
        num_classes=CLASS_COUNTS["sthv1"],
        train=Sampling(clip_len=32, frame_interval=2),
        test=Protocol(Sampling(clip_len=32, frame_interval=2, num_clips=10)),
        recipe=replace(_SCRATCH, mirrored_labels=STHV1_MIRRORED),
        mean=_VMZ_MEAN,
        std=_VMZ_STD,
        top1=49.3,
        upstream="ip_csn_152_f32_sthv1",
        section="Something-Something-V1",
        note="quoted by VoV3D as 10 views of 32 frames, without config or weights: all else is "
             "borrowed from Kinetics-400; the printed 29.7M parameters and 74.0G are those of "
             "ir-CSN (of 400 classes)",
    ),
]
# fmt: on
