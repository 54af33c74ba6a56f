"""UniFormerV2: image transformers armed with global relations in time (Li et al., ICCV 2023).

In: video [B, T, H, W, C], one clip, frames sampled sparsely. Out: logits [B, classes].
What sets it apart: a vision transformer of CLIP (Radford et al., ICML 2021) looks at each frame by
itself, as it was trained. Behind some of its last blocks a global block looks at the tokens of all
frames: a depthwise convolution over space and time is added to the patches, and one token for the
whole video asks them by cross-attention and goes on to the next global block. Its last answer and
the mean of the frames' own class tokens are weighed, channel by channel, by a learnt balance.
The zoo's networks have no relations between neighbouring frames inside the image blocks.
"""

from dataclasses import replace
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxvid.layers import names
from jaxvid.layers.attention import attend
from jaxvid.layers.conv import Conv
from jaxvid.layers.drop import DropPath
from jaxvid.layers.linear import from_heads, joined
from jaxvid.layers.position import resize_grid
from jaxvid.layers.vit import Block, apply_blocks, dense_init, layer_norm
from jaxvid.rows import CLASS_COUNTS, OPENMMLAB_V1, Protocol, Recipe, Row, Sampling

EPSILON = 1e-5
conv_init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
zeros, xavier = nn.initializers.zeros, nn.initializers.xavier_uniform()


def quick_gelu(x: jax.Array) -> jax.Array:
    """CLIP's approximation of the GELU."""
    return x * nn.sigmoid(1.702 * x)


class CrossProjection(nn.Module):
    """Queries of some tokens, keys and values of others, by one matrix for the three."""

    heads: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, context: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Maps [B, Q, C] and [B, K, C] to queries [B, Q, C], keys and values [B, K, C]."""
        width = x.shape[-1]
        kernel = self.param("kernel", xavier, (width, 3 * width), jnp.float32)
        bias = self.param("bias", zeros, (3 * width,), jnp.float32)
        x, context, kernel, bias = nn.dtypes.promote_dtype(
            x, context, kernel, bias, dtype=self.dtype
        )
        (q,) = joined(x, kernel[:, :width], bias[:width], 1, self.heads)
        k, v = joined(context, kernel[:, width:], bias[width:], 2, self.heads)
        return q, k, v


class CrossAttention(nn.Module):
    """Attention of some tokens to others. It starts by answering zero."""

    heads: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, context: jax.Array) -> jax.Array:
        """Maps [B, Q, C] and [B, K, C] to [B, Q, C]."""
        batch, _, width = x.shape
        q, k, v = (
            part.reshape(batch, -1, self.heads, width // self.heads)
            for part in CrossProjection(self.heads, self.dtype, name="qkv")(x, context)
        )
        y = attend(q, k, v).reshape(x.shape)
        product = from_heads(self.heads)
        dense = nn.Dense(
            width, dtype=self.dtype, kernel_init=zeros, dot_general=product, name="proj"
        )
        return dense(y)


class GlobalBlock(nn.Module):
    """Lets the video's token ask the tokens of all frames, and an MLP think about the answer."""

    heads: int
    mlp_ratio: int
    drop_path: float
    dropout: float
    dtype: Any = None

    @nn.compact
    def __call__(
        self, token: jax.Array, x: jax.Array, size: tuple[int, int, int], train: bool
    ) -> jax.Array:
        """Maps the video's token [B, 1, C] to the same shape.

        x: [B T, 1 + H W, C], the tokens of frames on the grid `size` (T, H, W), the class token of
        each first.
        """
        batch, _, width = token.shape
        drop_path = DropPath(self.drop_path)
        patches = x[:, 1:].reshape(batch, *size, width)
        patches = patches + Conv(
            width,
            (3, 3, 3),
            padding=(1, 1, 1),
            groups=width,
            use_bias=True,
            dtype=self.dtype,
            kernel_init=conv_init,
            name="pos_embed",
        )(patches)
        x = jnp.concatenate([x[:, :1], patches.reshape(x.shape[0], -1, width)], axis=1)
        x = layer_norm("norm3", EPSILON, self.dtype)(x.reshape(batch, -1, width))
        y = layer_norm("norm1", EPSILON, self.dtype)(token)
        token = token + drop_path(CrossAttention(self.heads, self.dtype, name="attn")(y, x), train)

        y = layer_norm("norm2", EPSILON, self.dtype)(token)
        y = nn.Dense(self.mlp_ratio * width, dtype=self.dtype, kernel_init=xavier, name="fc1")(y)
        y = nn.Dropout(self.dropout, deterministic=not train)(quick_gelu(y))
        y = nn.Dense(width, dtype=self.dtype, kernel_init=zeros, name="fc2")(y)
        return token + drop_path(y, train)


