"""Hiera (Ryali et al., "Hiera: A Hierarchical Vision Transformer without the Bells-and-Whistles",
ICML 2023).

In: video [B, T, H, W, C], one clip. Out: logits [B, classes], from the mean of all tokens.
What sets it apart: four stages, of which each but the first halves the grid and doubles channels
and heads, and nothing in them but plain blocks. Tokens are grouped in units of 8 x 8, a square of
32 x 32 pixels in two frames, and lie in such an order that the four tokens that become one are
neighbours: pooling is a maximum over an axis. The first two stages attend within units only, the
others to all tokens; the first block of a stage still attends as the stage before it.
"""

# Names end in their axes, outermost first, as in `x_BWUC`:
#   B  batch
#   W  tokens of a unit
#   U  units
#   C  channels
#   T  frames, or pairs of them
#   H  height
#   W  width, behind H
#   M  units of all samples
#   N  heads
#   D  channels of a head

import functools
import itertools
import logging
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxvid.base.errors import JaxvidError
from jaxvid.layers import names
from jaxvid.layers.attention import attend
from jaxvid.layers.conv import Conv
from jaxvid.layers.drop import DropPath
from jaxvid.layers.linear import Joined
from jaxvid.layers.norm import LayerNorm
from jaxvid.layers.position import resize_grid, resize_table
from jaxvid.layers.shortcut import add
from jaxvid.layers.vit import Initializer, Mlp, apply_blocks, dense_init
from jaxvid.rows import CLASS_COUNTS, Protocol, Recipe, Row, Sampling

Triple = tuple[int, int, int]

PATCH_KERNEL, PATCH_STRIDE, PATCH_PADDING = (3, 7, 7), (2, 4, 4), (1, 3, 3)
# A unit's side in tokens is halved as often as there are stages behind the first.
HALVINGS = 3
UNIT = 2**HALVINGS
# Of these stages' kinds a stage's first block has that of the stage before.
WITHIN_UNITS = (True, True, False, False)


