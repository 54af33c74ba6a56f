"""Temporal relation network (Zhou et al., "Temporal Relational Reasoning in Videos", ECCV 2018).

In: video [B, T, H, W, C], one frame from each of T segments. Out: logits [B, classes].
What sets it apart from TSN: frames are not averaged. Ordered subsets of 2 to T frames each pass a
small network of their length, and the scores of all are summed. There are too many subsets: three
are drawn of each length. Training draws new ones in each step; testing, where the reference goes on
drawing, takes those of `draw_relations` with the model's `relation_seed`, so that a video's scores
are always the same. The number of segments is part of the weights.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxvid.layers import names
from jaxvid.layers.resnet import DEPTHS, BasicBlock, Bottleneck, ResNet, resnet_names
from jaxvid.rows import (
    CLASS_COUNTS,
    OPENMMLAB_V1,
    STHV1_MIRRORED,
    STHV2_MIRRORED,
    Protocol,
    Recipe,
    Row,
    Sampling,
)

SUBSETS = 3

Relations = Sequence[Sequence[Sequence[int]]]
"""Frame numbers: of each length, from all frames down to two, its subsets."""

# As PyTorch draws the weights of a new layer: uniform within 1 / sqrt(inputs).
_INIT = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def subsets(frames: int, length: int) -> np.ndarray:
    """All subsets of `length` of `frames` frames, in the order of their numbers: [N, length]."""
    return np.array(list(itertools.combinations(range(frames), length)))


def draw_relations(frames: int, seed: int) -> Relations:
    """At most 3 subsets of each length, drawn as the reference does after `np.random.seed(seed)`.

    The first length is that of the whole clip, which has one subset and needs no draw.
    """
    rng = np.random.RandomState(seed)
    relations: list[tuple[tuple[int, ...], ...]] = [(tuple(range(frames)),)]
    for length in range(frames - 1, 1, -1):
        every = subsets(frames, length)
        chosen = rng.choice(len(every), min(SUBSETS, len(every)), replace=False)
        relations.append(tuple(map(tuple, every[chosen].tolist())))
    return tuple(relations)


class RelationHead(nn.Module):
    """One linear layer for the subsets of each length, and the sum of all scores."""

    num_classes: int
    dtype: Any = None

    @nn.compact
    def __call__(self, related: Sequence[jax.Array]) -> jax.Array:
        """Maps features [B, N, F] of each length's subsets to logits, float32 or wider."""
        logits: Any = 0
        for i, x in enumerate(related):
            fc = nn.Dense(self.num_classes, kernel_init=_INIT, dtype=self.dtype, name=f"fc{i}")
            scores = fc(x)
            logits += scores.astype(jnp.promote_types(scores.dtype, jnp.float32)).sum(1)
        return logits


