"""Improved multiscale vision transformers (Li et al., "MViTv2", CVPR 2022).

In: video [B, T, H, W, C], one clip. Out: logits [B, classes], from a class token.
What sets it apart: attention pools its queries, keys and values with strided depthwise
convolutions, so that the token grid shrinks and the channels grow over four stages; the pooled
queries are added to attention's output; and positions enter as learnt embeddings of relative
distance, one table each for time, height and width. The MaskFeat form (Wei et al., CVPR 2022) grows
its channels in the MLP of the block before a stage rather than in the attention that opens it.
"""

import itertools
import logging
from dataclasses import replace
from typing import Any, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxvid.layers import names
from jaxvid.layers.attention import attend
from jaxvid.layers.conv import Conv, conv
from jaxvid.layers.drop import DropPath
from jaxvid.layers.linear import Joined, behind, from_heads
from jaxvid.layers.norm import LayerNorm
from jaxvid.layers.pool import max_pool
from jaxvid.layers.position import axis_one_hots, relative_embeddings
from jaxvid.layers.shortcut import add
from jaxvid.layers.vit import apply_blocks, exact_gelu
from jaxvid.rows import (
    CLASS_COUNTS,
    IMAGENET_MEAN,
    IMAGENET_STD,
    OPENMMLAB_V1,
    Protocol,
    Recipe,
    Row,
    Sampling,
)

Triple = tuple[int, int, int]

PATCH_KERNEL, PATCH_STRIDE, PATCH_PADDING = (3, 7, 7), (2, 4, 4), (1, 3, 3)
POOL_KERNEL, POOL_PADDING = (3, 3, 3), (1, 1, 1)

# The published initialisation cuts its normal distribution a hundred deviations out: not at all.
normal_init = nn.initializers.normal(0.02)
bias_init = nn.initializers.constant(0.02)


def dense(features: int, dtype: Any, name: str, **how: Any) -> nn.Dense:
    """A linear layer with this family's initialisation."""
    return nn.Dense(
        features, dtype=dtype, kernel_init=normal_init, bias_init=bias_init, name=name, **how
    )


def layer_norm(dtype: Any, name: str) -> LayerNorm:
    """A layer normalisation with this family's initialisation."""
    return LayerNorm(bias_init=bias_init, dtype=dtype, name=name)


