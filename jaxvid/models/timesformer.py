"""TimeSformer (Bertasius et al., ICML 2021).

In: video [B, T, H, W, C], one clip. Out: logits [B, classes], from a class token.
What sets it apart: a vision transformer on patches of single frames. Divided attention lets every
patch look at its own place in all frames first, then at all patches of its own frame; joint
attention at everything at once; and space-only attention knows no time: class tokens of frames are
averaged. Learnt tables of positions and of moments are added to the patches.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxvid.base.errors import JaxvidError
from jaxvid.layers import names
from jaxvid.layers.conv import Conv
from jaxvid.layers.drop import DropPath
from jaxvid.layers.position import nearest_rows, resize_grid
from jaxvid.layers.shortcut import add
from jaxvid.layers.vit import Block, Mlp, SelfAttention, apply_blocks, dense_init, layer_norm
from jaxvid.rows import CLASS_COUNTS, OPENMMLAB_V1, Protocol, Recipe, Row, Sampling

patch_init = nn.initializers.variance_scaling(1.0, "fan_in", "normal")


class DividedBlock(nn.Module):
    """Attention over time, attention over space and an MLP, each behind a norm.

    Tokens are a class token and then the patches, frame by frame, `frames` of them. The class token
    skips attention over time and takes part in attention over space with each frame; its answers
    are averaged.
    """

    heads: int
    hidden: int
    frames: int
    drop_path: float = 0.0
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps tokens [B, 1 + T P, C] to the same shape."""
        batch, length, width = x.shape
        frames, patches = self.frames, (length - 1) // self.frames
        drop_path = DropPath(self.drop_path)
        token, grid = x[:, :1], x[:, 1:].reshape(batch, frames, patches, width)

        # Samples are dropped as they are folded here: places over time, frames over space.
        y = layer_norm("norm_time", dtype=self.dtype)(grid)
        y = y.swapaxes(1, 2).reshape(-1, frames, width)
        y = drop_path(SelfAttention(self.heads, dtype=self.dtype, name="attn_time")(y), train)
        y = y.reshape(batch, patches, frames, width).swapaxes(1, 2)
        # Zero at first, so that training starts from an image network's answers.
        dense = nn.Dense(width, dtype=self.dtype, kernel_init=nn.initializers.zeros, name="fc_time")
        grid = add(grid, dense(y), train)

        tokens = jnp.broadcast_to(token[:, None], (batch, frames, 1, width))
        y = jnp.concatenate([tokens, grid], axis=2).reshape(-1, 1 + patches, width)
        y = layer_norm("norm1", dtype=self.dtype)(y)
        y = drop_path(SelfAttention(self.heads, dtype=self.dtype, name="attn")(y), train)
        y = y.reshape(batch, frames, 1 + patches, width)
        token = token + y[:, :, 0].mean(1, keepdims=True)
        grid = add(grid, y[:, :, 1:], train)

        x = jnp.concatenate([token, grid.reshape(batch, -1, width)], axis=1)
        y = layer_norm("norm2", dtype=self.dtype)(x)
        y = Mlp(self.hidden, dtype=self.dtype, name="mlp")(y)
        return add(x, drop_path(y, train), train)


