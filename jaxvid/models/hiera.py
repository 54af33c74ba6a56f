"""Hiera, a hierarchical vision transformer of plain blocks (Ryali et al., "Hiera", ICML 2023).

In: video [B, T, H, W, C], one clip. Out: logits [B, classes], from the mean of all tokens; or, of
the network that pretrains it, pixels of patches that it was not shown.
What sets it apart: four stages, of which each but the first halves the grid and doubles channels
and heads, and nothing in them but plain blocks. Tokens are grouped in units of 8 x 8, a square of
32 x 32 pixels in two frames, and lie in such an order that the four tokens that become one are
neighbours: pooling is a maximum over an axis. The first two stages attend within units only, the
others to all tokens; the first block of a stage still attends as the stage before it. What it knows
it learnt by filling in (He et al., "Masked autoencoders", CVPR 2022): whole units are hidden, so
that nothing of a stage mixes what is seen with what is not.
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
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxvid.base.errors import JaxvidError
from jaxvid.layers import names
from jaxvid.layers.attention import attend
from jaxvid.layers.conv import Conv
from jaxvid.layers.drop import DropPath
from jaxvid.layers.linear import Joined, from_heads
from jaxvid.layers.norm import LayerNorm
from jaxvid.layers.position import resize_clip
from jaxvid.layers.shortcut import add
from jaxvid.layers.vit import Block as ViTBlock
from jaxvid.layers.vit import Initializer, Mlp, apply_blocks, dense_init, layer_norm, torch_init
from jaxvid.rows import CLASS_COUNTS, Cubes, Protocol, Recipe, Row, Sampling

Triple = tuple[int, int, int]

PATCH_KERNEL, PATCH_STRIDE, PATCH_PADDING = (3, 7, 7), (2, 4, 4), (1, 3, 3)
# A unit's side in tokens is halved as often as there are stages behind the first.
HALVINGS = 3
UNIT = 2**HALVINGS
SIDE = UNIT * PATCH_STRIDE[1]
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


def shown(visible_BU: jax.Array, units: Triple) -> jax.Array:
    """Which pixels of a clip lie in visible units, of a grid `units`: bool [B, T, H, W, 1].

    `visible_BU` int [B, U] are places in the grid.
    """
    seen = jnp.zeros((len(visible_BU), math.prod(units)), bool)
    seen = jax.vmap(lambda seen, places: seen.at[places].set(True))(seen, visible_BU)
    seen = seen.reshape(-1, *units, 1)
    for axis, size in enumerate((PATCH_STRIDE[0], SIDE, SIDE), 1):
        seen = seen.repeat(size, axis)
    return seen


def pool(x_BWUC: jax.Array) -> jax.Array:
    """The maximum of each square of 2 x 2 tokens: [B, W, U, C] to [B, W / 4, U, C]."""
    batch, tokens, *rest = x_BWUC.shape
    return x_BWUC.reshape(batch, 4, tokens // 4, *rest).max(1)


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
        product = from_heads(self.heads)
        return nn.Dense(self.dim, dot_general=product, name="proj", **inits)(y_BWUC)


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
    linear layers start from, `patch_init` what the patches' embedding does.
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
    patch_init: Initializer = dense_init
    dtype: Any = None

    @nn.nowrap
    def encode(
        self, video: jax.Array, train: bool, visible: jax.Array | None = None
    ) -> tuple[list[jax.Array], Triple, dict[str, jax.Array]]:
        """Maps video [B, T, H, W, C] to tokens of each stage, the grid of units, and intermediates.

        Tokens are [B, W, U, C'], the grid (T', H / 32, W / 32). `visible` int [B, U] are the units
        to look at, as places in it counted row by row; None means all. Intermediates are `stem`,
        the grid [B, T', H', W', C'] before all blocks, and `stage1`.., such grids too where all
        units are visible, or else tokens.
        """
        frames, height, width = video.shape[1:4]
        if height % SIDE or width % SIDE:
            raise JaxvidError(
                f"pictures of {height} x {width} pixels are not made of whole units of {SIDE} x "
                f"{SIDE}: choose data.crop and test.crop as multiples of those"
            )
        units = (-(-frames // PATCH_STRIDE[0]), height // SIDE, width // SIDE)
        if visible is not None:
            video = video * shown(visible, units)[:, :frames].astype(video.dtype)
        grid = Conv(
            self.dim,
            PATCH_KERNEL,
            PATCH_STRIDE,
            PATCH_PADDING,
            use_bias=True,
            dtype=self.dtype,
            kernel_init=self.patch_init,
            name="patch_embed",
        )(video)
        x = to_units(grid + self._positions(grid.shape[1:4]).astype(grid.dtype))
        if visible is not None:
            x = jnp.take_along_axis(x, visible[:, None, :, None], axis=2)
        tokens = self._transform(x, train)
        stages = tokens if visible is not None else [to_grid(x, units) for x in tokens]
        return tokens, units, {"stem": grid} | {f"stage{i}": x for i, x in enumerate(stages, 1)}

    def _positions(self, size: Sequence[int]) -> jax.Array:
        """The embeddings [T, H, W, C] of a grid `size`: sums of those of moments and of places."""
        frames, *sides = (n // s for n, s in zip(self.input_size, PATCH_STRIDE, strict=True))
        sizes = {"spatial": (1, *sides), "temporal": (frames, 1, 1)}
        space, time = (
            self.param(f"pos_embed_{name}", dense_init, (1, math.prod(made_for), self.dim)).reshape(
                *made_for, self.dim
            )
            for name, made_for in sizes.items()
        )
        return resize_clip(space, (1, *size[1:])) + resize_clip(time, (size[0], 1, 1))

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
        tokens, _, out = self.encode(video, train)
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


class MaskedAutoencoder(Encoder):
    """The encoder with a decoder of `decoder_dim` channels, which fills in patches.

    Its last stage pools nothing, so that four tokens of a unit are left, of 16 x 16 pixels each.
    """

    pooled: int = HALVINGS - 1
    kernel_init: Initializer = nn.initializers.xavier_uniform()
    bias_init: Initializer = nn.initializers.zeros
    # As that of a linear layer of all pixels of a patch.
    patch_init: Initializer = nn.initializers.xavier_uniform(in_axis=(0, 1, 2, 3), out_axis=4)
    decoder_dim: int = 512
    decoder_depth: int = 8
    decoder_heads: int = 16

    @property
    def cubes(self) -> Cubes:
        """Units are hidden, each by itself; of two frames the first is asked for."""
        frames, patch = PATCH_STRIDE[0], SIDE // self.left
        return Cubes((frames, SIDE, SIDE), (1, patch, patch), every=frames, tubes=False, joint=True)

    @property
    def left(self) -> int:
        """The side in tokens of a unit behind the last stage."""
        return UNIT // 2**self.pooled

    @nn.compact
    def __call__(
        self,
        video: jax.Array,
        train: bool = False,
        visible: jax.Array | None = None,
        decoded: jax.Array | None = None,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Maps video [B, T, H, W, C] to pixels [B, D, patch, C] and the intermediates by name.

        `visible` int [B, L] are the units that the encoder sees, as places in their grid
        [T / 2, H / 32, W / 32] counted row by row, `decoded` int [B, D] the patches that the
        decoder answers for, in theirs, [T / 2, H / 16, W / 16]; None means all. A patch's pixels
        are those of the first of its two frames, row by row; see `jaxvid.objectives.masking` for
        what they are normalised by. Intermediates are those of the encoder, and `latent`
        [B, L, 2, 2, C'], what it makes of units on all scales.
        """
        tokens, units, out = self.encode(video, train, visible)
        patch = (PATCH_STRIDE[0], *self.cubes.asked[1:])
        size = tuple(n // side for n, side in zip(self.input_size, patch, strict=True))
        channels = video.shape[-1]
        pixels, out["latent"] = Decoder(
            self.decoder_dim,
            self.decoder_depth,
            self.decoder_heads,
            self.mlp_ratio,
            math.prod(self.cubes.asked) * channels,
            cast(Triple, size),
            self.scan_blocks,
            self.kernel_init,
            self.dtype,
            name="decoder",
        )([*tokens[: self.pooled], tokens[-1]], units, visible, decoded, train)
        pixels = pixels.reshape(*pixels.shape[:2], -1, channels)
        return pixels.astype(jnp.promote_types(pixels.dtype, jnp.float32)), out


class Decoder(nn.Module):
    """All that only pretraining needs: from visible units on several scales to pixels of others.

    `size` (T, H, W) is the grid of patches that the table of positions is made for.
    """

    dim: int
    depth: int
    heads: int
    mlp_ratio: int
    pixels: int
    size: Triple
    scan_blocks: bool
    kernel_init: Initializer
    dtype: Any = None

    @nn.compact
    def __call__(
        self,
        tokens: Sequence[jax.Array],
        units: Triple,
        visible: jax.Array | None,
        decoded: jax.Array | None,
        train: bool,
    ) -> tuple[jax.Array, jax.Array]:
        """Maps tokens of the stages to the pixels [B, D, pixels], and to the encoder's last answer.

        Tokens are [B, W, L, C] each, of the units of a grid `units` that are `visible`.
        """
        # Each unit as a picture of its tokens.
        *finer, x = (to_grid(x, (x.shape[2], 1, 1)) for x in tokens)
        batch, _, side, _, width = x.shape
        for i, picture in enumerate(finer):
            window = (1, *2 * [picture.shape[2] // side])
            fusion = Conv(
                width,
                window,
                window,
                use_bias=True,
                dtype=self.dtype,
                kernel_init=torch_init,
                name=f"fusion{i}",
            )
            x = x + fusion(picture)
        x = latent = layer_norm("encoder_norm", dtype=self.dtype)(x)
        dense = functools.partial(nn.Dense, dtype=self.dtype, kernel_init=self.kernel_init)
        x = dense(self.dim, name="embed")(x)
        token = self.param("mask_token", dense_init, (1, 1, self.dim)).astype(x.dtype)
        if visible is not None:
            hidden = jnp.broadcast_to(
                token[..., None, None, :], (batch, math.prod(units), *x.shape[2:])
            )
            x = jax.vmap(lambda all_, places, x: all_.at[places].set(x))(hidden, visible, x)
        frames, rows, columns = units
        x = x.reshape(batch, *units, side, side, self.dim).swapaxes(3, 4)
        x = x.reshape(batch, frames, rows * side, columns * side, self.dim)
        table = self.param("pos_embed", dense_init, (1, math.prod(self.size), self.dim))
        table = resize_clip(table.reshape(*self.size, self.dim), x.shape[1:4]).astype(x.dtype)
        x = (x + table).reshape(batch, -1, self.dim)
        hidden_dim = self.mlp_ratio * self.dim
        blocks = {
            f"block{i}": ViTBlock(
                self.heads,
                hidden_dim,
                kernel_init=self.kernel_init,
                dtype=self.dtype,
                parent=None,
            )
            for i in range(self.depth)
        }
        x = layer_norm("norm", dtype=self.dtype)(
            apply_blocks(self, blocks, x, train, self.scan_blocks)
        )
        if decoded is not None:
            x = jnp.take_along_axis(x, decoded[..., None], axis=1)
        return dense(self.pixels, name="head")(x), latent


Model = Hiera
PretrainingModel = MaskedAutoencoder

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


def _encoder(variant: str) -> dict[str, Any]:
    return {k: v for k, v in VARIANTS[variant].items() if k in ("dim", "heads", "stages")}


# Networks that pretrain; the encoder is that of the variant without `mae` in its name.
PRETRAINING_VARIANTS: dict[str, dict[str, Any]] = {
    **{f"{name}_mae": _encoder(name) for name in VARIANTS if name != "hiera_test"},
    "hiera_pretrain_test": {
        **_encoder("hiera_test"),
        "input_size": VARIANTS["hiera_test"]["input_size"],
        "decoder_dim": 12,
        "decoder_depth": 1,
        "decoder_heads": 2,
    },
}


_ENCODER = [
    ("{n:pos_embed_spatial|pos_embed_temporal}", "params/{n}", "same"),
    *names.conv("patch_embed.proj", "patch_embed", "conv3d", bias=True),
    *names.vit_block("blocks.{i}", "block{i}"),
    *names.dense("blocks.{i}.proj", "block{i}/proj"),
]
_FINE_TUNED = [
    *_ENCODER,
    *names.layer_norm("norm", "norm"),
    *names.dense("head.projection", "head"),
]
_PRETRAINED = [
    *_ENCODER,
    *names.layer_norm("encoder_norm", "decoder/encoder_norm"),
    *names.conv("multi_scale_fusion_heads.{i}", "decoder/fusion{i}", "conv3d", bias=True),
    *names.dense("decoder_embed", "decoder/embed"),
    ("mask_token", "params/decoder/mask_token", "same"),
    ("decoder_pos_embed", "params/decoder/pos_embed", "same"),
    *names.vit_block("decoder_blocks.{i}", "decoder/block{i}"),
    *names.layer_norm("decoder_norm", "decoder/norm"),
    *names.dense("decoder_pred", "decoder/head"),
]
NAMES = {
    **dict.fromkeys(VARIANTS, _FINE_TUNED),
    **dict.fromkeys(PRETRAINING_VARIANTS, _PRETRAINED),
}

# Rows: what the authors publish.

_SOURCE = "https://dl.fbaipublicfiles.com/hiera"


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


_ROW = Row(
    name="",
    variant="",
    dataset="kinetics400",
    num_classes=CLASS_COUNTS["kinetics400"],
    train=_sampling(),
    test=Protocol(_sampling(5), short_side=224, crops="three", crop=224),
    mean=(114.75,) * 3,
    std=(57.375,) * 3,
    licence="CC BY-NC 4.0, which is not for commercial use",
    section="Kinetics-400",
    note="no training code is published: of the recipe the kinds are the paper's, figures are ours",
)
# The authors' words for the sizes.
_SIZES = {"b": "base", "bplus": "base_plus", "l": "large", "h": "huge"}


def _row(size: str, top1: float, epochs: int, layer_decay: float) -> Row:
    name = f"hiera_{_SIZES[size]}_16x224"
    return replace(
        _ROW,
        name=f"hiera_{size}_16x4_k400",
        variant=f"hiera_{size}_16x224",
        recipe=_recipe(epochs, layer_decay),
        top1=top1,
        source=f"{_SOURCE}/{name}.pth",
        upstream=name,
        pretrained="K400 MAE",
    )


ROWS = [
    _row("b", 84.0, 150, 0.8),
    _row("bplus", 85.0, 150, 0.8),
    _row("l", 87.3, 100, 0.9),
    _row("h", 87.8, 100, 0.9),
]

_PRETRAINING = Recipe(
    epochs=800,
    batch_size=512,
    optimizer="adamw",
    lr=8e-4,
    betas=(0.9, 0.95),
    weight_decay=0.05,
    decay_norm_and_bias=False,
    no_decay=("pos_embed_*", "decoder/pos_embed", "decoder/mask_token"),
    clip_norm=0.02,
    schedule="cosine",
    warmup_epochs=120,
    warmup_factor=0.0,
    repeated_augmentation=4,
    repeats_share_frames=False,
    loss="pixels",
    mask_ratio=0.9,
)


def _pretraining_row(variant: str) -> Row:
    """What pretrains `variant`; it is tested on the middle of a video."""
    size = _SIZES.get(variant.split("_")[1])
    return replace(
        _ROW,
        name=variant,
        variant=variant,
        num_classes=0,
        test=Protocol(_sampling(), short_side=224, crops="center"),
        recipe=_PRETRAINING,
        source=f"{_SOURCE}/mae_hiera_{size}_16x224.pth" if size else None,
        section="",
        new=("norm/bias", "norm/scale", "head/bias", "head/kernel"),
    )


PRETRAINING_ROWS = [_pretraining_row(variant) for variant in PRETRAINING_VARIANTS]
