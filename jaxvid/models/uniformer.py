"""UniFormer, a unified transformer of local and global relations (Li et al., ICLR 2022).

In: video [B, T, H, W, C], one clip. Out: logits [B, classes], from the mean over all positions.
What sets it apart: every block relates positions in one form, by affinities of learnt values. Near
the input, where neighbours tell most, they are local and fixed, which is a depthwise convolution;
in the last two of four stages they are attention between all positions of the clip. Depthwise
convolutions in each block know positions, so that clips of any length and size enter. Only the stem
shortens time; a stage begins by cutting its maps into patches of 2 x 2.
"""

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from jaxvid.layers import names
from jaxvid.layers.conv import Conv
from jaxvid.layers.drop import DropPath
from jaxvid.layers.heads import MeanHead
from jaxvid.layers.norm import BatchNorm
from jaxvid.layers.shortcut import add
from jaxvid.layers.vit import Block, apply_blocks, layer_norm
from jaxvid.rows import CLASS_COUNTS, NORMS_UNKNOWN, OPENMMLAB_V1, Protocol, Recipe, Row, Sampling

Triple = tuple[int, int, int]

# (kernel, stride, padding) of what opens the first stage, and of what opens the others.
STEM = (3, 4, 4), (2, 4, 4), (1, 0, 0)
MERGE = (1, 2, 2), (1, 2, 2), (0, 0, 0)

EPSILON = 1e-5
conv_init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def pointwise(features: int, dtype: Any, name: str) -> Conv:
    """A linear layer at every position."""
    return Conv(features, use_bias=True, dtype=dtype, kernel_init=conv_init, name=name)


