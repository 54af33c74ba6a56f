"""R(2+1)D (Tran et al., "A Closer Look at Spatiotemporal Convolutions", CVPR 2018).

In: video [B, T, H, W, C], a clip. Out: logits [B, classes].
A 3-D ResNet each of whose convolutions, stem and shortcuts included, is two: one over space and,
after a norm and a ReLU, one over time. Between them stand as many channels as give the pair the
parameters of the 3-D convolution. Stages 2 to 4 halve time.
"""

from dataclasses import replace
from functools import partial
from typing import Any

import flax.linen as nn
import jax

from jaxvid.layers import names
from jaxvid.layers.conv import Conv
from jaxvid.layers.heads import MeanHead
from jaxvid.layers.norm import BatchNorm
from jaxvid.layers.resnet import DEPTHS, BasicBlock, ResNet, Triple
from jaxvid.rows import (
    CLASS_COUNTS,
    OPENMMLAB_V0,
    OPENMMLAB_V1,
    Protocol,
    Recipe,
    Row,
    Sampling,
)


def middle_channels(inputs: int, outputs: int, height: int, width: int) -> int:
    """Channels between the halves: a 3 x height x width kernel's parameters, shared out.

    Where the kernel spans one frame (shortcuts) the published networks count three all the same.
    """
    space = inputs * height * width
    return 3 * space * outputs // (space + 3 * outputs)


class FactoredConvNorm(nn.Module):
    """A convolution over space, BN, ReLU, one over time, BN and, with `relu`, a ReLU.

    Fields are those of `layers.resnet.ConvNorm`; `epsilon` is the outer norm's, the inner one has
    1e-5.
    """

    features: int
    kernel_size: Triple
    stride: Triple = (1, 1, 1)
    padding: Triple = (0, 0, 0)
    relu: bool = True
    epsilon: float = 1e-5
    momentum: float = 0.1
    zero_init: bool = False
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps x [B, T, H, W, C] to [B, T', H', W', features]."""
        init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
        conv = partial(Conv, kernel_init=init, dtype=self.dtype)
        norm = partial(BatchNorm, momentum=self.momentum, dtype=self.dtype)
        (frames, *space), (step, *steps) = self.kernel_size, self.stride
        (before, *around) = self.padding
        x = conv(
            middle_channels(x.shape[-1], self.features, *space),
            (1, *space),
            (1, *steps),
            (0, *around),
            name="space",
        )(x)
        x = nn.relu(norm(1e-5, name="middle")(x, train))
        x = conv(self.features, (frames, 1, 1), (step, 1, 1), (before, 0, 0), name="time")(x)
        scale_init = nn.initializers.zeros if self.zero_init else nn.initializers.ones
        x = norm(self.epsilon, scale_init=scale_init, name="bn")(x, train)
        return nn.relu(x) if self.relu else x


class R2Plus1D(nn.Module):
    """A factored 3-D ResNet of basic blocks and a linear layer on its mean feature.

    `depth` is a key of `layers.resnet.DEPTHS`; `blocks` and `width` override its stages.
    """

    num_classes: int = 400
    depth: int = 34
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
            partial(BasicBlock, unit=FactoredConvNorm),
            width=self.width,
            stem_kernel=(3, 7, 7),
            stem_unit=FactoredConvNorm,
            inflate=((3,), (3,), (3,), (3,)),
            temporal_strides=(1, 2, 2, 2),
            epsilon=1e-3,
            dtype=self.dtype,
            name="backbone",
        )(video, train)
        head = MeanHead(self.num_classes, self.dropout, dtype=self.dtype, name="head")
        logits, out["pre_logits"] = head(x, train)
        return logits, out


Model = R2Plus1D

FAMILY = "R(2+1)D"
VARIANTS = {
    "r2plus1d_r34_8f": {"depth": 34},
    "r2plus1d_r34_32f": {"depth": 34},
    "r2plus1d_test": {"blocks": (1, 1), "width": 8},
}


