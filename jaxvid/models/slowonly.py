"""The slow pathway alone (Feichtenhofer et al., "SlowFast Networks", ICCV 2019).

In: video [B, T, H, W, C], a clip of T frames taken many frames apart. Out: logits [B, classes].
A ResNet whose last two stages are inflated (3x1x1 in each block's first convolution) and which
never strides in time.
"""

from typing import Any

import flax.linen as nn
import jax

from jaxvid.layers.heads import MeanHead
from jaxvid.layers.resnet import DEPTHS, BasicBlock, Bottleneck, ResNet, resnet_names
from jaxvid.rows import Row


class SlowOnly(nn.Module):
    """An inflated ResNet and a linear layer on its mean feature.

    `depth` is a key of `layers.resnet.DEPTHS`; `blocks` and `width` override its stages.
    `inflate` gives the temporal kernel of each stage's blocks, `stem` the stem's three.
    """

    num_classes: int = 400
    depth: int = 50
    blocks: tuple[int, ...] | None = None
    width: int = 64
    inflate: tuple[int, ...] = (1, 1, 3, 3)
    temporal_strides: tuple[int, ...] = (1, 1, 1, 1)
    stem: tuple[int, int, int] = (1, 7, 7)
    dropout: float = 0.5
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
            stem_kernel=self.stem,
            inflate=tuple((kernel,) for kernel in self.inflate),
            temporal_strides=self.temporal_strides,
            zero_init=True,
            dtype=self.dtype,
            name="backbone",
        )(video, train)
        head = MeanHead(self.num_classes, self.dropout, dtype=self.dtype, name="head")
        logits, out["pre_logits"] = head(x, train)
        return logits, out


Model = SlowOnly

VARIANTS = {
    "slowonly_r50_4f": {"depth": 50},
    "slowonly_r50_8f": {"depth": 50},
    "slowonly_test": {"depth": 50, "blocks": (1, 1, 1, 1), "width": 8},
}

NAMES = [
    *resnet_names("conv3d"),
    ("cls_head.fc_cls.weight", "params/head/fc/kernel", "linear"),
    ("cls_head.fc_cls.bias", "params/head/fc/bias", "same"),
]

ROWS: list[Row] = []
