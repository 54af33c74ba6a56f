"""VideoPrism (Zhao et al., ICML 2024): a video encoder, and a classifier of its tokens.

In: video [B, T, H, W, C] in 0..1, frames from all of a video. Out: logits [B, classes], from a
learnt query that looks at all tokens; or, of the encoder alone, its tokens [B, T L, C'], frame by
frame.
What sets it apart: a transformer over the patches of each frame, then one over the moments of each
patch (ViViT's factorised encoder), taught by captions first and then by filling in masked videos.
It is written in Praxis: logits of attention are capped, scales of norms are kept as what they
differ from 1 by, and tables of positions are resized by averaging where they shrink.
"""

import functools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxvid.base.errors import JaxvidError
from jaxvid.layers import names
from jaxvid.layers.attention import attend
from jaxvid.layers.drop import DropPath
from jaxvid.layers.linear import from_heads
from jaxvid.layers.norm import LayerNorm
from jaxvid.layers.position import resize_smoothly
from jaxvid.layers.shortcut import add
from jaxvid.layers.vit import Mlp, apply_blocks, dense_init
from jaxvid.rows import CLASS_COUNTS, Protocol, Recipe, Row, Sampling

CAP = 50.0


def layer_norm(name: str, dtype: Any) -> LayerNorm:
    """A layer normalisation by name."""
    return LayerNorm(1e-6, dtype=dtype, from_one=True, name=name)


class Attention(nn.Module):
    """Attention of queries to tokens, whose parameters have an axis of heads.

    Logits are capped, or, with `learnt_scale`, scaled by what is learnt for each channel of a head.
    """

    heads: int
    learnt_scale: bool = False
    dtype: Any = None

    @nn.compact
    def __call__(self, queries: jax.Array, tokens: jax.Array) -> jax.Array:
        """Maps queries [B, Q, C] and tokens [B, L, C] to [B, Q, C]."""
        width = queries.shape[-1]
        depth = width // self.heads
        dense = functools.partial(nn.DenseGeneral, dtype=self.dtype, kernel_init=dense_init)
        q = dense((self.heads, depth), name="query")(queries)
        k, v = (dense((self.heads, depth), name=name)(tokens) for name in ("key", "value"))
        if self.learnt_scale:
            scale = self.param("scale", nn.initializers.zeros, (depth,), jnp.float32)
            # So that zeros scale by 1 / sqrt(depth).
            q = q * (nn.softplus(scale) / math.log(2)).astype(q.dtype)
        y = attend(q, k, v, cap=None if self.learnt_scale else CAP)
        product = from_heads(self.heads)
        return dense(width, axis=(-2, -1), dot_general=product, name="proj")(y)


class Block(nn.Module):
    """Self-attention and an MLP, each behind a norm and beside a shortcut."""

    heads: int
    drop_path: float = 0.0
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps tokens [B, L, C] to [B, L, C]."""
        drop_path = DropPath(self.drop_path)
        y = layer_norm("norm1", self.dtype)(x)
        y = Attention(self.heads, dtype=self.dtype, name="attn")(y, y)
        x = add(x, drop_path(y, train), train)
        y = layer_norm("norm2", self.dtype)(x)
        y = Mlp(4 * x.shape[-1], dtype=self.dtype, name="mlp")(y)
        return add(x, drop_path(y, train), train)


class Head(nn.Module):
    """A learnt query that looks at all tokens, a norm and a linear layer."""

    num_classes: int
    heads: int
    dtype: Any = None

    @nn.compact
    def __call__(self, tokens: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Maps tokens [B, L, C] to logits [B, classes] and the normalised find [B, C]."""
        query = self.param("query", dense_init, (1, tokens.shape[-1]), jnp.float32)
        queries = jnp.broadcast_to(query.astype(tokens.dtype), (tokens.shape[0], *query.shape))
        pool = Attention(self.heads, learnt_scale=True, dtype=self.dtype, name="attn")
        x = layer_norm("norm", self.dtype)(pool(queries, tokens)[:, 0])
        dense = nn.Dense(self.num_classes, dtype=self.dtype, kernel_init=dense_init, name="linear")
        logits = dense(x)
        return logits.astype(jnp.promote_types(logits.dtype, jnp.float32)), x


