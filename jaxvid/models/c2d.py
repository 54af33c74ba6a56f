"""C2D, the frame net beside non-local I3D (Wang et al., "Non-local Neural Networks", CVPR 2018).

In: video [B, T, H, W, C], a clip of T frames. Out: logits [B, classes].
A 2-D ResNet on the neighbouring frames of a clip, not on frames from all over the video. What sees
time is one maximum over pairs of frames after stage 1, and in the form without it nothing: that
form is TSN fed with clips. The form with it pools its stem without padding.
"""

from dataclasses import replace
from typing import Any

import flax.linen as nn
import jax

from jaxvid.layers import names
from jaxvid.layers.heads import MeanHead
from jaxvid.layers.resnet import DEPTHS, BasicBlock, Bottleneck, ResNet, resnet_names
from jaxvid.rows import CLASS_COUNTS, OPENMMLAB_V1, Protocol, Recipe, Row, Sampling


class C2D(nn.Module):
    """A ResNet on frames, with `pool` halving time after stage 1, and a linear layer.

    `depth` is a key of `layers.resnet.DEPTHS`; `blocks` and `width` override its stages.
    """

    num_classes: int = 400
    depth: int = 50
    blocks: tuple[int, ...] | None = None
    width: int = 64
    pool: bool = True
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
            stem_pool_padding=(0, 0, 0) if self.pool else (0, 1, 1),
            pool2=self.pool,
            dtype=self.dtype,
            name="backbone",
        )(video, train)
        head = MeanHead(self.num_classes, self.dropout, dtype=self.dtype, name="head")
        logits, out["pre_logits"] = head(x, train)
        return logits, out


Model = C2D

FAMILY = "C2D"
VARIANTS: dict[str, dict[str, Any]] = {
    "c2d_r50_nopool": {"depth": 50, "pool": False, "dropout": 0.4},
    "c2d_r101_nopool": {"depth": 101, "pool": False, "dropout": 0.4},
    "c2d_r50_pool": {"depth": 50},
    "c2d_r50_pool_16f": {"depth": 50},
    "c2d_test": {"depth": 18, "blocks": (1, 1), "width": 8},
}

NAMES = [
    *resnet_names("conv2d"),
    *names.dense("cls_head.fc_cls", "head/fc"),
]

# Rows: what the table of C2D publishes.

_SGD = Recipe(
    epochs=100,
    batch_size=256,
    lr=0.01,
    clip_norm=40.0,
    milestones=(40, 80),
    norm_groups=8,
    crop_mode="multi_scale",
)


def _row(
    name: str,
    variant: str,
    clip: tuple[int, int],
    top1: float,
    top5: float,
    upstream: str,
    date: str,
) -> Row:
    """`clip` is its length and interval."""
    length, interval = clip
    test = Sampling(clip_len=length, frame_interval=interval, num_clips=10)
    # Without pooling, features are averaged over all frames of all views before the one linear
    # layer, which equals averaging the views' scores.
    average = "prob" if VARIANTS[variant].get("pool", True) else "score"
    return Row(
        name=name,
        variant=variant,
        dataset="kinetics400",
        num_classes=CLASS_COUNTS["kinetics400"],
        train=replace(test, num_clips=1),
        test=Protocol(test, short_side=224, crops="three", average=average),
        recipe=_SGD,
        top1=top1,
        top5=top5,
        source=f"{OPENMMLAB_V1}/c2d/{upstream}/{upstream}_{date}.pth",
        upstream=upstream,
        section="Kinetics-400",
        config=f"mmaction2/configs/recognition/c2d/{upstream}.py",
        pretrained="ImageNet",
    )


# fmt: off
ROWS = [
    _row("c2d_r50_nopool_8x8_k400", "c2d_r50_nopool", (8, 8), 73.44, 91.00,
         "c2d_r50-in1k-pre-nopool_8xb32-8x8x1-100e_kinetics400-rgb", "20221027-e0227b22"),
    _row("c2d_r101_nopool_8x8_k400", "c2d_r101_nopool", (8, 8), 74.97, 91.77,
         "c2d_r101-in1k-pre-nopool_8xb32-8x8x1-100e_kinetics400-rgb", "20221027-557bd8bc"),
    _row("c2d_r50_8x8_k400", "c2d_r50_pool", (8, 8), 73.89, 91.21,
         "c2d_r50-in1k-pre_8xb32-8x8x1-100e_kinetics400-rgb", "20221027-3ca304fa"),
    _row("c2d_r50_16x4_k400", "c2d_r50_pool_16f", (16, 4), 74.97, 91.91,
         "c2d_r50-in1k-pre_8xb32-16x4x1-100e_kinetics400-rgb", "20221027-5f382a43"),
]
# fmt: on