class TRN(nn.Module):
    """A ResNet on frames, and small networks on subsets of the frames' features.

    `depth` is a key of `layers.resnet.DEPTHS`; `blocks` and `width` override its stages. `hidden`
    is the width of a frame's feature and of a subset's. `relations` are the subsets that testing
    takes, in place of those drawn with `relation_seed`; training draws from the rng `dropout`.
    """

    num_classes: int = 400
    depth: int = 50
    blocks: tuple[int, ...] | None = None
    width: int = 64
    hidden: int = 256
    relations: Relations | None = None
    relation_seed: int = 0
    dropout: float = 0.8
    dtype: Any = None

    @nn.compact
    def __call__(
        self, video: jax.Array, train: bool = False
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Maps video [B, T, H, W, C] to logits [B, classes] and the intermediates by name.

        `pre_logits` [B, (T - 1) * hidden] are the mean features of the subsets of each length.
        """
        x, out = ResNet(
            self.blocks or DEPTHS[self.depth],
            BasicBlock if self.depth < 50 else Bottleneck,
            width=self.width,
            dtype=self.dtype,
            name="backbone",
        )(video, train)
        x = nn.Dropout(self.dropout, deterministic=not train)(x.mean((2, 3)))
        init = nn.initializers.normal(0.001)
        x = nn.Dense(self.hidden, kernel_init=init, dtype=self.dtype, name="frame")(x)
        related = [
            self.relate(i, x[:, chosen]) for i, chosen in enumerate(self.choose(x.shape[1], train))
        ]
        out["pre_logits"] = jnp.concatenate([y.mean(1) for y in related], axis=-1)
        return RelationHead(self.num_classes, self.dtype, name="head")(related), out

    @nn.nowrap
    def choose(self, frames: int, train: bool) -> list[jax.Array]:
        """The subsets [N, length] of each length, from all frames down to two."""
        if not train:
            relations = self.relations or draw_relations(frames, self.relation_seed)
            return [jnp.asarray(chosen) for chosen in relations]
        lengths = range(frames, 1, -1)
        keys = jax.random.split(self.make_rng("dropout"), len(lengths))
        return [
            jax.random.choice(
                key,
                jnp.asarray(subsets(frames, length)),
                (min(SUBSETS, math.comb(frames, length)),),
                replace=False,
            )
            for key, length in zip(keys, lengths, strict=True)
        ]

    @nn.nowrap
    def relate(self, i: int, x: jax.Array) -> jax.Array:
        """Maps the frames [B, N, length, F] of the i-th length's subsets to features [B, N, F]."""
        x = nn.relu(x.reshape(*x.shape[:2], -1))
        fc = nn.Dense(self.hidden, kernel_init=_INIT, dtype=self.dtype, name=f"relation{i}")
        return nn.relu(fc(x))


Model = TRN

FAMILY = "TRN"
VARIANTS = {
    "trn_r50": {"depth": 50},
    "trn_test": {"depth": 18, "blocks": (1, 1), "width": 8, "hidden": 16},
}

_KEY = "cls_head.consensus.fc_fusion_scales.{i}"
NAMES = [
    *resnet_names("conv2d"),
    *names.dense("cls_head.fc_cls", "frame"),
    *names.dense(f"{_KEY}.1", "relation{i}"),
    *names.dense(f"{_KEY}.3", "head/fc{i}"),
]

# Rows: what the tables of TRN publish.

_SGD = Recipe(
    epochs=50,
    batch_size=128,
    lr=0.002,
    weight_decay=5e-4,
    decay_norm_and_bias=False,
    clip_norm=20.0,
    milestones=(30, 45),
    bias_lr_scale=2.0,
    freeze_norm="partial",
    norm_groups=8,
    crop_mode="multi_scale",
    fixed_crops=13,
)
_MIRRORED = {1: STHV1_MIRRORED, 2: STHV2_MIRRORED}
_SAMPLING = Sampling(num_clips=8)


def _row(version: int, top1: float, top5: float, efficient: str, date: str) -> Row:
    """The row of one version of Something-Something.

    `efficient` are the table's other accuracies.
    """
    dataset = f"sthv{version}"
    upstream = f"trn_imagenet-pretrained-r50_8xb16-1x1x8-50e_{dataset}-rgb"
    return Row(
        name=f"trn_r50_1x1x8_{dataset}",
        variant="trn_r50",
        dataset=dataset,
        num_classes=CLASS_COUNTS[dataset],
        train=_SAMPLING,
        test=Protocol(replace(_SAMPLING, twice_sample=True), crops="three", crop=256),
        recipe=replace(_SGD, mirrored_labels=_MIRRORED[version]),
        top1=top1,
        top5=top5,
        source=f"{OPENMMLAB_V1}/trn/{upstream}/{upstream}_{date}.pth",
        upstream=upstream,
        section=f"Something-Something V{version}",
        config=f"mmaction2/configs/recognition/trn/{upstream}.py",
        pretrained="ImageNet",
        note="printed 16x10, but its config and the table's notes say three crops; the table's "
        f"{efficient} are of 8 frames and one centre crop of 224; all were measured with subsets "
        "drawn anew for each video",
    )


ROWS = [
    _row(1, 33.65, 62.22, "31.60 and 60.15", "20220815-e13db2e9"),
    _row(2, 51.20, 78.42, "47.65 and 76.27", "20220815-e01617db"),
]
