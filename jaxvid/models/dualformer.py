"""Local-global stratified transformers (Liang et al., "DualFormer", arXiv 2112.04674).

In: video [B, T, H, W, C], one clip. Out: logits [B, classes], from the mean over all tokens.
What sets it apart: blocks alternate between attention inside windows of the token grid and
attention of every token to a small pyramid of contexts, which depthwise convolutions pool from the
whole grid: fine ones, and in the first stages coarse ones behind them. Positions enter by one
depthwise convolution in each stage; attention itself knows none.
"""

import math
from dataclasses import replace
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxvid.layers import names, window
from jaxvid.layers.attention import attend
from jaxvid.layers.conv import Conv
from jaxvid.layers.drop import DropPath
from jaxvid.layers.heads import MeanHead
from jaxvid.layers.linear import Joined, from_heads
from jaxvid.layers.norm import BatchNorm
from jaxvid.layers.shortcut import add
from jaxvid.layers.spread import lie_hidden
from jaxvid.layers.vit import apply_blocks, exact_gelu, layer_norm
from jaxvid.rows import CLASS_COUNTS, IMAGENET_MEAN, IMAGENET_STD, Protocol, Recipe, Row, Sampling

Triple = tuple[int, int, int]

PATCH, MERGE = (2, 4, 4), (1, 2, 2)

EPSILON = 1e-5

# The published initialisation: PyTorch's own for convolutions, and for linear layers a normal
# distribution cut a hundred deviations out: not at all.
normal_init = nn.initializers.normal(0.02)
conv_init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def dense(features: int, dtype: Any, name: str, **how: Any) -> nn.Dense:
    """A linear layer with this family's initialisation."""
    return nn.Dense(features, dtype=dtype, kernel_init=normal_init, name=name, **how)


def patches(features: int, size: Triple, dtype: Any, name: str, groups: int = 1) -> Conv:
    """A convolution over windows of `size` that lie side by side; what is left over is not seen."""
    return Conv(
        features,
        size,
        size,
        groups=groups,
        use_bias=True,
        dtype=dtype,
        kernel_init=conv_init,
        name=name,
    )