def pooled(size: Triple, stride: Triple) -> Triple:
    """The token grid that any pooling of this family makes of a grid `size` (T, H, W)."""
    return cast(Triple, tuple(-(-n // s) for n, s in zip(size, stride, strict=True)))


class HeadPool(nn.Module):
    """Depthwise convolution over the token grid, one kernel for all heads; the class token passes.

    `kernel` is [3, 3, 3, 1, D], where D is the number of channels of each of `heads`.
    """

    heads: int
    stride: Triple
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, size: Triple) -> jax.Array:
        """Maps tokens [B, 1 + T H W, N D] on grid `size` to [B, 1 + T' H' W', N D]."""
        batch, _, channels = x.shape
        width = channels // self.heads
        kernel = self.param("kernel", normal_init, (*POOL_KERNEL, 1, width), jnp.float32)
        x, kernel = nn.dtypes.promote_dtype(x, kernel, dtype=self.dtype)
        grid = conv(
            x[:, 1:].reshape(batch, *size, channels),
            jnp.tile(kernel, self.heads),
            stride=self.stride,
            padding=POOL_PADDING,
            groups=channels,
        )
        return jnp.concatenate([x[:, :1], grid.reshape(batch, -1, channels)], axis=1)


class RelativePositions(nn.Module):
    """Embeddings of the distance from query to key along time, height and width, added up.

    `reach` is the number of positions on each axis (T, H, W) that the tables were made for. On
    other grids they are interpolated.
    """

    reach: Triple

    @nn.compact
    def __call__(self, q: jax.Array, q_size: Triple, k_size: Triple) -> tuple[jax.Array, jax.Array]:
        """Makes positional channels for queries and keys, whose dot product is the attention bias.

        Args:
            q: [B, Q, N, D], pooled and not scaled, without the class token, on grid `q_size`.

        Returns:
            [B, 1 + Q, N, kT + kH + kW], and [1 + K, kT + kH + kW] marking each key's place on grid
            `k_size`; zero for the class token.
        """
        grid = q.reshape(q.shape[0], *q_size, *q.shape[2:])
        formulas = ("bthwnc,tkc->bthwnk", "bthwnc,hkc->bthwnk", "bthwnc,wkc->bthwnk")
        terms = []
        for axis, formula in enumerate(formulas):
            table = self.param(
                f"rel_pos_{'thw'[axis]}",
                normal_init,
                (2 * self.reach[axis] - 1, q.shape[-1]),
                jnp.float32,
            )
            table = relative_embeddings(table, q_size[axis], k_size[axis])
            terms.append(jnp.einsum(formula, grid, table.astype(q.dtype)))
        channels = jnp.concatenate(terms, axis=-1).reshape(*q.shape[:3], -1)
        places = jnp.asarray(axis_one_hots(k_size), q.dtype)
        class_token = (1, 0)
        channels = jnp.pad(channels, ((0, 0), class_token, (0, 0), (0, 0)))
        return channels, jnp.pad(places, (class_token, (0, 0)))


class Attention(nn.Module):
    """Attention between pooled queries and keys, with relative positions per axis.

    `table_size` is the token grid (T, H, W) that the tables of positions are made for; on another
    grid they are interpolated.
    """

    dim: int
    heads: int
    stride_q: Triple
    stride_kv: Triple
    table_size: Triple
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, size: Triple) -> jax.Array:
        """Maps tokens [B, 1 + T H W, C] on grid `size` to [B, 1 + T' H' W', dim]."""
        batch, width = x.shape[0], self.dim // self.heads
        joined = Joined(
            self.dim,
            3,
            self.heads,
            kernel_init=normal_init,
            bias_init=bias_init,
            dtype=self.dtype,
            name="qkv",
        )
        q, k, v = (
            layer_norm(self.dtype, f"norm_{name}")(
                HeadPool(self.heads, stride, self.dtype, name=f"pool_{name}")(part, size).reshape(
                    batch, -1, self.heads, width
                )
            )
            for name, part, stride in zip(
                "qkv",
                joined(x),
                (self.stride_q, self.stride_kv, self.stride_kv),
                strict=True,
            )
        )
        rows = tuple(
            n // min(strides)
            for n, *strides in zip(self.table_size, self.stride_q, self.stride_kv, strict=True)
        )
        positions = RelativePositions(cast(Triple, rows), name="positions")(
            q[:, 1:], pooled(size, self.stride_q), pooled(size, self.stride_kv)
        )
        # The positional term is a dot product too, of what each query makes of the tables with the
        # key's place: it needs no bias the size of the logits.
        y = attend(q, k, v, positions=positions)
        y, q = (each.reshape(batch, -1, self.dim) for each in (y, q))
        y = jnp.concatenate([y[:, :1], y[:, 1:] + q[:, 1:]], axis=1)
        return dense(self.dim, self.dtype, "proj", dot_general=from_heads(self.heads))(y)


class BlockPlan(NamedTuple):
    """One block: channels in, in attention and out, heads, strides, the grid its tables are for."""

    dim_in: int
    dim_attention: int
    dim_out: int
    heads: int
    stride_q: Triple
    stride_kv: Triple
    table_size: Triple


class Block(nn.Module):
    """Pooling attention and an MLP, each behind a layer norm and beside a shortcut.

    `size` is the grid (T, H, W) of the tokens that enter, behind a class token. Where channels
    change, the shortcut is a projection of the normalised tokens; where the grid
    shrinks, a max-pool.
    """

    plan: BlockPlan
    size: Triple
    mlp_ratio: int
    drop_path: float
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps tokens [B, 1 + T H W, dim_in] to [B, 1 + T' H' W', dim_out]."""
        plan, drop_path = self.plan, DropPath(self.drop_path)
        grows_in_attention = plan.dim_attention != plan.dim_in
        grows_in_mlp = plan.dim_out != plan.dim_attention

        y = layer_norm(self.dtype, "norm1")(x)
        shortcut = dense(plan.dim_attention, self.dtype, "proj")(y) if grows_in_attention else x
        if plan.stride_q != (1, 1, 1):
            shortcut = _pool_shortcut(shortcut, self.size, plan.stride_q)
        y = Attention(
            plan.dim_attention,
            plan.heads,
            plan.stride_q,
            plan.stride_kv,
            plan.table_size,
            self.dtype,
            name="attn",
        )(y, self.size)
        x = add(shortcut, drop_path(y, train), train)

        y = layer_norm(self.dtype, "norm2")(x)
        shortcut = dense(plan.dim_out, self.dtype, "proj")(y) if grows_in_mlp else x
        y = Mlp(self.mlp_ratio * plan.dim_attention, plan.dim_out, self.dtype, name="mlp")(y)
        return add(shortcut, drop_path(y, train), train)


def _pool_shortcut(x: jax.Array, size: Triple, stride: Triple) -> jax.Array:
    """Max-pools the tokens of x [B, 1 + T H W, C]; the class token passes."""
    window = cast(Triple, tuple(s + 1 if s > 1 else 1 for s in stride))
    grid = x[:, 1:].reshape(x.shape[0], *size, x.shape[-1])
    grid = max_pool(grid, window, stride, cast(Triple, tuple(w // 2 for w in window)))
    return jnp.concatenate([x[:, :1], grid.reshape(x.shape[0], -1, x.shape[-1])], axis=1)


class Mlp(nn.Module):
    """Two linear layers with an exact GELU between."""

    hidden: int
    features: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [..., C] to [..., features]."""
        x = dense(self.hidden, self.dtype, "fc1")(x)
        return behind(exact_gelu, dense(self.features, self.dtype, "fc2"), x)


class MViT(nn.Module):
    """MViTv2 with a class token and a linear head on it.

    `downscale` holds the numbers of the blocks that halve the grid and double channels and heads;
    `stride_kv` is the first stage's. `temporal_size` (frames) and `spatial_size` (pixels) are those
    of the clips trained on: they set the lengths of the tables of positions and nothing else, so
    clips of other sizes are welcome. `drop_path` is the last block's rate, zero at the first and
    linear between. With `scan_blocks` one block is compiled for all of a stage that are alike.
    """

    num_classes: int = 400
    dim: int = 96
    depth: int = 16
    heads: int = 1
    downscale: tuple[int, ...] = (1, 3, 14)
    stride_kv: Triple = (1, 8, 8)
    grow_in_attention: bool = True
    mlp_ratio: int = 4
    temporal_size: int = 16
    spatial_size: int = 224
    drop_path: float = 0.0
    dropout: float = 0.5
    head_init_scale: float = 1.0
    scan_blocks: bool = False
    dtype: Any = None

    def plans(self) -> list[BlockPlan]:
        """Lays out the blocks."""
        frame = (self.temporal_size, self.spatial_size, self.spatial_size)
        table_size = pooled(frame, PATCH_STRIDE)
        heads, stride_kv, dim = self.heads, self.stride_kv, self.dim
        plans = []
        for i in range(self.depth):
            stride_q = (1, 1, 1)
            if i in self.downscale:
                heads, stride_q = heads * 2, (1, 2, 2)
                stride_kv = cast(Triple, tuple(max(s // 2, 1) for s in stride_kv))
            grows = (i if self.grow_in_attention else i + 1) in self.downscale
            dim_out = dim * 2 if grows else dim
            dim_attention = dim_out if self.grow_in_attention else dim
            plans.append(
                BlockPlan(dim, dim_attention, dim_out, heads, stride_q, stride_kv, table_size)
            )
            # Rounded down, unlike the grid itself: published tables have these lengths.
            sides = zip(table_size, stride_q, strict=True)
            table_size = cast(Triple, tuple(n // s for n, s in sides))
            dim = dim_out
        return plans

    @nn.compact
    def __call__(
        self, video: jax.Array, train: bool = False
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Maps video [B, T, H, W, C] to logits [B, classes] and the intermediates by name.

        `stem` and `stage1`.. are token grids [B, T', H', W', C'] (the last one normalised),
        `pre_logits` the class token [B, C'].
        """
        grid = Conv(
            self.dim,
            PATCH_KERNEL,
            PATCH_STRIDE,
            PATCH_PADDING,
            use_bias=True,
            dtype=self.dtype,
            kernel_init=normal_init,
            name="patch_embed",
        )(video)
        out = {"stem": grid}
        batch, size = grid.shape[0], cast(Triple, grid.shape[1:4])
        token = self.param("cls_token", nn.initializers.zeros, (1, 1, self.dim), jnp.float32)
        token = jnp.broadcast_to(token.astype(grid.dtype), (batch, 1, self.dim))
        x = jnp.concatenate([token, grid.reshape(batch, -1, self.dim)], axis=1)

        rates, plans = np.linspace(0, self.drop_path, self.depth).tolist(), self.plans()
        if size != plans[0].table_size:
            logging.getLogger(__name__).info(
                "tables of %s x %s x %s positions are interpolated to %s x %s x %s",
                *plans[0].table_size,
                *size,
            )
        starts = (0, *self.downscale, self.depth)
        for stage, (start, end) in enumerate(itertools.pairwise(starts), 1):
            blocks = {}
            for i in range(start, end):
                blocks[f"block{i}"] = Block(
                    plans[i], size, self.mlp_ratio, rates[i], self.dtype, parent=None
                )
                size = pooled(size, plans[i].stride_q)
            x = apply_blocks(self, blocks, x, train, self.scan_blocks)
            if end == self.depth:
                x = layer_norm(self.dtype, "norm")(x)
            out[f"stage{stage}"] = x[:, 1:].reshape(batch, *size, -1)

        out["pre_logits"] = x[:, 0]
        y = nn.Dropout(self.dropout, deterministic=not train)(x[:, 0])
        logits = nn.Dense(
            self.num_classes,
            dtype=self.dtype,
            kernel_init=nn.initializers.normal(0.02 * self.head_init_scale),
            bias_init=nn.initializers.constant(0.02 * self.head_init_scale),
            name="head",
        )(y)
        return logits.astype(jnp.promote_types(logits.dtype, jnp.float32)), out


Model = MViT

FAMILY = "MViTv2"
VARIANTS = {
    "mvitv2_s": {"drop_path": 0.2},
    "mvitv2_s_maskfeat": {
        "grow_in_attention": False,
        "drop_path": 0.1,
        "dropout": 0.0,
        "head_init_scale": 0.001,
    },
    "mvitv2_b": {"depth": 24, "downscale": (2, 5, 21), "temporal_size": 32, "drop_path": 0.3},
    "mvitv2_l": {
        "dim": 144,
        "depth": 48,
        "heads": 2,
        "downscale": (2, 8, 44),
        "temporal_size": 40,
        "spatial_size": 312,
        "drop_path": 0.75,
    },
    "mvit_test": {
        "dim": 8,
        "depth": 4,
        "downscale": (1, 2, 3),
        "temporal_size": 4,
        "spatial_size": 32,
        "dropout": 0.0,
    },
}

NAMES = [
    ("backbone.cls_token", "params/cls_token", "same"),
    *names.conv("backbone.patch_embed.projection", "patch_embed", "conv3d", bias=True),
    *names.layer_norm("backbone.blocks.{i}.{n:norm1|norm2}", "block{i}/{n}"),
    *names.dense("backbone.blocks.{i}.proj", "block{i}/proj"),
    (
        "backbone.blocks.{i}.attn.{n:rel_pos_t|rel_pos_h|rel_pos_w}",
        "params/block{i}/attn/positions/{n}",
        "same",
    ),
    *names.dense("backbone.blocks.{i}.attn.{n:qkv|proj}", "block{i}/attn/{n}"),
    *names.conv("backbone.blocks.{i}.attn.{n:pool_q|pool_k|pool_v}", "block{i}/attn/{n}", "conv3d"),
    *names.layer_norm("backbone.blocks.{i}.attn.{n:norm_q|norm_k|norm_v}", "block{i}/attn/{n}"),
    *names.dense("backbone.blocks.{i}.mlp.{n:fc1|fc2}", "block{i}/mlp/{n}"),
    *names.layer_norm("backbone.norm3", "norm"),
    *names.dense("cls_head.fc_cls", "head"),
]

# Rows: what MMAction2 publishes, first with the authors' weights, then with its own.

_K400 = Recipe(
    epochs=200,
    batch_size=256,
    optimizer="adamw",
    lr=1.6e-3,
    weight_decay=0.05,
    decay_norm_and_bias=False,
    clip_norm=1.0,
    schedule="cosine",
    final_lr=1.6e-5,
    cosine_epochs=200,
    warmup_epochs=30,
    warmup_factor=0.01,
    label_smoothing=0.1,
    mixup=0.8,
    cutmix=1.0,
    rand_augment="m7-n4",
    rand_augment_fill=0,
    random_erasing=0.25,
    repeated_augmentation=2,
)
_K400_ONCE = replace(_K400, batch_size=512, repeated_augmentation=1)
_K400_LARGE = replace(
    _K400,
    epochs=30,
    batch_size=64,
    weight_decay=1e-7,
    final_lr=0.0,
    cosine_epochs=None,
    warmup_epochs=0,
    mixup=0.0,
    cutmix=0.0,
)
_MASKFEAT = replace(
    _K400,
    epochs=100,
    lr=9.6e-3,
    clip_norm=5.0,
    cosine_epochs=None,
    warmup_epochs=20,
    warmup_factor=1 / 600,
    layer_decay=0.75,
    rand_augment="m7-n2",
    repeats_share_frames=False,
)
_STHV2 = replace(
    _K400,
    epochs=100,
    batch_size=64,
    decay_norm_and_bias=True,
    clip_norm=None,
    cosine_epochs=None,
    warmup_factor=0.1,
    flip=0.0,
    rand_augment_after_crop=True,
    repeated_augmentation=1,
)
_STHV2_SMALL = replace(
    _STHV2,
    batch_size=256,
    decay_norm_and_bias=False,
    cosine_epochs=100,
    mixup=0.0,
    cutmix=0.0,
    initial_weights="mvitv2_s_16x4_k400",
)
_TABLES = {"kinetics400": "Kinetics-400", "sthv2": "Something-Something V2"}
_CONFIG_S = "mvit-small-p244_32xb16-16x4x1-200e_kinetics400-rgb"
_CONFIG_S_STHV2 = "mvit-small-p244_k400-pre_16xb16-u16-100e_sthv2-rgb"
_CONFIG_MASKFEAT = "mvit-small-p244_k400-maskfeat-pre_8xb32-16x4x1-100e_kinetics400-rgb"


def _kinetics(
    length: int, interval: int, clips: int, crops: str = "center", size: int = 224
) -> Protocol:
    sampling = Sampling(clip_len=length, frame_interval=interval, num_clips=clips)
    return Protocol(sampling, short_side=size, crops=crops, crop=size)


def _something(length: int, size: int = 224) -> Protocol:
    return Protocol(Sampling("uniform", length), short_side=size, crops="three", crop=size)


def _row(
    name: str,
    variant: str,
    test: Protocol,
    recipe: Recipe,
    top1: float,
    top5: float,
    upstream: str,
    weights: str,
    config: str = "",
    pretrained: str = "From scratch",
    imagenet_mean: bool = False,
    note: str = "",
) -> Row:
    """`weights` is the checkpoint's path under the family's address without `.pth`, or ''."""
    dataset = "sthv2" if test.sampling.sampler == "uniform" else "kinetics400"
    table = "Inference" if weights.startswith("converted/") else "Training"
    return Row(
        name=name,
        variant=variant,
        dataset=dataset,
        num_classes=CLASS_COUNTS[dataset],
        train=replace(test.sampling, num_clips=1),
        test=test,
        recipe=recipe,
        train_crop=test.crop,
        train_short_side=256 if test.crop == 224 else 356,
        mean=IMAGENET_MEAN if imagenet_mean else (114.75,) * 3,
        std=IMAGENET_STD if imagenet_mean else (57.375,) * 3,
        top1=top1,
        top5=top5,
        source=f"{OPENMMLAB_V1}/mvit/{weights}.pth" if weights else None,
        upstream=upstream,
        section=f"{table} results / {_TABLES[dataset]}",
        config=f"mmaction2/configs/recognition/mvit/{config or upstream}.py",
        pretrained=pretrained,
        note=note,
    )


_BATCH = "batch and devices are its name's: its config holds 8 clips a device, rate unscaled"

# fmt: off
ROWS = [
    _row("mvitv2_s_16x4_k400", "mvitv2_s", _kinetics(16, 4, 5), _K400, 81.1, 94.7, _CONFIG_S,
         "converted/mvit-small-p244_16x4x1_kinetics400-rgb_20221021-9ebaaeed",
         note="the authors' weights; the recipe is that of mvitv2_s_16x4_k400_retrained"),
    _row("mvitv2_b_32x3_k400", "mvitv2_b", _kinetics(32, 3, 5), _K400, 82.6, 95.8,
         "mvit-base-p244_32x3x1_kinetics400-rgb",
         "converted/mvit-base-p244_32x3x1_kinetics400-rgb_20221021-f392cd2d",
         note="the authors' weights"),
    _row("mvitv2_l_40x3_k400", "mvitv2_l", _kinetics(40, 3, 5, "three", 312), _K400_LARGE,
         85.4, 96.2, "mvit-large-p244_40x3x1_kinetics400-rgb",
         "converted/mvit-large-p244_40x3x1_kinetics400-rgb_20221021-11fe1f97",
         note="the authors' weights; printed as trained from scratch, but its recipe fine-tunes "
              "for 30 epochs"),
    _row("mvitv2_s_u16_sthv2", "mvitv2_s", _something(16), _STHV2_SMALL, 68.1, 91.0,
         _CONFIG_S_STHV2, "converted/mvit-small-p244_u16_sthv2-rgb_20221021-65ecae7d",
         pretrained="K400", imagenet_mean=True,
         note="the authors' weights, trained with mean 114.75 and deviation 57.375, but its "
              f"config tests with ImageNet's; {_BATCH}"),
    _row("mvitv2_b_u32_sthv2", "mvitv2_b", _something(32), _STHV2, 70.8, 92.7,
         "mvit-base-p244_u32_sthv2-rgb",
         "converted/mvit-base-p244_u32_sthv2-rgb_20221021-d5de5da6",
         pretrained="K400", note="the authors' weights"),
    _row("mvitv2_l_u40_sthv2", "mvitv2_l", _something(40, 312), _STHV2, 73.2, 94.0,
         "mvit-large-p244_u40_sthv2-rgb",
         "converted/mvit-large-p244_u40_sthv2-rgb_20221021-61696e07", pretrained="IN21K + K400",
         note="the authors' weights; printed at 312 pixels (2828G), for which the network is "
              "built, but its config resizes to 224 (1086G)"),
    _row("mvitv2_s_16x4_k400_retrained", "mvitv2_s", _kinetics(16, 4, 5), _K400, 80.6, 94.7,
         _CONFIG_S, f"{_CONFIG_S}/{_CONFIG_S}_20230201-23284ff3"),
    _row("mvitv2_s_maskfeat_16x4_k400", "mvitv2_s_maskfeat", _kinetics(16, 4, 10), _MASKFEAT,
         81.8, 95.2, _CONFIG_MASKFEAT,
         f"{_CONFIG_MASKFEAT}/{_CONFIG_MASKFEAT}_20230201-5bced1d0", pretrained="K400 MaskFeat",
         note="named 8 GPUs of 32 clips, but the base of its config's rate is 512 clips: those are "
              "the batch"),
    _row("mvitv2_s_16x4_k400_norepeat", "mvitv2_s", _kinetics(16, 4, 5), _K400_ONCE, 79.4, 93.9,
         "mvit-small-p244_16x4x1-200e_kinetics400-rgb__no-repeat-aug", "", config=_CONFIG_S,
         note="printed without config or checkpoint: the recipe is its neighbour's without "
              "repeated augmentation"),
    _row("mvitv2_s_u16_sthv2_retrained", "mvitv2_s", _something(16), _STHV2_SMALL, 68.2, 91.3,
         _CONFIG_S_STHV2, f"{_CONFIG_S_STHV2}/{_CONFIG_S_STHV2}_20230201-4065c1b9",
         pretrained="K400", imagenet_mean=True, note=_BATCH),
]
# fmt: on