class TimeSformer(nn.Module):
    """The transformer with a linear head on its class token.

    `attention` is `divided`, `joint` or `space`. `img_size` (pixels) and `num_frames` are those of
    the clips trained on: they set the sizes of the learnt tables, which are interpolated for other
    crops and spread over other numbers of frames. `drop_path` is the last block's rate, zero at the
    first and linear between. With `scan_blocks` one block is compiled for all.
    """

    num_classes: int = 400
    attention: str = "divided"
    dim: int = 768
    depth: int = 12
    heads: int = 12
    mlp_ratio: int = 4
    patch: int = 16
    img_size: int = 224
    num_frames: int = 8
    drop_path: float = 0.1
    dropout: float = 0.0
    scan_blocks: bool = False
    dtype: Any = None

    @nn.compact
    def __call__(
        self, video: jax.Array, train: bool = False
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Maps video [B, T, H, W, C] to logits [B, classes] and the intermediates by name.

        `stem` and `stage1`, before and after all blocks, are grids of patches [B, T, H', W', C'],
        `pre_logits` the normalised class token [B, C'].
        """
        if self.attention not in ("divided", "joint", "space"):
            raise JaxvidError(
                f"attention={self.attention!r} is unknown: take divided, joint or space"
            )
        window = (1, self.patch, self.patch)
        grid = Conv(
            self.dim,
            window,
            window,
            use_bias=True,
            dtype=self.dtype,
            kernel_init=patch_init,
            name="patch_embed",
        )(video)
        out = {"stem": grid}
        batch, frames = grid.shape[:2]
        token, grid = self.embed(grid)

        hidden = self.mlp_ratio * self.dim
        block: DividedBlock | Block
        if self.attention == "divided":
            block = DividedBlock(self.heads, hidden, frames, dtype=self.dtype, parent=None)
        else:
            block = Block(self.heads, hidden, dtype=self.dtype, parent=None)
        # Frames are samples of their own to a network that knows no time.
        samples = batch * frames if self.attention == "space" else batch
        token = jnp.broadcast_to(token, (samples, 1, self.dim))
        x = jnp.concatenate([token, grid.reshape(samples, -1, self.dim)], axis=1)
        blocks = {
            f"block{i}": block.clone(drop_path=rate)
            for i, rate in enumerate(np.linspace(0, self.drop_path, self.depth).tolist())
        }
        x = apply_blocks(self, blocks, x, train, self.scan_blocks)
        out["stage1"] = x[:, 1:].reshape(grid.shape)

        x = x[:, 0].reshape(batch, -1, self.dim).mean(1)
        x = layer_norm("norm", dtype=self.dtype)(x)
        out["pre_logits"] = x
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        logits = nn.Dense(self.num_classes, dtype=self.dtype, kernel_init=dense_init, name="head")(
            x
        )
        return logits.astype(jnp.promote_types(logits.dtype, jnp.float32)), out

    def embed(self, grid: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Makes the class token [1, 1, C] and adds the tables to the patches [B, T, H, W, C]."""
        side = self.img_size // self.patch
        shapes = {"cls_token": 1, "pos_embed": 1 + side * side, "time_embed": self.num_frames}
        if self.attention == "space":
            del shapes["time_embed"]
        tables = {
            name: self.param(
                name,
                nn.initializers.zeros if name == "time_embed" else dense_init,
                (1, length, self.dim),
                jnp.float32,
            ).astype(grid.dtype)
            for name, length in shapes.items()
        }
        places = tables["pos_embed"]
        token = tables["cls_token"] + places[:, :1]
        grid = grid + resize_grid(places[:, 1:].reshape(side, side, -1), grid.shape[2:4])
        if self.attention != "space":
            moments = nearest_rows(tables["time_embed"][0], grid.shape[1])
            grid = grid + moments[:, None, None]
        return token, grid


Model = TimeSformer

FAMILY = "TimeSformer"
VARIANTS: dict[str, dict[str, Any]] = {
    "timesformer_divst": {},
    "timesformer_jointst": {"attention": "joint"},
    "timesformer_spaceonly": {"attention": "space"},
    **{
        f"timesformer_{name}test": {
            "attention": attention,
            "dim": 8,
            "depth": 2,
            "heads": 2,
            "patch": 8,
            "img_size": 24,
            "num_frames": 4,
        }
        for name, attention in (("", "divided"), ("joint_", "joint"), ("space_", "space"))
    },
}

_LAYER = "backbone.transformer_layers.layers.{i}"


def _attention(key: str, path: str) -> list[names.Rule]:
    """PyTorch's MultiheadAttention at `key` is `layers.vit.SelfAttention` at `path`."""
    return [
        (f"{key}.in_proj_weight", f"params/{path}/qkv/kernel", "linear"),
        (f"{key}.in_proj_bias", f"params/{path}/qkv/bias", "same"),
        *names.dense(f"{key}.out_proj", f"{path}/proj"),
    ]


_COMMON = [
    (
        "backbone.{n:cls_token|pos_embed|time_embed}",
        "params/{n}",
        "same",
    ),
    *names.conv("backbone.patch_embed.projection", "patch_embed", "conv2d", bias=True),
    *names.dense(f"{_LAYER}.ffns.0.layers.0.0", "block{i}/mlp/fc1"),
    *names.dense(f"{_LAYER}.ffns.0.layers.1", "block{i}/mlp/fc2"),
    *names.layer_norm("backbone.norm", "norm"),
    *names.dense("cls_head.fc_cls", "head"),
]
_DIVIDED = [
    *_COMMON,
    *names.layer_norm(f"{_LAYER}.attentions.0.norm", "block{i}/norm_time"),
    *_attention(f"{_LAYER}.attentions.0.attn", "block{i}/attn_time"),
    *names.dense(f"{_LAYER}.attentions.0.temporal_fc", "block{i}/fc_time"),
    *names.layer_norm(f"{_LAYER}.attentions.1.norm", "block{i}/norm1"),
    *_attention(f"{_LAYER}.attentions.1.attn", "block{i}/attn"),
    *names.layer_norm(f"{_LAYER}.ffns.0.norm", "block{i}/norm2"),
]
_WHOLE = [
    *_COMMON,
    *names.layer_norm(f"{_LAYER}.norms.0", "block{i}/norm1"),
    *_attention(f"{_LAYER}.attentions.0.attn", "block{i}/attn"),
    *names.layer_norm(f"{_LAYER}.norms.1", "block{i}/norm2"),
]
# The first attention of a divided block is over time, the only one of the others their `attn`.
NAMES = {
    variant: _WHOLE if "attention" in fields and fields["attention"] != "divided" else _DIVIDED
    for variant, fields in VARIANTS.items()
}

_RECIPE = Recipe(
    epochs=15,
    batch_size=64,
    lr=0.005,
    nesterov=True,
    clip_norm=40.0,
    milestones=(5, 10),
    crop_mode="square",
    crop_scales=(224 / 320, 224 / 256),
    even_sides=True,
)


def _row(variant: str, top1: float, top5: float, upstream: str, weights: str) -> Row:
    """`upstream` is the form's part of the table's name, `weights` the end of the checkpoint's."""
    upstream = f"timesformer_{upstream}_8xb8-8x32x1-15e_kinetics400-rgb"
    sampling = Sampling(clip_len=8, frame_interval=32)
    return Row(
        name=f"{variant}_8x32_k400",
        variant=variant,
        dataset="kinetics400",
        num_classes=CLASS_COUNTS["kinetics400"],
        train=sampling,
        test=Protocol(sampling, short_side=224, crops="three"),
        recipe=_RECIPE,
        train_short_side=320,
        mean=(127.5,) * 3,
        std=(127.5,) * 3,
        top1=top1,
        top5=top5,
        source=f"{OPENMMLAB_V1}/timesformer/{upstream}/{upstream}_{weights}.pth",
        upstream=upstream,
        section="Kinetics-400",
        config=f"mmaction2/configs/recognition/timesformer/{upstream}.py",
        pretrained="ImageNet-21K",
    )


ROWS = [
    _row("timesformer_divst", 77.69, 93.45, "divST", "20220815-a4d0d01f"),
    _row("timesformer_jointst", 76.95, 93.28, "jointST", "20220815-8022d1c0"),
    _row("timesformer_spaceonly", 76.93, 92.88, "spaceOnly", "20220815-78f05367"),
]