def _names() -> list[names.Rule]:
    unit = "{c:conv1|conv2|downsample}"
    rules = names.dense("cls_head.fc_cls", "head/fc")
    for key, path in (
        ("backbone.conv1", "backbone/conv1"),
        (f"backbone.layer{{s}}.{{b}}.{unit}", f"backbone/layer{{s}}_{{b}}/{unit}"),
    ):
        rules += names.conv(f"{key}.conv.conv_s", f"{path}/space", "conv3d")
        rules += names.batch_norm(f"{key}.conv.bn_s", f"{path}/middle")
        rules += names.conv(f"{key}.conv.conv_t", f"{path}/time", "conv3d")
        rules += names.batch_norm(f"{key}.bn", f"{path}/bn")
    return rules


NAMES = _names()

# Rows: what the tables of MMAction2 1.x and 0.x publish.

# BatchNorm's statistics are those of all GPUs together.
_RECIPE = Recipe(
    epochs=180,
    batch_size=64,
    lr=0.01,
    clip_norm=40.0,
    schedule="cosine",
    schedule_every="epoch",
)
_RECIPE_V0 = replace(_RECIPE, lr=0.1)


def _row(
    name: str,
    clip: tuple[int, int],
    recipe: Recipe,
    top1: float,
    top5: float,
    upstream: str,
    date: str,
    file: str = "",
    note: str = "",
) -> Row:
    """`clip` is its length and interval; `file` names a checkpoint not called as its config."""
    length, interval = clip
    test = Sampling(clip_len=length, frame_interval=interval, num_clips=10)
    v1 = "8xb8" in upstream
    file = file or upstream
    folder = f"{'mmaction2' if v1 else 'mmaction2@0.x'}/configs/recognition/r2plus1d"
    return Row(
        name=name,
        variant=f"r2plus1d_r34_{length}f",
        dataset="kinetics400",
        num_classes=CLASS_COUNTS["kinetics400"],
        train=replace(test, num_clips=1),
        test=Protocol(test, crops="three", crop=256),
        recipe=recipe,
        top1=top1,
        top5=top5,
        source=f"{OPENMMLAB_V1 if v1 else OPENMMLAB_V0}/r2plus1d/{file}/{file}_{date}.pth",
        upstream=upstream,
        section="Kinetics-400",
        config=f"{folder}/{upstream}.py",
        pretrained="None",
        note=note,
    )


_SHORT_256 = "frames were stored with a short side of 256"
_SHORT_320 = "frames were stored with a short side of 320"

# fmt: off
ROWS = [
    _row("r2plus1d_r34_8x8_k400", (8, 8), _RECIPE, 69.76, 88.41,
         "r2plus1d_r34_8xb8-8x8x1-180e_kinetics400-rgb", "20220812-47cfe041"),
    _row("r2plus1d_r34_32x2_k400", (32, 2), _RECIPE, 75.46, 92.28,
         "r2plus1d_r34_8xb8-32x2x1-180e_kinetics400-rgb", "20220812-4270588c"),
    _row("r2plus1d_r34_8x8_k400_256p", (8, 8), _RECIPE_V0, 67.30, 87.65,
         "r2plus1d_r34_8x8x1_180e_kinetics400_rgb", "20200729-aa94765e",
         file="r2plus1d_r34_256p_8x8x1_180e_kinetics400_rgb", note=_SHORT_256),
    _row("r2plus1d_r34_8x8_k400_video_256p", (8, 8), replace(_RECIPE_V0, batch_size=128, lr=0.2),
         67.3, 87.8, "r2plus1d_r34_video_8x8x1_180e_kinetics400_rgb", "20200826-ab35a529",
         note="videos were stored with a short side of 256"),
    _row("r2plus1d_r34_8x8_k400_320p", (8, 8), _RECIPE_V0, 68.68, 88.36,
         "r2plus1d_r34_8x8x1_180e_kinetics400_rgb", "20200618-3fce5629",
         note=f"{_SHORT_320}; printed 80x3 frames, which are 10 clips of 8 in three crops"),
    _row("r2plus1d_r34_32x2_k400_320p", (32, 2), replace(_RECIPE_V0, batch_size=48, lr=0.075),
         74.60, 91.59, "r2plus1d_r34_32x2x1_180e_kinetics400_rgb", "20200618-63462eb3",
         note=f"{_SHORT_320}; printed 320x3 frames, which are 10 clips of 32 in three crops"),
]
# fmt: on