def to_units(x_BTHWC: jax.Array) -> jax.Array:
    """Puts the tokens of a grid [B, T, H, W, C] in the order of units: [B, 64, U, C].

    Units are counted through time, height and width. A token's number within its unit has the place
    in its square of 2 x 2 outermost, then the place of that square in one of 4 x 4, and so on, each
    counted row by row.
    """
    batch, frames, height, width, channels = x_BTHWC.shape
    halves = (2,) * HALVINGS
    x = x_BTHWC.reshape(batch, frames, height // UNIT, *halves, width // UNIT, *halves, channels)
    # Halves of a side stand from the whole unit's down to a pair of tokens.
    rows = range(3, 3 + HALVINGS)
    columns = range(4 + HALVINGS, 4 + 2 * HALVINGS)
    places = itertools.chain(*zip(reversed(rows), reversed(columns), strict=True))
    x = x.transpose(0, *places, 1, 2, 3 + HALVINGS, 4 + 2 * HALVINGS)
    return x.reshape(batch, UNIT**2, -1, channels)


def to_grid(x_BWUC: jax.Array, units: Sequence[int]) -> jax.Array:
    """The other way round: [B, W, U, C] to the grid [B, T, H, W, C] of `units` (T, H, W).

    Units may have been pooled: their tokens are as many as a power of 4.
    """
    batch, tokens, _, channels = x_BWUC.shape
    halvings = (tokens.bit_length() - 1) // 2
    side = 2**halvings
    x = x_BWUC.reshape(batch, *(2, 2) * halvings, *units, channels)
    rows, columns = range(2 * halvings - 1, 0, -2), range(2 * halvings, 0, -2)
    first = 1 + 2 * halvings
    x = x.transpose(0, first, first + 1, *rows, first + 2, *columns, first + 3)
    return x.reshape(batch, units[0], units[1] * side, units[2] * side, channels)


def pool(x_BWUC: jax.Array) -> jax.Array:
    """The maximum of each square of 2 x 2 tokens: [B, W, U, C] to [B, W / 4, U, C]."""
    batch, tokens, *rest = x_BWUC.shape
    return x_BWUC.reshape(batch, 4, tokens // 4, *rest).max(1)


def positions(space: jax.Array, time: jax.Array, size: Sequence[int]) -> jax.Array:
    """Makes the embeddings [T, H, W, C] of the tokens of a grid `size` (T, H, W).

    They are sums of those of places, `space` [1, H', W', C], and of moments, `time` [1, T', C]. A
    table of another size is interpolated, which the log says.
    """
    if time.shape[1] != size[0]:
        logging.getLogger(__name__).info(
            "the table of %d moments is interpolated to %d", time.shape[1], size[0]
        )
    return resize_grid(space, tuple(size[1:])) + resize_table(time[0], size[0])[:, None, None]


class Attention(nn.Module):
    """Attention of `dim` channels, of units among themselves or of all tokens.

    With `pools` the queries are pooled, and so are the tokens that come out.
    """

    dim: int
    heads: int
    within_units: bool
    pools: bool
    kernel_init: Initializer
    bias_init: Initializer
    dtype: Any = None

    @nn.compact
    def __call__(self, x_BWUC: jax.Array) -> jax.Array:
        """Maps tokens [B, W, U, C] to [B, W', U, dim]."""
        batch, _, units, _ = x_BWUC.shape
        inits = {"kernel_init": self.kernel_init, "bias_init": self.bias_init, "dtype": self.dtype}
        q_BWUC, k_BWUC, v_BWUC = Joined(self.dim, 3, self.heads, name="qkv", **inits)(x_BWUC)
        if self.pools:
            q_BWUC = pool(q_BWUC)

        def split(part_BWUC: jax.Array) -> jax.Array:
            part_BWUND = part_BWUC.reshape(*part_BWUC.shape[:3], self.heads, -1)
            if self.within_units:
                part_BUWND = part_BWUND.swapaxes(1, 2)
                return part_BUWND.reshape(batch * units, *part_BUWND.shape[2:])
            return part_BWUND.reshape(batch, -1, *part_BWUND.shape[3:])

        y = attend(split(q_BWUC), split(k_BWUC), split(v_BWUC))
        if self.within_units:
            y_BUWC = y.reshape(batch, units, -1, self.dim)
            y_BWUC = y_BUWC.swapaxes(1, 2)
        else:
            y_BWUC = y.reshape(batch, -1, units, self.dim)
        return nn.Dense(self.dim, name="proj", **inits)(y_BWUC)


class Block(nn.Module):
    """Attention and an MLP, each behind a norm and beside a shortcut.

    Where channels grow the shortcut of attention is a projection of the normalised tokens; where
    the grid shrinks, that is pooled.
    """

    dim: int
    heads: int
    within_units: bool
    pools: bool
    mlp_ratio: int
    drop_path: float
    kernel_init: Initializer
    bias_init: Initializer
    dtype: Any = None

    @nn.compact
    def __call__(self, x_BWUC: jax.Array, train: bool) -> jax.Array:
        """Maps tokens [B, W, U, C] to [B, W', U, dim]."""
        drop_path = DropPath(self.drop_path)
        inits = {"kernel_init": self.kernel_init, "bias_init": self.bias_init, "dtype": self.dtype}
        norm = functools.partial(LayerNorm, bias_init=self.bias_init, dtype=self.dtype)
        y_BWUC = norm(name="norm1")(x_BWUC)
        if x_BWUC.shape[-1] != self.dim:
            x_BWUC = nn.Dense(self.dim, name="proj", **inits)(y_BWUC)
        if self.pools:
            x_BWUC = pool(x_BWUC)
        attention = Attention(
            self.dim, self.heads, self.within_units, self.pools, name="attn", **inits
        )
        x_BWUC = add(x_BWUC, drop_path(attention(y_BWUC), train), train)
        y_BWUC = norm(name="norm2")(x_BWUC)
        y_BWUC = Mlp(self.mlp_ratio * self.dim, name="mlp", **inits)(y_BWUC)
        return add(x_BWUC, drop_path(y_BWUC, train), train)


class Encoder(nn.Module):
    """Patches, their positions and the blocks of four stages.

    `stages` are numbers of blocks; channels `dim` and `heads` are the first stage's. `pooled` of
    the others halve the grid. `input_size` (T, H, W), in pixels, is that of the clips trained on:
    it sets the sizes of the tables of positions, which are interpolated for clips of another size.
    `drop_path` is the last block's rate, zero at the first and linear between. With `scan_blocks`
    one block is compiled for all of a stage that are alike. `kernel_init` and `bias_init` are what
    linear layers start from.
    """

    input_size: Triple = (16, 224, 224)
    dim: int = 96
    heads: int = 1
    stages: tuple[int, int, int, int] = (2, 3, 16, 3)
    pooled: int = HALVINGS
    mlp_ratio: int = 4
    drop_path: float = 0.0
    scan_blocks: bool = False
    kernel_init: Initializer = dense_init
    bias_init: Initializer = nn.initializers.constant(0.02)
    dtype: Any = None

    @nn.nowrap
    def encode(self, video: jax.Array, train: bool) -> tuple[list[jax.Array], dict[str, jax.Array]]:
        """Maps video [B, T, H, W, C] to the tokens [B, W, U, C] of each stage, and intermediates.

        Those are `stem` and `stage1`.., grids [B, T', H', W', C'].
        """
        grid = Conv(
            self.dim,
            PATCH_KERNEL,
            PATCH_STRIDE,
            PATCH_PADDING,
            use_bias=True,
            dtype=self.dtype,
            kernel_init=dense_init,
            name="patch_embed",
        )(video)
        frames, height, width = grid.shape[1:4]
        if height % UNIT or width % UNIT:
            raise JaxvidError(
                f"pictures of {video.shape[2]} x {video.shape[3]} pixels are not made of whole "
                f"units of {UNIT * PATCH_STRIDE[1]} x {UNIT * PATCH_STRIDE[2]}: choose data.crop "
                "and test.crop as multiples of those"
            )
        out = {"stem": grid}
        made_for = [n // s for n, s in zip(self.input_size, PATCH_STRIDE, strict=True)]
        space, time = (
            self.param(f"pos_embed_{name}", dense_init, (1, length, self.dim))
            for name, length in (
                ("spatial", made_for[1] * made_for[2]),
                ("temporal", made_for[0]),
            )
        )
        space = space.reshape(1, *made_for[1:], self.dim)
        x = grid + positions(space, time, grid.shape[1:4]).astype(grid.dtype)
        units = (frames, height // UNIT, width // UNIT)
        tokens = self._transform(to_units(x), train)
        out |= {f"stage{i}": to_grid(x, units) for i, x in enumerate(tokens, 1)}
        return tokens, out

    def _transform(self, x: jax.Array, train: bool) -> list[jax.Array]:
        """Applies `block0`, `block1`.. to tokens [B, W, U, C]; returns those behind each stage."""
        rates = iter(np.linspace(0, self.drop_path, sum(self.stages)).tolist())
        ends, tokens = list(itertools.accumulate(self.stages)), []
        for stage, (end, count) in enumerate(zip(ends, self.stages, strict=True)):
            blocks = {
                f"block{i}": Block(
                    self.dim * 2**stage,
                    self.heads * 2**stage,
                    WITHIN_UNITS[max(stage - 1, 0) if i == end - count else stage],
                    i == end - count and 0 < stage <= self.pooled,
                    self.mlp_ratio,
                    next(rates),
                    self.kernel_init,
                    self.bias_init,
                    self.dtype,
                    parent=None,
                )
                for i in range(end - count, end)
            }
            x = apply_blocks(self, blocks, x, train, self.scan_blocks)
            tokens.append(x)
        return tokens


class Hiera(Encoder):
    """The encoder with a norm and a linear head on its mean token.

    `head_init_scale` multiplies the head's initial weights.
    """

    num_classes: int = 400
    dropout: float = 0.0
    head_init_scale: float = 0.001

    @nn.compact
    def __call__(
        self, video: jax.Array, train: bool = False
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Maps video [B, T, H, W, C] to logits [B, classes] and the intermediates by name.

        `stem` and `stage1`.. are grids [B, T', H', W', C'], `pre_logits` the normalised mean token
        [B, C']. Raises `JaxvidError` where height or width is no multiple of 32.
        """
        tokens, out = self.encode(video, train)
        mean = tokens[-1].mean((1, 2))
        x = LayerNorm(bias_init=self.bias_init, dtype=self.dtype, name="norm")(mean)
        out["pre_logits"] = x
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        logits = nn.Dense(
            self.num_classes,
            dtype=self.dtype,
            kernel_init=nn.initializers.truncated_normal(0.02 * self.head_init_scale),
            bias_init=nn.initializers.constant(0.02 * self.head_init_scale),
            name="head",
        )(x)
        return logits.astype(jnp.promote_types(logits.dtype, jnp.float32)), out


Model = Hiera

FAMILY = "Hiera"
VARIANTS: dict[str, dict[str, Any]] = {
    "hiera_b_16x224": {"drop_path": 0.2},
    "hiera_bplus_16x224": {"dim": 112, "heads": 2, "drop_path": 0.2},
    "hiera_l_16x224": {"dim": 144, "heads": 2, "stages": (2, 6, 36, 4), "drop_path": 0.5},
    "hiera_h_16x224": {"dim": 256, "heads": 4, "stages": (2, 6, 36, 4), "drop_path": 0.6},
    "hiera_test": {
        "input_size": (4, 32, 32),
        "dim": 8,
        "stages": (1, 2, 2, 1),
        "head_init_scale": 1.0,
    },
}


def _blocks(key: str, path: str) -> list[names.Rule]:
    return [
        *names.layer_norm(f"{key}.{{n:norm1|norm2}}", f"{path}/{{n}}"),
        *names.dense(f"{key}.{{m:attn|mlp}}.{{n:qkv|proj|fc1|fc2}}", f"{path}/{{m}}/{{n}}"),
    ]


_ENCODER = [
    ("{n:pos_embed_spatial|pos_embed_temporal}", "params/{n}", "same"),
    *names.conv("patch_embed.proj", "patch_embed", "conv3d", bias=True),
    *_blocks("blocks.{i}", "block{i}"),
    *names.dense("blocks.{i}.proj", "block{i}/proj"),
]
_FINE_TUNED = [
    *_ENCODER,
    *names.layer_norm("norm", "norm"),
    *names.dense("head.projection", "head"),
]
NAMES = _FINE_TUNED

# Rows: what the authors publish.

_SOURCE = "https://dl.fbaipublicfiles.com/hiera"
_LICENCE = "CC BY-NC 4.0 (not for commercial use)"


def _recipe(epochs: int, layer_decay: float) -> Recipe:
    return Recipe(
        epochs=epochs,
        batch_size=256,
        optimizer="adamw",
        lr=1.6e-3,
        weight_decay=0.05,
        decay_norm_and_bias=False,
        no_decay=("pos_embed_*",),
        schedule="cosine",
        final_lr=1.6e-5,
        warmup_epochs=10,
        warmup_factor=0.01,
        layer_decay=layer_decay,
        label_smoothing=0.1,
        mixup=0.8,
        cutmix=1.0,
        rand_augment="m7-n4",
        random_erasing=0.25,
        repeated_augmentation=2,
    )


def _sampling(clips: int = 1) -> Sampling:
    return Sampling("timed", 16, 4, num_clips=clips, target_fps=30)


def _row(name: str, top1: float, upstream: str, recipe: Recipe) -> Row:
    """`name` without its protocol, `upstream` the authors' word for the size."""
    return Row(
        name=f"{name}_16x4_k400",
        variant=f"{name}_16x224",
        dataset="kinetics400",
        num_classes=CLASS_COUNTS["kinetics400"],
        train=_sampling(),
        test=Protocol(_sampling(5), short_side=224, crops="three", crop=224),
        recipe=recipe,
        train_short_side=256,
        mean=(114.75,) * 3,
        std=(57.375,) * 3,
        top1=top1,
        source=f"{_SOURCE}/hiera_{upstream}_16x224.pth",
        licence=_LICENCE,
        upstream=f"hiera_{upstream}_16x224",
        section="Kinetics-400",
        pretrained="K400 MAE",
        note="no training code is released: the recipe is in the paper's terms, its figures are "
        "not checked against it",
    )


ROWS = [
    _row("hiera_b", 84.0, "base", _recipe(150, 0.8)),
    _row("hiera_bplus", 85.0, "base_plus", _recipe(150, 0.8)),
    _row("hiera_l", 87.3, "large", _recipe(100, 0.9)),
    _row("hiera_h", 87.8, "huge", _recipe(100, 0.9)),
]
