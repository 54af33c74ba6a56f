"""Video Swin Transformer (Liu et al., "Video Swin Transformer", CVPR 2022).

In: video [B, T, H, W, C], one clip. Out: logits [B, classes].
What sets it apart: attention stays inside windows of 8 x 7 x 7 patches of a clip, and windows of
every second block lie half a window further in time, height and width, so that what one window
knows reaches the next. Clips and crops of any size enter: windows shrink to a smaller grid, and
zeros fill the last ones of a larger grid.
"""

from dataclasses import replace
from typing import Any

import flax.linen as nn
import jax

from jaxvid.layers import names
from jaxvid.layers.heads import MeanHead
from jaxvid.layers.swin import Swin, swin_names
from jaxvid.rows import CLASS_COUNTS, OPENMMLAB_V1, Protocol, Recipe, Row, Sampling


class VideoSwin(nn.Module):
    """Swin's trunk on patches of two frames, and a linear layer on the mean of its features.

    `drop_path` is the last block's rate, zero at the first and linear between. With `scan_blocks`
    two blocks are compiled for all of a stage.
    """

    num_classes: int = 400
    dim: int = 96
    depths: tuple[int, ...] = (2, 2, 6, 2)
    heads: tuple[int, ...] = (3, 6, 12, 24)
    window: tuple[int, int, int] = (8, 7, 7)
    patch: tuple[int, int, int] = (2, 4, 4)
    drop_path: float = 0.0
    dropout: float = 0.5
    scan_blocks: bool = False
    dtype: Any = None

    @nn.compact
    def __call__(
        self, video: jax.Array, train: bool = False
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Maps video [B, T, H, W, C] to logits [B, classes] and the intermediates by name.

        `stem` and `stage1`.. are [B, T', H', W', C'], the last one normalised.
        """
        x, out = Swin(
            self.dim,
            self.depths,
            self.heads,
            self.window,
            self.patch,
            drop_path=self.drop_path,
            scan_blocks=self.scan_blocks,
            dtype=self.dtype,
            name="backbone",
        )(video, train)
        head = MeanHead(self.num_classes, self.dropout, dtype=self.dtype, name="head")
        logits, out["pre_logits"] = head(x, train)
        return logits, out


Model = VideoSwin

_DEEP = {"depths": (2, 2, 18, 2)}

FAMILY = "VideoSwin"
VARIANTS = {
    "swin_t": {"drop_path": 0.1},
    "swin_s": {**_DEEP, "drop_path": 0.2},
    "swin_b": {**_DEEP, "dim": 128, "heads": (4, 8, 16, 32), "drop_path": 0.3},
    "swin_l": {**_DEEP, "dim": 192, "heads": (6, 12, 24, 48), "drop_path": 0.4},
    # Four steps in time: windows of two shift there as well.
    "swin_test": {
        "dim": 8,
        "depths": (2, 1),
        "heads": (1, 2),
        "window": (2, 3, 3),
        "patch": (1, 4, 4),
    },
}

NAMES = [
    *swin_names("conv3d", "norm3", merge_closes_stage=True),
    *names.dense("cls_head.fc_cls", "head/fc"),
]

# Rows: what MMAction2 1.x publishes. All train in float16 where that is safe.

# The trunk learns at a tenth of the printed rate.
_K400 = Recipe(
    epochs=30,
    batch_size=64,
    optimizer="adamw",
    lr=1e-4,
    weight_decay=0.02,
    no_decay=("*norm*", "*/position_bias"),
    schedule="cosine",
    cosine_from="start",
    schedule_every="epoch",
    warmup_epochs=2.5,
    head_lr_scale=10.0,
)
_K400_LARGE = replace(_K400, weight_decay=0.05)
_K700 = replace(_K400_LARGE, batch_size=128, lr=2e-4)
_K710 = replace(_K400, batch_size=128, lr=2e-4)

_TRAIN = Sampling(clip_len=32, frame_interval=2)
_TEST = Protocol(replace(_TRAIN, num_clips=4), short_side=224, crops="three")


def _row(
    size: str,
    dataset: str,
    recipe: Recipe,
    top1: float,
    top5: float,
    devices: str,
    date: str,
    note: str = "",
) -> Row:
    """A row of `size` tiny, small, base or large. `devices` are GPUs x clips of its config."""
    pretrained = "in22k" if size == "large" else "in1k"
    config = f"swin-{size}-p244-w877_{pretrained}-pre_{devices}-amp-32x2x1-30e_{dataset}-rgb"
    return Row(
        name=f"swin_{size[0]}_32x2_k{dataset.removeprefix('kinetics')}",
        variant=f"swin_{size[0]}",
        dataset=dataset,
        num_classes=CLASS_COUNTS[dataset],
        train=_TRAIN,
        test=_TEST,
        recipe=recipe,
        top1=top1,
        top5=top5,
        source=f"{OPENMMLAB_V1}/swin/{config}/{config}_{date}.pth",
        upstream=config,
        section=f"Kinetics-{dataset.removeprefix('kinetics')}",
        config=f"mmaction2/configs/recognition/swin/{config}.py",
        pretrained="ImageNet-22k" if size == "large" else "ImageNet-1k",
        note=note,
    )


# fmt: off
ROWS = [
    _row("tiny", "kinetics400", _K400, 78.90, 93.77, "8xb8", "20220930-241016b2"),
    _row("small", "kinetics400", _K400, 80.54, 94.46, "8xb8", "20220930-e91ab986"),
    _row("base", "kinetics400", _K400_LARGE, 80.57, 94.49, "8xb8", "20220930-182ec6cc"),
    _row("large", "kinetics400", _K400_LARGE, 83.46, 95.91, "8xb8", "20220930-78ad8b11"),
    _row("large", "kinetics700", _K700, 75.92, 92.72, "16xb8", "20220930-f8d74db7"),
    _row("small", "kinetics710", _K710, 76.90, 92.96, "32xb4", "20230612-8e082ff1",
         note="the table's 604G FLOPs and 197M parameters are Swin-L's: it has 166G and 50.1M"),
]
# fmt: on