class VideoPrism(nn.Module):
    """The encoder, and a classifier where there are classes.

    `depths` are the blocks over space and over time. `img_size` (pixels) and `num_frames` are those
    of the clips trained on: they set the sizes of the learnt tables, which are interpolated for
    others. `drop_path` is the last block's rate, zero at the first and linear between. With
    `scan_blocks` one block is compiled for all of a kind.
    """

    num_classes: int = 0
    dim: int = 768
    depths: tuple[int, int] = (12, 4)
    heads: int = 12
    patch: int = 18
    img_size: int = 288
    num_frames: int = 16
    drop_path: float = 0.0
    scan_blocks: bool = False
    dtype: Any = None

    @nn.compact
    def __call__(
        self, video: jax.Array, train: bool = False
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Maps video [B, T, H, W, C] to logits [B, classes] and the intermediates by name.

        Without classes the tokens [B, T L, C'] are in the place of logits. `stem`, before all
        blocks, and `stage1` and `stage2`, the normalised answers of those over space and over time,
        are grids [B, T, H', W', C'], `tokens` is the last of them in a row, and `pre_logits`
        [B, C'] what the classifier's query found.
        """
        batch, frames, height, width, channels = video.shape
        if height % self.patch or width % self.patch:
            raise JaxvidError(
                f"pictures of {height} x {width} pixels are not whole patches of {self.patch}: "
                "change the crop to a multiple of it"
            )
        rows, columns = height // self.patch, width // self.patch
        x = video.reshape(batch, frames, rows, self.patch, columns, self.patch, channels)
        x = x.swapaxes(3, 4).reshape(batch, frames, rows, columns, -1)
        x = nn.Dense(self.dim, dtype=self.dtype, kernel_init=dense_init, name="patch_embed")(x)
        out = {"stem": x}
        shape = x.shape
        rates = np.linspace(0, self.drop_path, sum(self.depths)).tolist()

        side = self.img_size // self.patch
        table = self.table("space", (side, side), (rows, columns)).astype(x.dtype)
        x = (x + table).reshape(batch * frames, rows * columns, self.dim)
        x = self.transform(1, x, rates[: self.depths[0]], train).reshape(shape)
        out["stage1"] = x

        table = self.table("time", (self.num_frames,), (frames,)).astype(x.dtype)
        x = x.reshape(batch, frames, rows * columns, self.dim).swapaxes(1, 2) + table
        x = x.reshape(-1, frames, self.dim)
        x = self.transform(2, x, rates[self.depths[0] :], train)
        x = x.reshape(batch, rows * columns, frames, self.dim).swapaxes(1, 2)
        out["stage2"] = x.reshape(shape)
        tokens = out["tokens"] = x.reshape(batch, -1, self.dim)
        if not self.num_classes:
            return tokens, out
        head = Head(self.num_classes, self.heads, self.dtype, name="head")
        logits, out["pre_logits"] = head(tokens)
        return logits, out

    def table(self, name: str, size: tuple[int, ...], wanted: tuple[int, ...]) -> jax.Array:
        """The learnt table of positions of a grid of `size`, for one of `wanted`: [*wanted, C]."""
        table = self.param(f"{name}_positions", dense_init, (math.prod(size), self.dim))
        return resize_smoothly(table.reshape(*size, self.dim), wanted)

    def transform(self, stage: int, x: jax.Array, rates: list[float], train: bool) -> jax.Array:
        """Applies the blocks of a stage, of rates `drop_path`, and its norm to x [B, L, C]."""
        blocks: dict[str, nn.Module] = {
            f"stage{stage}_block{i}": Block(self.heads, rate, self.dtype, parent=None)
            for i, rate in enumerate(rates)
        }
        x = apply_blocks(self, blocks, x, train, self.scan_blocks)
        return layer_norm(f"norm{stage}", self.dtype)(x)


Model = VideoPrism

FAMILY = "VideoPrism"
_LARGE: dict[str, Any] = {"dim": 1024, "depths": (24, 4), "heads": 16, "num_frames": 8}
VARIANTS: dict[str, dict[str, Any]] = {
    **{
        f"videoprism_{size}{kind}": {**fields, "num_classes": 0}
        for size, fields in (("b", {}), ("l", _LARGE))
        for kind in ("", "_native")
    },
    "videoprism_vc_b": {},
    "videoprism_vc_l": _LARGE,
    "videoprism_test": {
        "dim": 16,
        "depths": (2, 1),
        "heads": 2,
        "patch": 8,
        "img_size": 24,
        "num_frames": 4,
    },
}


def _norm(key: str, path: str) -> list[names.Rule]:
    return [(f"{key}/{{n:scale|bias}}", f"params/{path}/{{n}}", "same")]


def _attention(key: str, path: str, layer: str = "") -> list[names.Rule]:
    """`layer` is what ends the keys of arrays that hold all layers, see `converters.stacks`."""
    part = "{m:query|key|value}"
    return [
        (f"{key}/{part}/w{layer}", f"params/{path}/{{m}}/kernel", "same"),
        (f"{key}/{part}/b{layer}", f"params/{path}/{{m}}/bias", "same"),
        (f"{key}/post/w{layer}", f"params/{path}/proj/kernel", "heads"),
        (f"{key}/post/b{layer}", f"params/{path}/proj/bias", "same"),
    ]


def _linear(key: str, path: str, layer: str = "") -> list[names.Rule]:
    return [(f"{key}/linear/{{n:kernel|bias}}{layer}", f"params/{path}/{{n}}", "same")]


def _encoder(key: str) -> list[names.Rule]:
    rules = _linear(f"{key}/patch_projection", "patch_embed")
    for stage, (kind, ours) in enumerate((("spatial", "space"), ("temporal", "time")), 1):
        layers = f"{key}/{kind}_encoder/transformers_stack/x_layers"
        block = f"stage{stage}_block{{i}}"
        rules += [
            (f"{key}/{kind}_pos_emb/emb_var", f"params/{ours}_positions", "same"),
            *_norm(f"{key}/{kind}_ln", f"norm{stage}"),
            *_attention(f"{layers}/self_attention", f"{block}/attn", "[{i}]"),
            *_linear(f"{layers}/ff_layer/ffn_layer1", f"{block}/mlp/fc1", "[{i}]"),
            *_linear(f"{layers}/ff_layer/ffn_layer2", f"{block}/mlp/fc2", "[{i}]"),
            *(
                (f"{layers}/{norm}/{{n:scale|bias}}[{{i}}]", f"params/{block}/{to}/{{n}}", "same")
                for norm, to in (("layer_norm", "norm1"), ("ff_layer/layer_norm", "norm2"))
            ),
        ]
    return rules


_POOL = "params/atten_pooler/pooling_attention"
_CLASSIFIER = [
    (f"{_POOL}_query", "params/head/query", "same"),
    *_attention(_POOL, "head/attn"),
    (f"{_POOL}/per_dim_scale/per_dim_scale", "params/head/attn/scale", "same"),
    *_norm(f"{_POOL}_layer_norm", "head/norm"),
    *_linear("params/projection", "head/linear"),
]
_ALONE = [*_encoder("params"), *_CLASSIFIER]
_CLASSIFYING = [*_encoder("params/encoder"), *_CLASSIFIER]
NAMES = {
    name: _ALONE if fields.get("num_classes") == 0 else _CLASSIFYING
    for name, fields in VARIANTS.items()
}

# Rows: what a classifier reaches that learns on the frozen encoder. None was published.
_RECIPE = Recipe(
    epochs=5,
    batch_size=16,
    optimizer="adamw",
    lr=1e-4,
    weight_decay=0.0,
    schedule="cosine",
    final_lr=1e-4,
    freeze=("trunk",),
    flip=0.0,
    crop_mode="center",
)


def _row(size: str, frames: int, dataset: str, top1: float, name: str, page: str) -> Row:
    sampling = Sampling("uniform", clip_len=frames)
    return Row(
        name=f"videoprism_{size}_u{frames}_{name}",
        variant=f"videoprism_vc_{size}",
        dataset=dataset,
        num_classes=CLASS_COUNTS[dataset],
        train=sampling,
        test=Protocol(sampling, short_side=288, crops="center", crop=288),
        recipe=_RECIPE,
        train_crop=288,
        train_short_side=288,
        mean=(0.0, 0.0, 0.0),
        std=(255.0, 255.0, 255.0),
        top1=top1,
        source=f"https://huggingface.co/google/{page}",
        licence="CC BY 4.0",
        note="the page has the encoder alone: its classifier is not published and has to be "
        "trained first; nor are the test's views, one here, and the recipe, here that of the "
        "authors' example; their frames are the first of equal parts of the video",
    )


ROWS = [
    _row(size, frames, dataset, top1, name, page)
    for size, frames, page, figures in (
        ("b", 16, "videoprism-base-f16r288", (82.9, 39.7, 62.2, 64.3)),
        ("l", 8, "videoprism-large-f8r288", (85.0, 43.3, 64.6, 67.6)),
    )
    for (dataset, name), top1 in zip(
        (("kinetics400", "k400"), ("mit", "mit"), ("sthv2", "sthv2"), ("diving48", "diving48")),
        figures,
        strict=True,
    )
]
