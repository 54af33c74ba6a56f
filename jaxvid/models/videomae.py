"""VideoMAE and VideoMAE V2 (Tong et al., NeurIPS 2022; Wang et al., CVPR 2023).

In: video [B, T, H, W, C], one clip. Out: logits [B, classes], from the mean of all tokens; or, of
the network that pretrains it, pixels of cubes that it was not shown.
What sets it apart: a plain vision transformer on cubes of two frames by 16 x 16 pixels, with full
attention over space and time, fixed sinusoids for positions, counted through time, height and
width, and no class token. What it knows it learnt by filling in masked cubes: the encoder is given
the few visible ones only, and a narrow decoder, which is dropped afterwards, answers for the
others. V1 and V2 are one network: V2 is about how to pretrain it.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxvid.layers import names
from jaxvid.layers.conv import Conv
from jaxvid.layers.position import resize_grid, sinusoids
from jaxvid.layers.vit import (
    Block,
    Initializer,
    apply_blocks,
    dense_init,
    layer_norm,
    torch_init,
)
from jaxvid.rows import CLASS_COUNTS, OPENMMLAB_V1, Cubes, Protocol, Recipe, Row, Sampling


class Encoder(nn.Module):
    """What the networks below share: cubes, their positions and the blocks.

    Cubes are `tubelet` frames by `patch` x `patch` pixels. The positions are those of a crop of
    `img_size` pixels and a clip of any length; on other crops they are interpolated. `drop_path`
    is the last block's rate, zero at the first and linear between. With `scan_blocks` one block is
    compiled for all. `kernel_init` is what the blocks' linear layers start from.
    """

    dim: int = 768
    depth: int = 12
    heads: int = 12
    mlp_ratio: float = 4.0
    patch: int = 16
    tubelet: int = 2
    img_size: int = 224
    drop_path: float = 0.0
    scan_blocks: bool = False
    kernel_init: Initializer = dense_init
    dtype: Any = None

    @nn.nowrap
    def encode(
        self, video: jax.Array, train: bool, visible: jax.Array | None = None
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Maps video [B, T, H, W, C] to tokens [B, L, C'] and the intermediates by name.

        `visible` int [B, L] are the cubes to look at, as places in the grid [T', H', W'] counted
        row by row; None means all. `stem` is the grid [B, T', H', W', C'] before all blocks, and
        `stage1` what they make of it, a grid too where all cubes are visible.
        """
        cube = (self.tubelet, self.patch, self.patch)
        grid = Conv(
            self.dim,
            cube,
            cube,
            use_bias=True,
            dtype=self.dtype,
            kernel_init=torch_init,
            name="patch_embed",
        )(video)
        out = {"stem": grid}
        x = grid + self.positions(grid.shape[1:4]).astype(grid.dtype)
        x = x.reshape(x.shape[0], -1, self.dim)
        if visible is not None:
            x = pick(x, visible)
        rates = np.linspace(0, self.drop_path, self.depth).tolist()
        x = transform(self, self.heads, self.mlp_ratio, rates, x, train)
        out["stage1"] = x.reshape(grid.shape) if visible is None else x
        return x, out

    def positions(self, size: Sequence[int]) -> jax.Array:
        """Makes the embedding of each cube of a grid `size` (T, H, W): [T, H, W, C]."""
        return grid_positions(self.img_size // self.patch, size, self.dim)


class VideoMAE(Encoder):
    """The encoder with a linear head on its mean token.

    `head_init_scale` multiplies the head's initial weights. Without `mean_pooling` all tokens are
    normalised and the head is on the first one, as in some files of Hugging Face.
    """

    num_classes: int = 400
    drop_path: float = 0.1
    dropout: float = 0.0
    head_init_scale: float = 0.001
    mean_pooling: bool = True

    @nn.compact
    def __call__(
        self, video: jax.Array, train: bool = False
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Maps video [B, T, H, W, C] to logits [B, classes] and the intermediates by name.

        `stem` and `stage1`, before and after all blocks, are grids [B, T', H', W', C'],
        `pre_logits` the normalised mean or first token [B, C'].
        """
        x, out = self.encode(video, train)
        if self.mean_pooling:
            x = layer_norm("fc_norm", dtype=self.dtype)(x.mean(1))
        else:
            x = layer_norm("norm", dtype=self.dtype)(x[:, 0])
        out["pre_logits"] = x
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        init = nn.initializers.truncated_normal(0.02 * self.head_init_scale)
        logits = nn.Dense(self.num_classes, dtype=self.dtype, kernel_init=init, name="head")(x)
        return logits.astype(jnp.promote_types(logits.dtype, jnp.float32)), out


class MaskedAutoencoder(Encoder):
    """The encoder with a decoder of `decoder_dim` channels, which fills in cubes."""

    kernel_init: Initializer = nn.initializers.xavier_uniform()
    decoder_dim: int = 384
    decoder_depth: int = 4
    decoder_heads: int = 6

    @property
    def cubes(self) -> Cubes:
        """What is hidden, and asked for."""
        cube = (self.tubelet, self.patch, self.patch)
        return Cubes(hidden=cube, asked=cube)

    @nn.compact
    def __call__(
        self,
        video: jax.Array,
        train: bool = False,
        visible: jax.Array | None = None,
        decoded: jax.Array | None = None,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Maps video [B, T, H, W, C] to pixels [B, D, cube, C] and the encoder's intermediates.

        `visible` int [B, L] are the cubes that the encoder sees, `decoded` int [B, D] those that
        the decoder answers for, both as places in the grid [T', H', W'] counted row by row; None
        means all. A cube's pixels are counted through time, height and width; see
        `jaxvid.objectives.masking` for what they are normalised by.
        """
        x, out = self.encode(video, train, visible)
        side, size = self.img_size // self.patch, out["stem"].shape[1:4]
        table = grid_positions(side, size, self.decoder_dim).reshape(1, -1, self.decoder_dim)
        table = jnp.broadcast_to(table, (x.shape[0], *table.shape[1:])).astype(x.dtype)
        channels = video.shape[-1]
        pixels = Decoder(
            self.decoder_dim,
            self.decoder_depth,
            self.decoder_heads,
            self.mlp_ratio,
            self.tubelet * self.patch**2 * channels,
            self.scan_blocks,
            self.kernel_init,
            self.dtype,
            name="decoder",
        )(
            x,
            table if visible is None else pick(table, visible),
            table if decoded is None else pick(table, decoded),
            train,
        )
        pixels = pixels.reshape(*pixels.shape[:2], -1, channels)
        return pixels.astype(jnp.promote_types(pixels.dtype, jnp.float32)), out


class Decoder(nn.Module):
    """All that only pretraining needs: from visible tokens to the pixels of other cubes."""

    dim: int
    depth: int
    heads: int
    mlp_ratio: float
    pixels: int
    scan_blocks: bool = False
    kernel_init: Initializer = dense_init
    dtype: Any = None

    @nn.compact
    def __call__(
        self, x: jax.Array, seen: jax.Array, asked: jax.Array, train: bool = False
    ) -> jax.Array:
        """Maps tokens [B, L, C] to the pixels [B, D, pixels] of other cubes.

        `seen` [B, L, C'] are the tokens' positions, `asked` [B, D, C'] those of the other cubes,
        which one learnt token stands for.
        """
        x = layer_norm("encoder_norm", dtype=self.dtype)(x)
        x = nn.Dense(
            self.dim, use_bias=False, dtype=self.dtype, kernel_init=torch_init, name="embed"
        )(x)
        # Cut one deviation out, as the authors have it.
        token_init = nn.initializers.truncated_normal(0.02, lower=-1, upper=1)
        token = self.param("mask_token", token_init, (1, 1, self.dim)).astype(x.dtype)
        x = jnp.concatenate([x + seen, token + asked], axis=1)
        x = transform(self, self.heads, self.mlp_ratio, [0.0] * self.depth, x, train)
        x = layer_norm("norm", dtype=self.dtype)(x[:, seen.shape[1] :])
        return nn.Dense(self.pixels, dtype=self.dtype, kernel_init=self.kernel_init, name="head")(x)


def transform(
    trunk: Encoder | Decoder,
    heads: int,
    mlp_ratio: float,
    drop_path: list[float],
    x: jax.Array,
    train: bool,
) -> jax.Array:
    """Applies `block0`, `block1`.. of `trunk`, of rates `drop_path`, to tokens x [B, L, C]."""
    hidden = round(x.shape[-1] * mlp_ratio)
    blocks = {
        f"block{i}": Block(
            heads,
            hidden,
            False,
            rate,
            kernel_init=trunk.kernel_init,
            dtype=trunk.dtype,
            parent=None,
        )
        for i, rate in enumerate(drop_path)
    }
    return apply_blocks(trunk, blocks, x, train, trunk.scan_blocks)


def grid_positions(side: int, size: Sequence[int], dim: int) -> jax.Array:
    """The fixed embeddings [T, H, W, dim] of a grid `size` (T, H, W).

    They are those of a grid whose height and width are `side`, and interpolated where it differs.
    """
    table = sinusoids(size[0] * side * side, dim).reshape(size[0], side, side, dim)
    return resize_grid(jnp.asarray(table), size[1:])


def pick(tokens: jax.Array, places: jax.Array) -> jax.Array:
    """The tokens [B, N, C] at places [B, N] of tokens [B, L, C]."""
    return jnp.take_along_axis(tokens, places[..., None], axis=1)


def published_positions(model: VideoMAE, shape: tuple[int, ...]) -> np.ndarray:
    """What a checkpoint of `model` holds as positions, of clips as long as `shape` says.

    Its table is [1, T H W, C] on the grid that the table is made for.
    """
    side = model.img_size // model.patch
    length = shape[1] if len(shape) == 3 else 0
    return sinusoids(length - length % side**2, model.dim)[None]


Model = VideoMAE
PretrainingModel = MaskedAutoencoder

FAMILY = {"videomae": "VideoMAE", "videomaev2": "VideoMAE V2"}
VARIANTS: dict[str, dict[str, Any]] = {
    "videomae_vit_b": {},
    "videomae_vit_l": {"dim": 1024, "depth": 24, "heads": 16},
    "videomaev2_vit_s": {"dim": 384, "heads": 6},
    "videomaev2_vit_b": {},
    # As in the paper's table; no published row.
    "videomaev2_vit_h": {"dim": 1280, "depth": 32, "heads": 16, "drop_path": 0.2, "dropout": 0.5},
    "videomaev2_vit_g": {
        "dim": 1408,
        "depth": 40,
        "heads": 16,
        "mlp_ratio": 48 / 11,
        "patch": 14,
        "drop_path": 0.25,
    },
    "videomae_test": {
        "dim": 8,
        "depth": 2,
        "heads": 2,
        "patch": 8,
        "img_size": 24,
        "head_init_scale": 1.0,
    },
}

# Networks that pretrain; the encoder is that of the variant without `pretrain` in its name.
PRETRAINING_VARIANTS = {
    "videomae_pretrain_vit_s": {"dim": 384, "heads": 6, "decoder_dim": 192, "decoder_heads": 3},
    "videomae_pretrain_vit_b": {},
    "videomae_pretrain_vit_l": {
        **VARIANTS["videomae_vit_l"],
        "decoder_dim": 512,
        "decoder_depth": 12,
        "decoder_heads": 8,
    },
    "videomae_pretrain_vit_h": {
        "dim": 1280,
        "depth": 32,
        "heads": 16,
        "decoder_dim": 640,
        "decoder_depth": 12,
        "decoder_heads": 8,
    },
    "videomaev2_pretrain_vit_b": {},
    "videomaev2_pretrain_vit_l": {
        **VARIANTS["videomae_vit_l"],
        "decoder_dim": 512,
        "decoder_heads": 8,
    },
    "videomaev2_pretrain_vit_h": {
        "dim": 1280,
        "depth": 32,
        "heads": 16,
        "decoder_dim": 512,
        "decoder_heads": 8,
    },
    "videomaev2_pretrain_vit_g": {
        "dim": 1408,
        "depth": 40,
        "heads": 16,
        "mlp_ratio": 48 / 11,
        "patch": 14,
        "decoder_dim": 512,
        "decoder_heads": 8,
    },
    "videomae_pretrain_test": {
        "dim": 8,
        "depth": 2,
        "heads": 2,
        "patch": 8,
        "img_size": 24,
        "decoder_dim": 12,
        "decoder_depth": 1,
        "decoder_heads": 2,
    },
}


def _blocks(
    key: str, path: str, mlp: tuple[str, str] = ("fc1", "fc2")
) -> list[tuple[str, str | None, str]]:
    """A block; `mlp` are the names of its MLP's layers."""
    return [
        *names.layer_norm(f"{key}.{{n:norm1|norm2}}", f"{path}/{{n}}"),
        (f"{key}.attn.{{n:q_bias|v_bias}}", f"params/{path}/attn/{{n}}", "same"),
        *names.dense(f"{key}.attn.qkv", f"{path}/attn/qkv", bias=False),
        *names.dense(f"{key}.attn.proj", f"{path}/attn/proj"),
        *names.dense(f"{key}.mlp.{mlp[0]}", f"{path}/mlp/fc1"),
        *names.dense(f"{key}.mlp.{mlp[1]}", f"{path}/mlp/fc2"),
    ]


_FINE_TUNED = [
    ("backbone.pos_embed", None, "drop"),
    *names.conv("backbone.patch_embed.projection", "patch_embed", "conv3d", bias=True),
    *_blocks("backbone.blocks.{i}", "block{i}", ("layers.0.0", "layers.1")),
    *names.layer_norm("backbone.{n:norm|fc_norm}", "{n}"),
    *names.dense("cls_head.fc_cls", "head"),
]
_PRETRAINED = [  # The authors' own names.
    *names.conv("encoder.patch_embed.proj", "patch_embed", "conv3d", bias=True),
    *_blocks("encoder.blocks.{i}", "block{i}"),
    *names.layer_norm("encoder.norm", "decoder/encoder_norm"),
    *names.dense("encoder_to_decoder", "decoder/embed", bias=False),
    ("mask_token", "params/decoder/mask_token", "same"),
    *_blocks("decoder.blocks.{i}", "decoder/block{i}"),
    *names.layer_norm("decoder.norm", "decoder/norm"),
    *names.dense("decoder.head", "decoder/head"),
]
NAMES = {
    **dict.fromkeys(VARIANTS, _FINE_TUNED),
    **dict.fromkeys(PRETRAINING_VARIANTS, _PRETRAINED),
}

# Dropped keys that must hold what we compute ourselves.
RECOMPUTED = {"backbone.pos_embed": published_positions}

# Rows: what MMAction2 tests of the authors' weights. Recipes are the authors' fine-tuning scripts:
# rates are scaled there by the batch over 256.


def _recipe(epochs: int, batch_size: int, lr: float) -> Recipe:
    """`lr` is for a batch of 256."""
    scale = batch_size / 256
    return Recipe(
        epochs=epochs,
        batch_size=batch_size,
        optimizer="adamw",
        lr=lr * scale,
        weight_decay=0.05,
        decay_norm_and_bias=False,
        schedule="cosine",
        final_lr=1e-6 * scale,
        warmup_epochs=5,
        warmup_factor=1e-6 / lr,
        layer_decay=0.75,
        label_smoothing=0.1,
        mixup=0.8,
        cutmix=1.0,
        rand_augment="m7-n4",
        random_erasing=0.25,
        repeated_augmentation=2,
    )


_OPERATIONS = "RandAugment's operations and the noise of erasing are MMAction2's, not theirs"
_V2 = "videomaev2-vit-g-dist-k710-pre"
_DISTILLED = (
    "a student of ViT-g on Kinetics-710, tested with its outputs for Kinetics-400; how it was "
    "taught is not published as a script, the recipe is that of the authors' ViT-B fine-tuned "
    "without a teacher"
)


def _row(
    name: str,
    variant: str,
    top1: float,
    top5: float,
    upstream: str,
    weights: str,
    recipe: Recipe,
    note: str = "",
) -> Row:
    """`upstream` is the table's name before the sampling, `weights` the checkpoint's file."""
    folder = "videomae" if variant.startswith("videomae_") else "videomaev2"
    upstream = f"{upstream}_16x4x1_kinetics-400"
    sampling = Sampling(clip_len=16, frame_interval=4)
    return Row(
        name=name,
        variant=variant,
        dataset="kinetics400",
        num_classes=CLASS_COUNTS["kinetics400"],
        train=sampling,
        test=Protocol(replace(sampling, num_clips=5), short_side=224, crops="three"),
        recipe=recipe,
        train_short_side=320,
        top1=top1,
        top5=top5,
        source=f"{OPENMMLAB_V1}/{folder}/{weights.format(upstream)}.pth",
        upstream=upstream,
        section="Kinetics-400",
        config=f"mmaction2/configs/recognition/{folder}/{upstream}.py",
        note=f"the authors' weights; {_OPERATIONS}{note and '; ' + note}",
    )


# fmt: off
ROWS = [
    _row("videomae_vit_b_16x4_k400", "videomae_vit_b", 81.3, 95.0,
         "vit-base-p16_videomae-k400-pre", "{}_20221013-860a3cd3", _recipe(75, 384, 5e-4)),
    _row("videomae_vit_l_16x4_k400", "videomae_vit_l", 85.3, 96.7,
         "vit-large-p16_videomae-k400-pre", "{}_20221013-229dbb03", _recipe(35, 128, 2e-3)),
    _row("videomaev2_vit_s_16x4_k400", "videomaev2_vit_s", 83.6, 96.3,
         f"vit-small-p16_{_V2}", "{0}/{0}_20230510-25c748fd", _recipe(90, 512, 7e-4), _DISTILLED),
    _row("videomaev2_vit_b_16x4_k400", "videomaev2_vit_b", 86.6, 97.3,
         f"vit-base-p16_{_V2}", "{0}/{0}_20230510-3e7f93b2", _recipe(90, 512, 7e-4), _DISTILLED),
]
# fmt: on


def _pretraining_recipe(
    epochs: int, batch_size: int, lr: float = 1.5e-4, warmup_epochs: int = 40
) -> Recipe:
    """The authors' pretraining scripts: clips are cropped and never mirrored; `lr` is for 256."""
    scale = batch_size / 256
    return Recipe(
        epochs=epochs,
        batch_size=batch_size,
        optimizer="adamw",
        lr=lr * scale,
        betas=(0.9, 0.95),
        weight_decay=0.05,
        decay_norm_and_bias=False,
        no_decay=("decoder/mask_token",),
        schedule="cosine",
        final_lr=1e-5 * scale,
        warmup_epochs=warmup_epochs,
        warmup_factor=0.0,
        crop_mode="multi_scale",
        fixed_crops=13,
        flip=0.0,
        loss="pixels",
        mask_ratio=0.9,
    )


def _pretraining_row(variant: str, recipe: Recipe, note: str = "") -> Row:
    """What pretrains `variant`; it is tested on the middle of a video."""
    v2 = variant.startswith("videomaev2")
    sampling = Sampling(clip_len=16, frame_interval=4)
    return Row(
        name=variant,
        variant=variant,
        dataset="" if v2 else "kinetics400",
        num_classes=0,
        train=sampling,
        test=Protocol(sampling, short_side=224, crops="center"),
        recipe=replace(recipe, decoder_mask_ratio=0.5, repeated_augmentation=4) if v2 else recipe,
        train_short_side=320,
        source=f"https://github.com/{'OpenGVLab/VideoMAEv2' if v2 else 'MCG-NJU/VideoMAE'}",
        note=note,
        new=("fc_norm/bias", "fc_norm/scale", "head/bias", "head/kernel"),
    )


_HYBRID = "pretrained on a mix of unlabelled videos; of a clip each step sees four crops"
PRETRAINING_ROWS = [
    _pretraining_row("videomae_pretrain_vit_s", _pretraining_recipe(1600, 1024)),
    _pretraining_row("videomae_pretrain_vit_b", _pretraining_recipe(800, 2048)),
    _pretraining_row("videomae_pretrain_vit_l", _pretraining_recipe(1600, 512)),
    _pretraining_row("videomae_pretrain_vit_h", _pretraining_recipe(1600, 1024)),
    _pretraining_row(
        "videomaev2_pretrain_vit_b", _pretraining_recipe(200, 1024, 1e-3, 20), _HYBRID
    ),
    _pretraining_row(
        "videomaev2_pretrain_vit_l", _pretraining_recipe(300, 1536, 1e-3, 30), _HYBRID
    ),
    _pretraining_row(
        "videomaev2_pretrain_vit_h", _pretraining_recipe(300, 2048, 1e-3, 30), _HYBRID
    ),
    _pretraining_row(
        "videomaev2_pretrain_vit_g",
        replace(_pretraining_recipe(300, 2048, 6e-4, 30), clip_norm=0.02),
        _HYBRID,
    ),
    _pretraining_row("videomae_pretrain_test", _pretraining_recipe(800, 2048)),
]
