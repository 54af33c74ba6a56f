"""Temporal shift module (Lin, Gan and Han, "TSM", ICCV 2019).

In: video [B, T, H, W, C], one frame from each of T segments. Out: logits [B, classes].
What sets it apart from TSN: before the first convolution of a residual block an eighth of the
channels moves one frame back and an eighth one frame forth, so 2-D convolutions see motion at no
cost; and scores, not features, are averaged over the frames.
"""

from typing import Any

import flax.linen as nn
import jax

from jaxvid.layers.heads import MeanHead
from jaxvid.layers.resnet import DEPTHS, BasicBlock, Bottleneck, Hook, Place, ResNet, resnet_names
from jaxvid.layers.temporal import temporal_shift
from jaxvid.rows import Row


def shift_hook(every: int, divisor: int) -> Hook:
    """Shifts the input of conv1 in every `every`-th block of a stage, and no shortcut."""

    def hook(place: Place, x: jax.Array, train: bool) -> jax.Array:
        if place.point == "conv1_in" and place.block % every == 0:
            return temporal_shift(x, divisor)
        return x

    return hook


class TSM(nn.Module):
    """A ResNet on frames with shifted channels, and the mean of the frames' scores.

    `depth` is a key of `layers.resnet.DEPTHS`; `blocks` and `width` override its stages. Trunks
    with 23 or more blocks in stage 3 shift in every second block only.
    """

    num_classes: int = 400
    depth: int = 50
    blocks: tuple[int, ...] | None = None
    width: int = 64
    shift_divisor: int = 8
    dropout: float = 0.5
    dtype: Any = None

    @nn.compact
    def __call__(
        self, video: jax.Array, train: bool = False
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Maps video [B, T, H, W, C] to logits [B, classes] and the intermediates by name."""
        depths = self.blocks or DEPTHS[self.depth]
        x, out = ResNet(
            depths,
            BasicBlock if self.depth < 50 else Bottleneck,
            width=self.width,
            hook=shift_hook(2 if depths[2] >= 23 else 1, self.shift_divisor),
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


Model = TSM

VARIANTS = {
    "tsm_r50_8f": {"depth": 50},
    "tsm_r50_16f": {"depth": 50},
    "tsm_test": {"depth": 18, "blocks": (1, 1, 1, 1), "width": 16, "dropout": 0.0},
}

NAMES = [
    *resnet_names("conv2d", conv1="conv.net"),
    ("cls_head.fc_cls.weight", "params/head/fc/kernel", "linear"),
    ("cls_head.fc_cls.bias", "params/head/fc/bias", "same"),
]

ROWS: list[Row] = []
