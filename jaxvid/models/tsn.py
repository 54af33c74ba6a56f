"""Temporal segment networks (Wang et al., "Temporal Segment Networks", ECCV 2016).

In: video [B, T, H, W, C], one frame from each of T segments. Out: logits [B, classes].
A 2-D ResNet sees each frame alone; features are averaged over all frames before one linear layer,
so any number of frames may enter, and the logits of several views average to those of all frames.
"""

from typing import Any

import flax.linen as nn
import jax

from jaxvid.layers.heads import MeanHead
from jaxvid.layers.resnet import DEPTHS, BasicBlock, Bottleneck, ResNet, resnet_names
from jaxvid.rows import Row


class TSN(nn.Module):
    """A ResNet on frames and a linear layer on their mean feature.

    `depth` is a key of `layers.resnet.DEPTHS`; `blocks` and `width` override its stages.
    """

    num_classes: int = 400
    depth: int = 50
    blocks: tuple[int, ...] | None = None
    width: int = 64
    dropout: float = 0.4
    dtype: Any = None

    @nn.compact
    def __call__(
        self, video: jax.Array, train: bool = False
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Maps video [B, T, H, W, C] to logits [B, classes] and the intermediates by name."""
        x, out = ResNet(
            self.blocks or DEPTHS[self.depth],
            BasicBlock if self.depth < 50 else Bottleneck,
            width=self.width,
            dtype=self.dtype,
            name="backbone",
        )(video, train)
        head = MeanHead(self.num_classes, self.dropout, dtype=self.dtype, name="head")
        logits, out["pre_logits"] = head(x, train)
        return logits, out


Model = TSN

VARIANTS = {
    "tsn_r50": {"depth": 50, "dropout": 0.4},
    "tsn_test": {"depth": 50, "blocks": (1, 1, 1, 1), "width": 8},
}

NAMES = [
    *resnet_names("conv2d"),
    ("cls_head.fc_cls.weight", "params/head/fc/kernel", "linear"),
    ("cls_head.fc_cls.bias", "params/head/fc/bias", "same"),
]

ROWS: list[Row] = []
