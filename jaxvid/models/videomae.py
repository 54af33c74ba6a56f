"""VideoMAE and VideoMAE V2 fine-tuned (Tong et al., NeurIPS 2022; Wang et al., CVPR 2023).

In: video [B, T, H, W, C], one clip. Out: logits [B, classes], from the mean of all tokens.
What sets it apart: a plain vision transformer on cubes of two frames by 16 x 16 pixels, with full
attention over space and time, fixed sinusoids for positions, counted through time, height and
width, and no class token. What it knows it learnt by filling in masked cubes. V1 and V2 are one
network: V2 is about how to pretrain it.
"""

from dataclasses import replace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxvid.layers import names
from jaxvid.layers.conv import Conv
from jaxvid.layers.position import resize_grid, sinusoids
from jaxvid.layers.vit import Block, apply_blocks, layer_norm
from jaxvid.rows import CLASS_COUNTS, OPENMMLAB_V1, Protocol, Recipe, Row, Sampling

# Uniform within 1 / sqrt(inputs): the cubes' embedding keeps PyTorch's own initialisation.
patch_init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


class VideoMAE(nn.Module):
    """The encoder with a linear head on its mean token.

    Cubes are `tubelet` frames by `patch` x `patch` pixels. The positions are those of a crop of
    `img_size` pixels and a clip of any length; on other crops they are interpolated. `drop_path`
    is the last block's rate, zero at the first and linear between. `head_init_scale` multiplies
    the head's initial weights. With `scan_blocks` one block is compiled for all.
    """

    num_classes: int = 400
    dim: int = 768
    depth: int = 12
    heads: int = 12
    mlp_ratio: float = 4.0
    patch: int = 16
    tubelet: int = 2
    img_size: int = 224
    drop_path: float = 0.1
    dropout: float = 0.0
    head_init_scale: float = 0.001
    scan_blocks: bool = False
    dtype: Any = None

    @nn.compact
    def __call__(
        self, video: jax.Array, train: bool = False
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Maps video [B, T, H, W, C] to logits [B, classes] and the intermediates by name.

        `stem` and `stage1`, before and after all blocks, are grids [B, T', H', W', C'],
        `pre_logits` the normalised mean token [B, C'].
        """
        cube = (self.tubelet, self.patch, self.patch)
        grid = Conv(
            self.dim,
            cube,
            cube,
            use_bias=True,
            dtype=self.dtype,
            kernel_init=patch_init,
            name="patch_embed",
        )(video)
        out = {"stem": grid}
        grid = grid + self.positions(grid.shape[1:4]).astype(grid.dtype)
        x = grid.reshape(grid.shape[0], -1, self.dim)

        hidden = round(self.dim * self.mlp_ratio)
        blocks = {
            f"block{i}": Block(self.heads, hidden, False, rate, dtype=self.dtype, parent=None)
            for i, rate in enumerate(np.linspace(0, self.drop_path, self.depth).tolist())
        }
        x = apply_blocks(self, blocks, x, train, self.scan_blocks)
        out["stage1"] = x.reshape(grid.shape)

        x = layer_norm("fc_norm", dtype=self.dtype)(x.mean(1))
        out["pre_logits"] = x
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        init = nn.initializers.truncated_normal(0.02 * self.head_init_scale)
        logits = nn.Dense(self.num_classes, dtype=self.dtype, kernel_init=init, name="head")(x)
        return logits.astype(jnp.promote_types(logits.dtype, jnp.float32)), out

    def positions(self, size: tuple[int, int, int]) -> jax.Array:
        """Makes the embedding of each cube of a grid `size` (T, H, W): [T, H, W, C]."""
        side = self.img_size // self.patch
        table = sinusoids(size[0] * side * side, self.dim).reshape(size[0], side, side, self.dim)
        return resize_grid(jnp.asarray(table), size[1:])


def published_positions(model: VideoMAE, shape: tuple[int, ...]) -> np.ndarray:
    """What a checkpoint of `model` holds as positions, of clips as long as `shape` says.

    Its table is [1, T H W, C] on the grid that the table is made for.
    """
    side = model.img_size // model.patch
    length = shape[1] if len(shape) == 3 else 0
    return sinusoids(length - length % side**2, model.dim)[None]


Model = VideoMAE

FAMILY = {"videomae": "VideoMAE", "videomaev2": "VideoMAE V2"}
VARIANTS = {
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

NAMES = [
    ("backbone.pos_embed", None, "drop"),
    *names.conv("backbone.patch_embed.projection", "patch_embed", "conv3d", bias=True),
    *names.layer_norm("backbone.blocks.{i}.{n:norm1|norm2}", "block{i}/{n}"),
    ("backbone.blocks.{i}.attn.{n:q_bias|v_bias}", "params/block{i}/attn/{n}", "same"),
    *names.dense("backbone.blocks.{i}.attn.qkv", "block{i}/attn/qkv", bias=False),
    *names.dense("backbone.blocks.{i}.attn.proj", "block{i}/attn/proj"),
    *names.dense("backbone.blocks.{i}.mlp.layers.0.0", "block{i}/mlp/fc1"),
    *names.dense("backbone.blocks.{i}.mlp.layers.1", "block{i}/mlp/fc2"),
    *names.layer_norm("backbone.fc_norm", "fc_norm"),
    *names.dense("cls_head.fc_cls", "head"),
]

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
        note=f"the authors' weights{note and '; ' + note}",
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