def depthwise(features: int, side: int, dtype: Any, name: str) -> Conv:
    """A depthwise convolution by a cube of `side`, which keeps the size of the map."""
    return Conv(
        features,
        (side,) * 3,
        padding=(side // 2,) * 3,
        groups=features,
        use_bias=True,
        dtype=dtype,
        kernel_init=conv_init,
        name=name,
    )


class PatchEmbed(nn.Module):
    """Cuts a map into patches and projects each, followed by a layer norm over channels."""

    features: int
    cut: tuple[Triple, Triple, Triple]
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [B, T, H, W, C] to [B, T', H', W', features]; what fills no patch is left out."""
        x = Conv(
            self.features,
            *self.cut,
            use_bias=True,
            dtype=self.dtype,
            kernel_init=conv_init,
            name="proj",
        )(x)
        return layer_norm("norm", EPSILON, self.dtype)(x)


class LocalRelation(nn.Module):
    """Weighs the values of neighbours by where they are: a depthwise convolution of side 5."""

    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [B, T, H, W, C] to the same shape."""
        width = x.shape[-1]
        x = pointwise(width, self.dtype, "value")(x)
        x = depthwise(width, 5, self.dtype, "affinity")(x)
        return pointwise(width, self.dtype, "proj")(x)


class LocalBlock(nn.Module):
    """Position, local relation and MLP, each beside a shortcut, with norms over the batch."""

    mlp_ratio: int
    drop_path: float
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps [B, T, H, W, C] to the same shape."""
        width, drop_path = x.shape[-1], DropPath(self.drop_path)
        x = add(x, depthwise(width, 3, self.dtype, "pos_embed")(x), train)
        y = BatchNorm(dtype=self.dtype, name="norm1")(x, train)
        y = LocalRelation(self.dtype, name="attn")(y)
        x = add(x, drop_path(y, train), train)
        y = BatchNorm(dtype=self.dtype, name="norm2")(x, train)
        y = pointwise(self.mlp_ratio * width, self.dtype, "fc1")(y)
        y = pointwise(width, self.dtype, "fc2")(nn.gelu(y, approximate=False))
        return add(x, drop_path(y, train), train)


class GlobalBlock(nn.Module):
    """Position, attention between all positions of the clip and MLP, each beside a shortcut."""

    heads: int
    mlp_ratio: int
    drop_path: float
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps [B, T, H, W, C] to the same shape."""
        batch, *_, width = x.shape
        x = add(x, depthwise(width, 3, self.dtype, "pos_embed")(x), train)
        block = Block(
            self.heads,
            self.mlp_ratio * width,
            drop_path=self.drop_path,
            epsilon=EPSILON,
            dtype=self.dtype,
            name="vit",
        )
        return block(x.reshape(batch, -1, width), train).reshape(x.shape)


class UniFormer(nn.Module):
    """Four stages of blocks, local in the first two and global in the others, and a linear head.

    `depths` and `dims` are blocks and channels of each stage; heads are `head_dim` channels wide.
    `drop_path` is the last block's rate, zero at the first and linear between. With `scan_blocks`
    one global block is compiled for all of a stage.
    """

    num_classes: int = 400
    depths: tuple[int, int, int, int] = (5, 8, 20, 7)
    dims: tuple[int, int, int, int] = (64, 128, 320, 512)
    head_dim: int = 64
    mlp_ratio: int = 4
    drop_path: float = 0.3
    dropout: float = 0.0
    scan_blocks: bool = False
    dtype: Any = None

    @nn.compact
    def __call__(
        self, video: jax.Array, train: bool = False
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Maps video [B, T, H, W, C] to logits [B, classes] and the intermediates by name.

        `stem` and `stage1`.. are [B, T', H', W', C'] (the last one normalised), `pre_logits` is
        [B, C'].
        """
        rates = iter(np.linspace(0, self.drop_path, sum(self.depths)))
        out = {}
        x = video
        for stage, (depth, dim) in enumerate(zip(self.depths, self.dims, strict=True), 1):
            cut = STEM if stage == 1 else MERGE
            x = PatchEmbed(dim, cut, self.dtype, name=f"patch_embed{stage}")(x)
            if stage == 1:
                out["stem"] = x
            kind: Callable[..., nn.Module] = LocalBlock
            if stage > 2:
                kind = functools.partial(GlobalBlock, dim // self.head_dim)
            blocks = {
                f"stage{stage}_block{i}": kind(
                    self.mlp_ratio, float(next(rates)), self.dtype, parent=None
                )
                for i in range(depth)
            }
            x = apply_blocks(self, blocks, x, train, self.scan_blocks)
            if stage == len(self.depths):
                x = BatchNorm(dtype=self.dtype, name="norm")(x, train)
            out[f"stage{stage}"] = x
        head = MeanHead(self.num_classes, self.dropout, dtype=self.dtype, name="head")
        logits, out["pre_logits"] = head(x, train)
        return logits, out


Model = UniFormer

FAMILY = "UniFormer"
VARIANTS = {
    "uniformer_s": {"depths": (3, 4, 8, 3), "drop_path": 0.1},
    "uniformer_b_16f": {},
    "uniformer_b_32f": {},
    "uniformer_test": {
        "depths": (1, 0, 1, 0),
        "dims": (8, 8, 16, 16),
        "head_dim": 8,
        "mlp_ratio": 2,
        "drop_path": 0.0,
    },
}

_LOCAL, _GLOBAL = "backbone.blocks{s:1|2}.{i}", "backbone.blocks{s:3|4}.{i}"
_OURS = "stage{s}_block{i}"
NAMES = [
    *names.conv("backbone.patch_embed{s}.proj", "patch_embed{s}/proj", "conv3d", bias=True),
    *names.layer_norm("backbone.patch_embed{s}.norm", "patch_embed{s}/norm"),
    *names.conv("backbone.blocks{s}.{i}.pos_embed", f"{_OURS}/pos_embed", "conv3d", bias=True),
    *names.batch_norm(f"{_LOCAL}.{{n:norm1|norm2}}", f"{_OURS}/{{n}}"),
    *names.conv(f"{_LOCAL}.conv1", f"{_OURS}/attn/value", "conv3d", bias=True),
    *names.conv(f"{_LOCAL}.attn", f"{_OURS}/attn/affinity", "conv3d", bias=True),
    *names.conv(f"{_LOCAL}.conv2", f"{_OURS}/attn/proj", "conv3d", bias=True),
    *names.conv(f"{_LOCAL}.mlp.{{n:fc1|fc2}}", f"{_OURS}/{{n}}", "conv3d", bias=True),
    *names.vit_block(_GLOBAL, f"{_OURS}/vit"),
    *names.batch_norm("backbone.norm", "norm"),
    *names.dense("cls_head.fc_cls", "head/fc"),
]

# Rows: what MMAction2 publishes, with the authors' weights.

# MMAction2 has no recipe: this is what the authors' scripts for 32 frames set.
_K400 = Recipe(
    epochs=110,
    batch_size=32,
    optimizer="adamw",
    lr=1e-4,
    weight_decay=0.05,
    decay_norm_and_bias=False,
    schedule="cosine",
    final_lr=1e-6,
    warmup_epochs=10,
    warmup_factor=0.01,
    label_smoothing=0.1,
    mixup=0.8,
    cutmix=1.0,
    rand_augment="m7-n4",
    random_erasing=0.25,
    repeated_augmentation=2,
)


def _row(
    name: str, variant: str, frames: int, top1: float, top5: float, size: str, date: str, note: str
) -> Row:
    """`date` is that of the checkpoint, with its hash."""
    sampling = Sampling(clip_len=frames, frame_interval=4, num_clips=4)
    upstream = f"uniformer-{size}_imagenet1k-pre_{frames}x4x1_kinetics400-rgb"
    return Row(
        name=name,
        variant=variant,
        dataset="kinetics400",
        num_classes=CLASS_COUNTS["kinetics400"],
        train=replace(sampling, num_clips=1),
        test=Protocol(sampling, short_side=224, crops="center", crop=224),
        recipe=_K400,
        mean=(114.75,) * 3,
        std=(57.375,) * 3,
        top1=top1,
        top5=top5,
        source=f"{OPENMMLAB_V1}/uniformerv1/{upstream}_{date}.pth",
        upstream=upstream,
        section="Kinetics-400",
        config=f"mmaction2/configs/recognition/uniformer/{upstream}.py",
        pretrained="ImageNet-1K",
        note="the authors' weights, accuracy on their 19787 videos; RandAugment's operations and "
        f"the noise of erasing are MMAction2's, not theirs; {note}; {NORMS_UNKNOWN}",
    )


# fmt: off
ROWS = [
    _row("uniformer_s_16x4_k400", "uniformer_s", 16, 80.9, 94.6, "small", "20221219-c630a037",
         "by the authors 80.8/94.7, on MMAction2's copy of Kinetics 80.9/94.6"),
    _row("uniformer_b_16x4_k400", "uniformer_b_16f", 16, 82.0, 95.0, "base", "20221219-157c2e66",
         "by the authors 82.0/95.1, on MMAction2's copy of Kinetics 82.0/95.0"),
    _row("uniformer_b_32x4_k400", "uniformer_b_32f", 32, 83.1, 95.3, "base", "20221219-b776322c",
         "by the authors 82.9/95.4, on MMAction2's copy of Kinetics 83.0/95.3; printed with 59G, "
         "but it takes 259G multiply-accumulates"),
]
# fmt: on