class LocalAttention(nn.Module):
    """Attention between the tokens of each window of the grid, without shift or positions.

    A grid that is smaller than the window on an axis is one window there; one that is no multiple
    of it, which published clips never are, is filled up with tokens that nobody looks at.
    """

    heads: int
    window: Triple
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps tokens [B, T, H, W, C] to the same shape."""
        batch, *size, width = x.shape
        fitted, _ = window.fit_window(size, self.window)
        joined = Joined(width, 3, self.heads, kernel_init=normal_init, dtype=self.dtype, name="qkv")
        qkv = [window.pad_to_multiples(part, fitted) for part in joined(x)]
        windows = [window.partition(part, fitted) for part in qkv]
        tokens, padded = windows[0].shape[:2], qkv[0].shape[1:4]
        q, k, v = (part.reshape(*tokens, self.heads, width // self.heads) for part in windows)
        mask = None if padded == tuple(size) else _real_keys(x, fitted)
        y = attend(q, k, v, mask=mask)
        y = window.join(y.reshape(*tokens, width), fitted, padded)
        project = dense(width, self.dtype, "proj", dot_general=from_heads(self.heads))
        return project(y[:, : size[0], : size[1], : size[2]])


def _real_keys(x: jax.Array, fitted: Triple) -> jax.Array:
    """Which keys of each window lie on the grid of x: bool [B * windows, 1, tokens, tokens]."""
    real = jnp.ones((*x.shape[:4], 1), jnp.float32)
    keys = window.partition(window.pad_to_multiples(real, fitted), fitted)[:, None, None, :, 0]
    return jnp.broadcast_to(keys > 0, (*keys.shape[:2], keys.shape[-1], keys.shape[-1]))


class GlobalAttention(nn.Module):
    """Attention of every token to contexts pooled from the whole grid, or to all tokens.

    `fine` is the grid cell (T, H, W) that one fine context stands for, (1, 1, 1) for the tokens
    themselves. `coarse`, where given, are the two cells that the coarse contexts are pooled over,
    one after the other.
    """

    heads: int
    fine: Triple
    coarse: tuple[Triple, Triple] | None
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps tokens [B, T, H, W, C] to the same shape."""
        batch, width = x.shape[0], x.shape[-1]
        split = (batch, -1, self.heads, width // self.heads)
        q = dense(width, self.dtype, "q")(x)
        if self.fine == (1, 1, 1):
            contexts = x
        else:
            pooled = [patches(width, self.fine, self.dtype, "fine", width)(x)]
            if self.coarse:
                y = patches(width, self.coarse[0], self.dtype, "coarse1", width)(x)
                y = nn.relu(BatchNorm(dtype=self.dtype, name="bn")(y, train))
                pooled.append(patches(width, self.coarse[1], self.dtype, "coarse2", width)(y))
            tokens = [part.reshape(batch, -1, width) for part in pooled]
            contexts = layer_norm("norm", EPSILON, self.dtype)(jnp.concatenate(tokens, axis=1))
        joined = Joined(width, 2, self.heads, kernel_init=normal_init, dtype=self.dtype, name="kv")
        k, v = joined(contexts)
        y = attend(q.reshape(split), k.reshape(split), v.reshape(split))
        project = dense(width, self.dtype, "proj", dot_general=from_heads(self.heads))
        return project(y.reshape(x.shape))


class Block(nn.Module):
    """Attention and an MLP, each behind a layer norm and beside a shortcut.

    Attention is local where a `window` is given, global otherwise.
    """

    heads: int
    window: Triple | None
    fine: Triple
    coarse: tuple[Triple, Triple] | None
    mlp_ratio: int
    drop_path: float
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps tokens [B, T, H, W, C] to the same shape."""
        width, drop_path = x.shape[-1], DropPath(self.drop_path)
        y = layer_norm("norm1", EPSILON, self.dtype)(x)
        if self.window:
            y = LocalAttention(self.heads, self.window, self.dtype, name="attn")(y)
        else:
            attention = GlobalAttention(self.heads, self.fine, self.coarse, self.dtype, name="attn")
            y = attention(y, train)
        x = add(x, drop_path(y, train), train)
        y = layer_norm("norm2", EPSILON, self.dtype)(x)
        y = exact_gelu(dense(self.mlp_ratio * width, self.dtype, "fc1")(y))
        y = dense(width, self.dtype, "fc2")(lie_hidden(y))
        return add(x, drop_path(y, train), train)


class TokenHead(nn.Module):
    """Three linear layers on each token, for token labelling (Jiang et al., NeurIPS 2021)."""

    num_classes: int
    dropout: float
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps tokens [B, T, H, W, C] to logits [B, T, H, W, classes]."""
        width = x.shape[-1]
        for i, features in enumerate((2 * width, 4 * width), 1):
            x = dense(features, self.dtype, f"fc{i}")(x)
            x = nn.relu(nn.Dropout(self.dropout, deterministic=not train)(x))
        logits = dense(self.num_classes, self.dtype, "fc3")(x)
        return logits.astype(jnp.promote_types(logits.dtype, jnp.float32))


class DualFormer(nn.Module):
    """DualFormer with a linear head on the mean token.

    `widths` and `depths` are the stages' channels and blocks, the even ones local and the odd ones
    global. `temporal_size` (frames) and `spatial_size` (pixels) are those of the clips trained on:
    they set the sizes of the kernels that pool contexts, of which such a clip has `fine` and, in
    the first `coarse_stages` stages, `coarse` many (T, H, W); the last stage pools none. Longer and
    larger clips have more of them. `coarse_step` is the side in tokens of the first of the two
    cells that coarse contexts are pooled over. `drop_path` is the last block's rate, zero at the
    first and linear between. With `token_labels` training also answers every token's class. With
    `scan_blocks` one pair of blocks is compiled for all of a stage that pools no coarse contexts.
    """

    num_classes: int = 400
    widths: tuple[int, ...] = (64, 128, 256, 512)
    depths: tuple[int, ...] = (2, 2, 10, 4)
    head_dim: int = 32
    window: Triple = (8, 7, 7)
    fine: Triple = (8, 7, 7)
    coarse: Triple = (4, 4, 4)
    coarse_stages: int = 2
    coarse_step: int = 7
    mlp_ratio: int = 4
    temporal_size: int = 32
    spatial_size: int = 224
    drop_path: float = 0.0
    dropout: float = 0.5
    token_labels: bool = False
    scan_blocks: bool = False
    dtype: Any = None

    def cells(self, stage: int) -> tuple[Triple, tuple[Triple, Triple] | None]:
        """The fine and the coarse cells of a stage, as `GlobalAttention` takes them."""
        if stage == len(self.widths) - 1:
            return (1, 1, 1), None
        side = self.spatial_size // PATCH[1] // 2**stage
        grid = (self.temporal_size // PATCH[0], side, side)
        fine = _divided(grid, self.fine)
        # Cells of one token each are the tokens themselves: nothing is pooled, coarsely neither.
        if stage >= self.coarse_stages or math.prod(fine) == 1:
            return fine, None
        step = (1, self.coarse_step, self.coarse_step)
        return fine, (step, _divided(_divided(grid, self.coarse), step))

    @nn.compact
    def __call__(
        self, video: jax.Array, train: bool = False
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Maps video [B, T, H, W, C] to logits [B, classes] and the intermediates by name.

        `stem` and `stage1`.. are token grids [B, T', H', W', C'] (the last one normalised),
        `pre_logits` their mean [B, C']; in training with `token_labels`, `token_logits`
        [B, T', H', W', classes] are what the tokens of the last stage answer.
        """
        x, out = video, {}
        rates = iter(np.linspace(0, self.drop_path, sum(self.depths)))
        for stage, (width, depth) in enumerate(zip(self.widths, self.depths, strict=True)):
            x = patches(width, MERGE if stage else PATCH, self.dtype, f"patch_embed{stage}")(x)
            x = layer_norm(f"patch_norm{stage}", EPSILON, self.dtype)(x)
            if not stage:
                out["stem"] = x
            fine, coarse = self.cells(stage)
            blocks = {
                f"blocks{stage}_{i}": Block(
                    width // self.head_dim,
                    None if i % 2 else self.window,
                    fine,
                    coarse,
                    self.mlp_ratio,
                    float(next(rates)),
                    self.dtype,
                    parent=None,
                )
                for i in range(depth)
            }
            first = f"blocks{stage}_0"
            x = blocks.pop(first).clone(parent=self, name=first)(x, train)
            x = x + Conv(
                width,
                (3, 3, 3),
                padding=(1, 1, 1),
                groups=width,
                use_bias=True,
                dtype=self.dtype,
                kernel_init=conv_init,
                name=f"position{stage}",
            )(x)
            x = apply_blocks(self, blocks, x, train, self.scan_blocks)
            if stage == len(self.widths) - 1:
                x = layer_norm("norm", EPSILON, self.dtype)(x)
            out[f"stage{stage + 1}"] = x

        if self.token_labels and (train or self.is_initializing()):
            labeller = TokenHead(self.num_classes, self.dropout, self.dtype, name="token_head")
            out["token_logits"] = labeller(x, train)
        head = MeanHead(self.num_classes, self.dropout, dtype=self.dtype, name="head")
        logits, out["pre_logits"] = head(x, train)
        return logits, out


def _divided(size: Triple, counts: Triple) -> Triple:
    """Cells of which `counts` make up `size`, one token at least."""
    return cast(Triple, tuple(max(n // c, 1) for n, c in zip(size, counts, strict=True)))


Model = DualFormer

FAMILY = "DualFormer"
VARIANTS = {
    "dualformer_t": {"drop_path": 0.1},
    "dualformer_s": {"widths": (96, 192, 384, 768), "depths": (2, 2, 18, 2), "drop_path": 0.2},
    "dualformer_b": {"widths": (128, 256, 512, 1024), "depths": (2, 2, 18, 2), "drop_path": 0.3},
    "dualformer_test": {
        "widths": (8, 16, 16),
        "depths": (2, 2, 2),
        "head_dim": 8,
        "window": (2, 4, 4),
        "fine": (1, 2, 2),
        "coarse": (1, 1, 1),
        "coarse_stages": 1,
        "coarse_step": 2,
        "temporal_size": 4,
        "spatial_size": 32,
        "dropout": 0.0,
    },
}

_BLOCK, _OURS = "backbone.blocks.{s}.{i}", "blocks{s}_{i}"
NAMES = [
    *names.conv("backbone.patch_embeds.{s}.proj", "patch_embed{s}", "conv3d", bias=True),
    *names.layer_norm("backbone.patch_embeds.{s}.norm", "patch_norm{s}"),
    *names.conv("backbone.pos_block.{s}.proj.0", "position{s}", "conv3d", bias=True),
    *names.layer_norm(f"{_BLOCK}.{{n:norm1|norm2}}", f"{_OURS}/{{n}}"),
    *names.dense(f"{_BLOCK}.attn.{{n:qkv|q|kv|proj}}", f"{_OURS}/attn/{{n}}"),
    *names.conv(f"{_BLOCK}.attn.sr", f"{_OURS}/attn/fine", "conv3d", bias=True),
    *names.conv(f"{_BLOCK}.attn.lr.0", f"{_OURS}/attn/coarse1", "conv3d", bias=True),
    *names.batch_norm(f"{_BLOCK}.attn.lr.1", f"{_OURS}/attn/bn"),
    *names.conv(f"{_BLOCK}.attn.lr.3", f"{_OURS}/attn/coarse2", "conv3d", bias=True),
    *names.layer_norm(f"{_BLOCK}.attn.norm", f"{_OURS}/attn/norm"),
    *names.dense(f"{_BLOCK}.mlp.{{n:fc1|fc2}}", f"{_OURS}/{{n}}"),
    *names.layer_norm("backbone.norm", "norm"),
    *names.dense("cls_head.fc_cls", "head/fc"),
    *names.dense("cls_head.token_linear.0", "token_head/fc1"),
    *names.dense("cls_head.token_linear.3", "token_head/fc2"),
    *names.dense("cls_head.token_linear.6", "token_head/fc3"),
]

# Rows: what the authors publish. Their rates are the head's, of which the trunk has a tenth; the
# convolutions for positions have all of it and do not decay. (Norms were meant not to decay either,
# but the optimizer's first match on their path is the trunk's rule.)

_K400 = Recipe(
    epochs=30,
    batch_size=64,
    optimizer="adamw",
    lr=1e-4,
    weight_decay=0.02,
    schedule="cosine",
    cosine_from="start",
    schedule_every="epoch",
    warmup_epochs=2.5,
    head_lr_scale=10.0,
    norm_groups=8,
    lr_scales=(("position*", 10.0), ("token_head/*", 10.0)),
    no_decay=("position*",),
)
# A step is made of the gradients of two batches, of four on the small sets.
_K400_TWICE = replace(_K400, batch_size=128, norm_groups=16)
_K400_BASE = replace(_K400_TWICE, weight_decay=0.05)
_DIVING = replace(_K400, warmup_epochs=1.0, initial_weights="dualformer_s_32x2_k400")
_SMALL_SETS = replace(_DIVING, epochs=16, batch_size=512, weight_decay=0.1, norm_groups=32)

_KINETICS = Protocol(
    Sampling(clip_len=32, frame_interval=2, num_clips=4), short_side=224, crops="center"
)
_OTHERS = Protocol(
    Sampling(clip_len=32, frame_interval=4, num_clips=4), short_side=224, crops="three"
)


def _row(
    name: str,
    variant: str,
    dataset: str,
    recipe: Recipe,
    top1: float,
    upstream: str,
    pretrained: str,
    weights: str,
    overrides: dict[str, Any] | None = None,
    note: str = "",
) -> Row:
    """`weights` is the checkpoint's number where the authors keep it."""
    kinetics = dataset.startswith("kinetics")
    test = _KINETICS if kinetics else _OTHERS
    return Row(
        name=name,
        variant=variant,
        dataset=dataset,
        num_classes=CLASS_COUNTS[dataset],
        train=replace(test.sampling, num_clips=1),
        test=test,
        recipe=recipe,
        mean=IMAGENET_MEAN if kinetics else (104.0, 117.0, 128.0),
        std=IMAGENET_STD if kinetics else (1.0, 1.0, 1.0),
        top1=top1,
        source=f"https://drive.google.com/file/d/{weights}/view?usp=sharing",
        upstream=f"dualformer_{upstream}",
        section="Models",
        config=f"dualformer/configs/recognition/dualformer/dualformer_{upstream}.py",
        pretrained=pretrained,
        note=f"printed operations are those of all views{note}",
        overrides=overrides or {},
    )


_PATH = {"drop_path": 0.3}

# fmt: off
ROWS = [
    _row("dualformer_t_32x2_k400", "dualformer_t", "kinetics400",
         replace(_K400, warmup_epochs=3.0), 79.5, "tiny_patch244_window877_kinetics400_1k",
         "IN-1K", "1dvG6vjC7udHTwTaqmOAfn6U3HNs3T-QF"),
    _row("dualformer_s_32x2_k400", "dualformer_s", "kinetics400", _K400_TWICE, 80.6,
         "small_patch244_window877_kinetics400_1k", "IN-1K", "1dNHPnSl39Vbh7Z-KSWYjNV3PGFlWL3TY"),
    _row("dualformer_b_32x2_k400", "dualformer_b", "kinetics400", _K400_BASE, 81.1,
         "base_patch244_window877_kinetics400_1k", "IN-1K", "1U_hxRWzh92ru2efgpiFH7a0e4LCc_3m8"),
    _row("dualformer_b_32x2_k600", "dualformer_b", "kinetics600", replace(_K400_BASE, lr=5e-5),
         85.2, "base_patch244_window877_kinetics600_22k", "IN-22K",
         "1bp-Bl1MVtR9Fj405mLc129dVSK-PEvSy"),
    _row("dualformer_s_32x4_diving48", "dualformer_s", "diving48", _DIVING, 81.8,
         "small_patch244_window877_diving48", "K400", "10KZbIOwBErijejv72AVJrxkngp9TU4sj"),
    _row("dualformer_s_32x4_hmdb51", "dualformer_s", "hmdb51", _SMALL_SETS, 76.4,
         "small_patch244_window877_hmdb51", "K400", "1NS80zjexgQhw6UMH-bbXUsHI0ZlpPvsV",
         overrides=_PATH),
    _row("dualformer_s_32x4_ucf101", "dualformer_s", "ucf101", _SMALL_SETS, 97.5,
         "small_patch244_window877_ucf101", "K400", "1tEv2C51Z4pI2HSbb9fabsv-SIOItykDZ",
         overrides=_PATH, note="; its table links the tiny net's config by mistake"),
]
# fmt: on