class UniFormerV2(nn.Module):
    """CLIP's image transformer, a global block behind each block in `global_at`, a linear head.

    `input_resolution` (pixels) is that of the frames trained on: it sets the length of the table of
    positions, which is interpolated for frames of another size. Clips may have any number of
    frames. `drop_path` is the last block's rate, zero at the first and linear between, and
    likewise among the global blocks, whose MLPs drop out at the rate `mlp_dropout`. With
    `scan_blocks` one block is compiled for all image blocks before the first global one.
    """

    num_classes: int = 400
    dim: int = 768
    depth: int = 12
    heads: int = 12
    global_at: tuple[int, ...] = (8, 9, 10, 11)
    patch_size: int = 16
    input_resolution: int = 224
    mlp_ratio: int = 4
    drop_path: float = 0.0
    mlp_dropout: float = 0.5
    dropout: float = 0.5
    scan_blocks: bool = False
    dtype: Any = None

    @nn.compact
    def __call__(
        self, video: jax.Array, train: bool = False
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Maps video [B, T, H, W, C] to logits [B, classes] and the intermediates by name.

        `stem` and `stage1`.. are patches [B, T, H', W', C']: those that the image transformer
        begins with, and those that each global block is given. `pre_logits` is [B, C'].
        """
        grid = Conv(
            self.dim,
            (1, self.patch_size, self.patch_size),
            (1, self.patch_size, self.patch_size),
            dtype=self.dtype,
            kernel_init=conv_init,
            name="patch_embed",
        )(video)
        out = {"stem": grid}
        batch, size = grid.shape[0], cast(tuple[int, int, int], grid.shape[1:4])
        x = self._tokens(grid)
        token = self.param("video_token", zeros, (1, 1, self.dim), jnp.float32)
        token = jnp.broadcast_to(token.astype(x.dtype), (batch, 1, self.dim))

        global_rates = np.linspace(0, self.drop_path, len(self.global_at)).tolist()
        blocks = {}
        for i, rate in enumerate(np.linspace(0, self.drop_path, self.depth).tolist()):
            blocks[f"block{i}"] = Block(
                self.heads,
                self.mlp_ratio * self.dim,
                drop_path=rate,
                epsilon=EPSILON,
                activation=quick_gelu,
                dtype=self.dtype,
                parent=None,
            )
            if i in self.global_at:
                x, blocks = apply_blocks(self, blocks, x, train, self.scan_blocks), {}
                n = self.global_at.index(i)
                out[f"stage{n + 1}"] = x[:, 1:].reshape(grid.shape)
                token = GlobalBlock(
                    self.heads,
                    self.mlp_ratio,
                    global_rates[n],
                    self.mlp_dropout,
                    self.dtype,
                    name=f"global{n}",
                )(token, x, size, train)

        x = apply_blocks(self, blocks, x, train, self.scan_blocks)
        balance = nn.sigmoid(self.param("balance", zeros, (self.dim,), jnp.float32))
        frames = x[:, 0].reshape(batch, -1, self.dim).mean(1)
        y = (1 - balance) * token[:, 0] + balance * frames
        y = layer_norm("norm", EPSILON, self.dtype)(y)
        out["pre_logits"] = y
        y = nn.Dropout(self.dropout, deterministic=not train)(y)
        logits = nn.Dense(self.num_classes, dtype=self.dtype, kernel_init=dense_init, name="head")(
            y
        )
        return logits.astype(jnp.promote_types(logits.dtype, jnp.float32)), out

    def _tokens(self, grid: jax.Array) -> jax.Array:
        """Maps patches [B, T, H, W, C] to the tokens [B T, 1 + H W, C] of frames, positions added.

        The class token comes first.
        """
        batch, frames, height, width, dim = grid.shape
        side = self.input_resolution // self.patch_size
        init = nn.initializers.normal(dim**-0.5)
        first = self.param("class_embedding", init, (dim,), jnp.float32)
        table = self.param("positional_embedding", init, (1 + side**2, dim), jnp.float32)
        patches = resize_grid(table[1:].reshape(side, side, dim), (height, width))
        x = grid + patches.astype(grid.dtype)
        first = jnp.broadcast_to((first + table[0]).astype(x.dtype), (batch * frames, 1, dim))
        x = jnp.concatenate([first, x.reshape(batch * frames, -1, dim)], axis=1)
        return layer_norm("norm_pre", EPSILON, self.dtype)(x)


Model = UniFormerV2

_LARGE = {"dim": 1024, "depth": 24, "heads": 16, "global_at": (20, 21, 22, 23), "patch_size": 14}
FAMILY = "UniFormerV2"
VARIANTS = {
    "uniformerv2_b16_8f": {},
    "uniformerv2_l14_8f": _LARGE,
    "uniformerv2_l14_16f": _LARGE,
    "uniformerv2_l14_32f": _LARGE,
    "uniformerv2_l14_336_8f": {**_LARGE, "input_resolution": 336},
    "uniformerv2_l14_336_32f": {**_LARGE, "input_resolution": 336},
    "uniformerv2_test": {
        "dim": 16,
        "depth": 3,
        "heads": 2,
        "global_at": (1, 2),
        "patch_size": 8,
        "input_resolution": 32,
        "mlp_ratio": 2,
        "mlp_dropout": 0.0,
    },
}


def clip_names(key: str, patches: str) -> list[names.Rule]:
    """Rules of what CLIP's image transformer has; `key` begins its keys.

    `patches` is the layout of the convolution that cuts patches.
    """
    block = f"{key}transformer.resblocks.{{i}}"
    return [
        (f"{key}{{n:class_embedding|positional_embedding}}", "params/{n}", "same"),
        *names.conv(f"{key}conv1", "patch_embed", patches),
        *names.layer_norm(f"{key}ln_pre", "norm_pre"),
        (f"{block}.attn.in_proj_weight", "params/block{i}/attn/qkv/kernel", "linear"),
        (f"{block}.attn.in_proj_bias", "params/block{i}/attn/qkv/bias", "same"),
        *names.dense(f"{block}.attn.out_proj", "block{i}/attn/proj"),
        *names.layer_norm(f"{block}.ln_1", "block{i}/norm1"),
        *names.layer_norm(f"{block}.ln_2", "block{i}/norm2"),
        *names.dense(f"{block}.mlp.c_fc", "block{i}/mlp/fc1"),
        *names.dense(f"{block}.mlp.c_proj", "block{i}/mlp/fc2"),
    ]


_GLOBAL = "backbone.transformer.dec.{i}"
NAMES = [
    *clip_names("backbone.", "conv3d"),
    ("backbone.transformer.temporal_cls_token", "params/video_token", "same"),
    ("backbone.transformer.balance", "params/balance", "same"),
    *names.conv("backbone.transformer.dpe.{i}", "global{i}/pos_embed", "conv3d", bias=True),
    (f"{_GLOBAL}.attn.in_proj_weight", "params/global{i}/attn/qkv/kernel", "linear"),
    (f"{_GLOBAL}.attn.in_proj_bias", "params/global{i}/attn/qkv/bias", "same"),
    *names.dense(f"{_GLOBAL}.attn.out_proj", "global{i}/attn/proj"),
    *names.layer_norm(f"{_GLOBAL}.ln_1", "global{i}/norm1"),
    *names.layer_norm(f"{_GLOBAL}.ln_2", "global{i}/norm2"),
    *names.layer_norm(f"{_GLOBAL}.ln_3", "global{i}/norm3"),
    *names.dense(f"{_GLOBAL}.mlp.c_fc", "global{i}/fc1"),
    *names.dense(f"{_GLOBAL}.mlp.c_proj", "global{i}/fc2"),
    *names.layer_norm("backbone.transformer.norm", "norm"),
    *names.dense("cls_head.fc_cls", "head"),
]

# Rows: what MMAction2 publishes: base networks that it trained, and weights of the authors.

_CLIP = Recipe(
    epochs=55,
    batch_size=256,
    optimizer="adamw",
    lr=1e-5,
    weight_decay=0.05,
    # All scales and biases but those of queries, keys and values, which their rule misses.
    no_decay=(
        "*/scale",
        "*norm*/bias",
        "*/proj/bias",
        "*/fc?/bias",
        "*/pos_embed/bias",
        "head/bias",
    ),
    clip_norm=20.0,
    schedule="cosine",
    final_lr=1e-6,
    warmup_epochs=5,
    rand_augment="m7-n4",
    rand_augment_fill=0,
)
_CLIP_K710 = replace(_CLIP, final_lr=5e-6, warmup_factor=0.5)
_TUNED = replace(_CLIP, epochs=5, lr=2e-6, warmup_epochs=1, warmup_factor=0.5)
_MIT = replace(_CLIP, epochs=24, batch_size=512, lr=2e-5, warmup_factor=0.05)
_SECTIONS = {
    "kinetics400": "Kinetics-400",
    "kinetics600": "Kinetics-600",
    "kinetics700": "Kinetics-700",
    "kinetics710": "Kinetics-710",
    "mit": "MiTv1",
}
# Where the networks for single datasets start.
_B16, _L14, _L14_336 = (f"uniformerv2_{size}_u8_k710" for size in ("b16", "l14", "l14_336"))


def _row(
    name: str,
    variant: str,
    frames: int,
    dataset: str,
    accuracy: tuple[float, float] | None,
    upstream: str,
    date: str,
    start: str = "",
    note: str = "",
) -> Row:
    """`date` is that of the checkpoint, with its hash; `start` the row that training starts from.

    `upstream` is the table's name without what all have.
    """
    upstream = f"uniformerv2-{upstream}-rgb"
    folder = upstream if "base" in upstream else {"mit": "mitv1"}.get(dataset, dataset)
    sampling = Sampling("uniform", frames, num_clips=2 if frames == 32 else 4)
    crop = 336 if "336" in variant else 224
    if dataset == "mit":
        recipe, pretrained = _MIT, "clip-kinetics710-kinetics400"
    elif start:
        recipe, pretrained = _TUNED, "clip-kinetics710"
    else:
        recipe, pretrained = _CLIP_K710 if dataset == "kinetics710" else _CLIP, "clip"
    if "xb32" not in upstream:
        note = "; ".join(filter(None, ["the authors' weights; the recipe is MMAction2's", note]))
    top1, top5 = accuracy or (None, None)
    return Row(
        name=name,
        variant=variant,
        dataset=dataset,
        num_classes=CLASS_COUNTS[dataset],
        train=replace(sampling, num_clips=1),
        test=Protocol(sampling, short_side=crop, crops="three", crop=crop),
        recipe=replace(recipe, initial_weights=start),
        train_crop=crop,
        train_short_side=256 if crop == 224 else 384,
        mean=(114.75,) * 3,
        std=(57.375,) * 3,
        top1=top1,
        top5=top5,
        source=f"{OPENMMLAB_V1}/uniformerv2/{folder}/{upstream}_{date}.pth",
        upstream=upstream,
        section=_SECTIONS[dataset],
        config=f"mmaction2/configs/recognition/uniformerv2/{upstream}.py",
        pretrained=pretrained,
        note=note,
    )


def _figures(authors: str, own: str, more: str = "") -> str:
    figures = f"by the authors {authors}, on MMAction2's copy of Kinetics {own}"
    return f"{figures}; {more}" if more else figures


_FEWER_CLIPS = "its config tests 4 clips"
_NO_TEST = "its config says no test: that of the other rows"
_PATCHES = "named p16, but patches have a side of 14"

# fmt: off
ROWS = [
    _row("uniformerv2_b16_u8_k400_clip", "uniformerv2_b16_8f", 8, "kinetics400", None,
         "base-p16-res224_clip_8xb32-u8_kinetics400",
         "20230313-e29fc968", note=_figures("84.3/96.4", "84.4/96.3")),
    _row("uniformerv2_b16_u8_k400", "uniformerv2_b16_8f", 8, "kinetics400", None,
         "base-p16-res224_clip-kinetics710-pre_8xb32-u8_kinetics400",
         "20230313-75be0806", _B16, _figures("85.6/97.0", "85.8/97.1")),
    _row("uniformerv2_l14_u8_k400", "uniformerv2_l14_8f", 8, "kinetics400", (88.7, 98.1),
         "large-p14-res224_clip-kinetics710-pre_u8_kinetics400",
         "20221219-972ea063", _L14, _figures("88.8/98.1", "88.7/98.1")),
    _row("uniformerv2_l14_u16_k400", "uniformerv2_l14_16f", 16, "kinetics400", (89.0, 98.2),
         "large-p14-res224_clip-kinetics710-pre_u16_kinetics400",
         "20221219-6dc86d05", _L14, _figures("89.1/98.2", "89.0/98.2")),
    _row("uniformerv2_l14_u32_k400", "uniformerv2_l14_32f", 32, "kinetics400", (89.3, 98.2),
         "large-p14-res224_clip-kinetics710-pre_u32_kinetics400",
         "20221219-56a46f64", _L14, _figures("89.3/98.2", "89.4/98.2", _FEWER_CLIPS)),
    _row("uniformerv2_l14_336_u32_k400", "uniformerv2_l14_336_32f", 32, "kinetics400", (89.5, 98.4),
         "large-p14-res336_clip-kinetics710-pre_u32_kinetics400",
         "20221219-1dd7650f", _L14_336, _figures("89.7/98.3", "89.5/98.4")),
    _row("uniformerv2_b16_u8_k600", "uniformerv2_b16_8f", 8, "kinetics600", None,
         "base-p16-res224_clip-kinetics710-pre_8xb32-u8_kinetics600",
         "20230313-544f06f0", _B16, _figures("86.1/97.2", "86.4/97.3")),
    _row("uniformerv2_l14_u8_k600", "uniformerv2_l14_8f", 8, "kinetics600", (89.0, 98.3),
         "large-p14-res224_clip-kinetics710-pre_u8_kinetics600",
         "20221219-cf88e4c2", _L14, _figures("89.0/98.2", "87.5/98.0")),
    _row("uniformerv2_l14_u16_k600", "uniformerv2_l14_16f", 16, "kinetics600", (89.4, 98.3),
         "large-p14-res224_clip-kinetics710-pre_u16_kinetics600",
         "20221219-38ff0e3e", _L14, _figures("89.4/98.3", "87.8/98.0")),
    _row("uniformerv2_l14_u32_k600", "uniformerv2_l14_32f", 32, "kinetics600", (89.2, 98.3),
         "large-p14-res224_clip-kinetics710-pre_u32_kinetics600",
         "20221219-d450d071", _L14, _figures("89.5/98.3", "87.7/98.1", _FEWER_CLIPS)),
    _row("uniformerv2_l14_336_u32_k600", "uniformerv2_l14_336_32f", 32, "kinetics600", (89.8, 98.5),
         "large-p14-res336_clip-kinetics710-pre_u32_kinetics600",
         "20221219-f984f5d2", _L14_336, _figures("89.9/98.5", "88.8/98.3")),
    _row("uniformerv2_b16_u8_k700_clip", "uniformerv2_b16_8f", 8, "kinetics700", None,
         "base-p16-res224_clip_8xb32-u8_kinetics700",
         "20230313-f02e48ad", note=_figures(
             "75.8/92.8", "75.9/92.9", "its table links the config of uniformerv2_b16_u8_k700")),
    _row("uniformerv2_b16_u8_k700", "uniformerv2_b16_8f", 8, "kinetics700", None,
         "base-p16-res224_clip-kinetics710-pre_8xb32-u8_kinetics700",
         "20230313-69070837", _B16, _figures("76.3/92.7", "76.3/92.9")),
    _row("uniformerv2_l14_u8_k700", "uniformerv2_l14_8f", 8, "kinetics700", (80.8, 95.2),
         "large-p14-res224_clip-kinetics710-pre_u8_kinetics700",
         "20221219-bfb9f401", _L14, _figures("80.8/95.4", "79.4/94.8")),
    _row("uniformerv2_l14_u16_k700", "uniformerv2_l14_16f", 16, "kinetics700", (81.2, 95.6),
         "large-p14-res224_clip-kinetics710-pre_u16_kinetics700",
         "20221219-745209d2", _L14, _figures("81.2/95.6", "79.2/95.0")),
    _row("uniformerv2_l14_u32_k700", "uniformerv2_l14_32f", 32, "kinetics700", (81.4, 95.7),
         "large-p14-res224_clip-kinetics710-pre_u32_kinetics700",
         "20221219-eebe7056", _L14, _figures("81.5/95.7", "79.8/95.3", _FEWER_CLIPS)),
    _row("uniformerv2_l14_336_u32_k700", "uniformerv2_l14_336_32f", 32, "kinetics700", (82.1, 96.0),
         "large-p14-res336_clip-kinetics710-pre_u32_kinetics700",
         "20221219-95cf9046", _L14_336, _figures("82.1/96.1", "80.6/95.6")),
    _row("uniformerv2_b16_u8_mit", "uniformerv2_b16_8f", 8, "mit", (42.3, 71.5),
         "base-p16-res224_clip-kinetics710-kinetics-k400-pre_16xb32-u8_mitv1",
         "20230313-a6f4a567", "uniformerv2_b16_u8_k400", "by the authors 42.6/71.7"),
    _row("uniformerv2_l14_u8_mit", "uniformerv2_l14_8f", 8, "mit", (47.0, 76.1),
         "large-p16-res224_clip-kinetics710-kinetics-k400-pre_u8_mitv1",
         "20221219-882c0598", "uniformerv2_l14_u8_k400", f"by the authors 47.0/76.1; {_PATCHES}"),
    _row("uniformerv2_l14_336_u8_mit", "uniformerv2_l14_336_8f", 8, "mit", (47.7, 76.8),
         "large-p16-res336_clip-kinetics710-kinetics-k400-pre_u8_mitv1",
         "20221219-9020986e", note=f"by the authors 47.8/76.0; {_PATCHES}; starts from their "
         "network of 8 frames on Kinetics-400, which has no row"),
    _row("uniformerv2_b16_u8_k710", "uniformerv2_b16_8f", 8, "kinetics710", (78.9, 94.2),
         "base-p16-res224_clip-pre_u8_kinetics710",
         "20230612-63cdbad9", note=_NO_TEST),
    _row("uniformerv2_l14_u8_k710", "uniformerv2_l14_8f", 8, "kinetics710", None,
         "large-p14-res224_clip-pre_u8_kinetics710",
         "20230612-d002a407", note=_NO_TEST),
    _row("uniformerv2_l14_336_u8_k710", "uniformerv2_l14_336_32f", 8, "kinetics710", None,
         "large-p14-res336_clip-pre_u8_kinetics710",
         "20230612-d723ddc1", note=f"{_NO_TEST}; its config sets 32 "
         "frames, but table, file and authors say 8"),
]
# fmt: on
