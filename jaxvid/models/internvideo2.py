"""InternVideo2, its video encoder for classes (Wang et al., "InternVideo2", ECCV 2024).

In: video [B, T, H, W, C], one clip, frames sampled sparsely. Out: logits [B, classes].
What sets it apart: a plain vision transformer on patches of single frames, in full attention over
space and time, with one learnt table of positions for all of a clip. Its blocks have RMS norms, on
queries and keys of all heads together too, and learnt scales on their branches. The head asks all
tokens by attention whose one query is their mean. The small networks are students of that of a
billion parameters, which fills in what a teacher says of masked clips.
"""

import functools
from dataclasses import replace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxvid.layers import names
from jaxvid.layers.attention import attend
from jaxvid.layers.conv import Conv
from jaxvid.layers.drop import DropPath
from jaxvid.layers.linear import Joined, from_heads, to_heads
from jaxvid.layers.position import resize_clip
from jaxvid.layers.shortcut import add
from jaxvid.layers.vit import Mlp, apply_blocks, dense_init, layer_norm, torch_init
from jaxvid.rows import CLASS_COUNTS, Protocol, Recipe, Row, Sampling

# Of the blocks' RMS norms, and of the layer norms of the head.
BLOCK_EPSILON, HEAD_EPSILON = 1e-6, 1e-5
# The authors train and test with a fused MLP, which approximates the GELU.
tanh_gelu = functools.partial(nn.gelu, approximate=True)


class Attention(nn.Module):
    """Attention of tokens among themselves; queries and keys are normalised, none has a bias."""

    heads: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps tokens [B, L, C] to [B, L, C]."""
        width = x.shape[-1]
        joined = Joined(width, 3, self.heads, False, dense_init, dtype=self.dtype, name="qkv")
        q, k, v = joined(x)
        q = rms_norm("q_norm", self.dtype)(q)
        k = rms_norm("k_norm", self.dtype)(k)
        q, k, v = (part.reshape(*x.shape[:2], self.heads, -1) for part in (q, k, v))
        y = attend(q, k, v).reshape(x.shape)
        dense = functools.partial(nn.Dense, dtype=self.dtype, kernel_init=dense_init)
        return dense(width, dot_general=from_heads(self.heads), name="proj")(y)


class Block(nn.Module):
    """Attention and an MLP, each behind a norm, scaled, and beside a shortcut."""

    heads: int
    hidden: int
    drop_path: float = 0.0
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps tokens [B, L, C] to [B, L, C]."""
        drop_path = DropPath(self.drop_path)

        def scaled(y: jax.Array, name: str) -> jax.Array:
            scale = self.param(name, nn.initializers.constant(1e-5), (x.shape[-1],), jnp.float32)
            return (y * scale).astype(y.dtype)

        attention = Attention(self.heads, self.dtype, name="attn")
        y = scaled(attention(rms_norm("norm1", self.dtype)(x)), "scale1")
        x = add(x, drop_path(y, train), train)
        mlp = Mlp(self.hidden, tanh_gelu, dtype=self.dtype, name="mlp")
        y = scaled(mlp(rms_norm("norm2", self.dtype)(x)), "scale2")
        return add(x, drop_path(y, train), train)


class AttentionPool(nn.Module):
    """Asks all tokens by attention of `heads`; the query is their mean."""

    features: int
    heads: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps tokens [B, L, C] to [B, features]."""
        dense = functools.partial(nn.Dense, dtype=self.dtype, kernel_init=dense_init)

        def project(x: jax.Array, name: str) -> jax.Array:
            x = layer_norm(f"norm_{name}", HEAD_EPSILON, self.dtype)(x)
            x = dense(x.shape[-1], dot_general=to_heads(self.heads), name=name)(x)
            return x.reshape(*x.shape[:2], self.heads, -1)

        q, k, v = project(x.mean(1, keepdims=True), "q"), project(x, "k"), project(x, "v")
        y = attend(q, k, v).reshape(x.shape[0], x.shape[-1])
        return dense(self.features, dot_general=from_heads(self.heads), name="proj")(y)


def rms_norm(name: str, dtype: Any) -> nn.RMSNorm:
    """Division by the root of the mean square of channels (Zhang and Sennrich, NeurIPS 2019)."""
    return nn.RMSNorm(BLOCK_EPSILON, dtype, name=name)


def first_positions(frames: int, side: int, dim: int) -> np.ndarray:
    """The table that training from scratch starts from: [1, 1 + T H W, C] of the grid T, H = W.

    The class token's row is zero. A quarter of the channels says the moment, three eighths the
    column, the others the row: sines first, then cosines.
    """

    def waves(places: np.ndarray, depth: int) -> np.ndarray:
        angles = places.reshape(-1, 1) * 10000.0 ** -(np.arange(depth // 2) / (depth // 2))
        return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)

    moments, rows, columns = np.indices((frames, side, side))
    parts = ((moments, dim // 4), (columns, 3 * dim // 8), (rows, 3 * dim // 8))
    table = np.concatenate([waves(places, depth) for places, depth in parts], axis=1)
    return np.concatenate([np.zeros((1, dim)), table])[None].astype(np.float32)


class InternVideo2(nn.Module):
    """The encoder, attention that pools its tokens to `pool_dim` channels, and a linear head.

    `num_frames` and `img_size` (pixels) are those of the clips trained on: they set the length of
    the table of positions, which is interpolated for clips of another size. `drop_path` is the last
    block's rate, zero at the first and linear between. With `scan_blocks` one block is compiled for
    all. `head_init_scale` multiplies the head's initial weights.
    """

    num_classes: int = 400
    dim: int = 768
    depth: int = 12
    heads: int = 12
    mlp_ratio: float = 4.0
    patch: int = 14
    num_frames: int = 8
    img_size: int = 224
    pool_dim: int = 768
    pool_heads: int = 16
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

        `stem` and `stage1`, before and after all blocks, are patches [B, T, H', W', C'],
        `pre_logits` what was pooled of all tokens, normalised, [B, C'].
        """
        cube = (1, self.patch, self.patch)
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
        x = self._tokens(grid)
        hidden = round(self.mlp_ratio * self.dim)
        rates = np.linspace(0, self.drop_path, self.depth).tolist()
        blocks = {
            f"block{i}": Block(self.heads, hidden, rate, self.dtype, parent=None)
            for i, rate in enumerate(rates)
        }
        x = apply_blocks(self, blocks, x, train, self.scan_blocks)
        out["stage1"] = x[:, 1:].reshape(grid.shape)
        x = AttentionPool(self.pool_dim, self.pool_heads, self.dtype, name="pool")(x)
        x = layer_norm("fc_norm", HEAD_EPSILON, self.dtype)(x)
        out["pre_logits"] = x
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        init = nn.initializers.truncated_normal(0.02 * self.head_init_scale)
        logits = nn.Dense(self.num_classes, dtype=self.dtype, kernel_init=init, name="head")(x)
        return logits.astype(jnp.promote_types(logits.dtype, jnp.float32)), out

    def _tokens(self, grid: jax.Array) -> jax.Array:
        """Maps patches [B, T, H, W, C] to tokens [B, 1 + T H W, C], positions added.

        The class token comes first.
        """
        batch, *size, dim = grid.shape
        side = self.img_size // self.patch
        token = self.param("cls_token", dense_init, (1, 1, dim), jnp.float32)
        table = self.param(
            "pos_embed", lambda _: jnp.asarray(first_positions(self.num_frames, side, dim))
        )
        patches = resize_clip(table[0, 1:].reshape(self.num_frames, side, side, dim), size)
        first = jnp.broadcast_to((token + table[:, :1]).astype(grid.dtype), (batch, 1, dim))
        x = (grid + patches.astype(grid.dtype)).reshape(batch, -1, dim)
        return jnp.concatenate([first, x], axis=1)


Model = InternVideo2

FAMILY = "InternVideo2"
VARIANTS: dict[str, dict[str, Any]] = {
    "internvideo2_s": {"dim": 384, "heads": 6},
    "internvideo2_b": {},
    "internvideo2_l": {"dim": 1024, "depth": 24, "heads": 16},
    "internvideo2_1b": {
        "dim": 1408,
        "depth": 40,
        "heads": 16,
        "mlp_ratio": 48 / 11,
        "drop_path": 0.3,
    },
    "internvideo2_test": {
        "dim": 16,
        "depth": 2,
        "heads": 2,
        "patch": 8,
        "num_frames": 4,
        "img_size": 32,
        "pool_dim": 12,
        "pool_heads": 4,
        "head_init_scale": 1.0,
    },
}

_BLOCK, _POOL = "blocks.{i}", "clip_projector"
NAMES = [
    ("{n:cls_token|pos_embed}", "params/{n}", "same"),
    *names.conv("patch_embed.proj", "patch_embed", "conv3d", bias=True),
    (f"{_BLOCK}.{{n:norm1|norm2}}.weight", "params/block{i}/{n}/scale", "same"),
    *names.dense(f"{_BLOCK}.attn.qkv", "block{i}/attn/qkv", bias=False),
    (f"{_BLOCK}.attn.{{n:q_norm|k_norm}}.weight", "params/block{i}/attn/{n}/scale", "same"),
    *names.dense(f"{_BLOCK}.attn.proj", "block{i}/attn/proj"),
    *names.dense(f"{_BLOCK}.mlp.{{n:fc1|fc2}}", "block{i}/mlp/{n}"),
    (f"{_BLOCK}.ls{{j}}.gamma", "params/block{i}/scale{j}", "same"),
    *names.layer_norm(f"{_POOL}.norm1_{{n:q|k|v}}", "pool/norm_{n}"),
    *names.dense(f"{_POOL}.cross_attn.{{n:q|k|v}}", "pool/{n}", bias=False),
    (f"{_POOL}.cross_attn.{{n:q|k|v}}_bias", "params/pool/{n}/bias", "same"),
    *names.dense(f"{_POOL}.cross_attn.proj", "pool/proj"),
    *names.layer_norm("fc_norm", "fc_norm"),
    *names.dense("head", "head"),
]

# Rows: what the authors publish of one modality. Recipes are their fine-tuning scripts: rates are
# scaled there by the batch, in copies of clips, over 256.

_COPIES = 2


def _recipe(
    epochs: int,
    warmup_epochs: int,
    lr: float,
    layer_decay: float,
    batch_size: int,
    flip: float = 0.5,
) -> Recipe:
    """`lr` is for 256 clips, `batch_size` in videos."""
    scale = batch_size * _COPIES / 256
    return Recipe(
        epochs=epochs,
        batch_size=batch_size,
        optimizer="adamw",
        lr=lr * scale,
        weight_decay=0.05,
        decay_norm_and_bias=False,
        no_decay=("cls_token", "pos_embed"),
        schedule="cosine",
        final_lr=1e-6 * scale,
        warmup_epochs=warmup_epochs,
        warmup_factor=1e-6 / lr,
        layer_decay=layer_decay,
        flip=flip,
        label_smoothing=0.1,
        mixup=0.8,
        cutmix=1.0,
        rand_augment="m7-n4",
        random_erasing=0.25,
        repeated_augmentation=_COPIES,
    )


_K710 = {
    "s": _recipe(35, 5, 2e-4, 0.75, 256),
    "b": _recipe(20, 4, 2e-4, 0.75, 256),
    "l": _recipe(14, 2, 2e-4, 0.75, 256),
    "1b": _recipe(9, 2, 5e-5, 0.9, 256),
}
_STUDENT_TUNED = _recipe(5, 1, 2e-5, 0.75, 1024)
_TUNED = dict.fromkeys("sbl", _STUDENT_TUNED) | {"1b": _recipe(3, 0, 1e-5, 0.9, 256)}
_SMALL_STHV2 = _recipe(30, 5, 5e-4, 0.75, 256, flip=0.0)
_STHV2 = {
    "s": _SMALL_STHV2,
    "b": _SMALL_STHV2,
    "l": _recipe(10, 2, 2e-4, 0.85, 256, flip=0.0),
    "1b": _recipe(8, 3, 1e-4, 0.915, 256, flip=0.0),
}
_SECTIONS = {
    "kinetics400": "Kinetics-400",
    "kinetics600": "Kinetics-600",
    "kinetics700": "Kinetics-700",
    "kinetics710": "Kinetics-710",
    "mit": "Moments in Time",
    "sthv1": "Something-Something V1",
    "sthv2": "Something-Something V2",
}
_SHORT = {
    "kinetics400": "k400",
    "kinetics600": "k600",
    "kinetics700": "k700",
    "kinetics710": "k710",
    "mit": "mit",
    "sthv1": "ssv1",
    "sthv2": "ssv2",
}
_PAGE = "https://github.com/OpenGVLab/InternVideo/blob/main/InternVideo2/single_modality"


def _file(size: str, dataset: str, frames: int) -> str:
    """The file of a row's weights, as the page that links it calls it."""
    start = "" if dataset == "kinetics710" or dataset.startswith("sth") else "_ft_k710"
    name = f"{start}_ft_{_SHORT[dataset]}_f{frames}"
    if size == "1b":
        return f"1B{name}.pth"
    return f"{size.upper()}14{name}/pytorch_model.bin"


def _row(size: str, dataset: str, top1: float, frames: int = 8) -> Row:
    something = dataset.startswith("sth")
    if something:
        # From videos the authors' two clips begin and halve each part of the video.
        train = Sampling(num_clips=frames)
        test, recipe = replace(train, twice_sample=True), _STHV2[size]
    else:
        train = Sampling("uniform", frames)
        recipe = (_K710 if dataset == "kinetics710" else _TUNED)[size]
        test = replace(train, num_clips=4)
    start = "" if something or dataset == "kinetics710" else f"internvideo2_{size}_f8_k710"
    notes = [f"the file is {_file(size, dataset, frames)}"]
    if something:
        notes.append("printed with 4 clips, which the script takes from pictures at quarters")
    if size != "1b" and something:
        notes.append("of the scripts the one named B14 is L's and the one named L14 S's")
    if dataset in ("mit", "sthv1"):
        notes.append("its recipe is not published: that of a neighbour")
    return Row(
        name=f"internvideo2_{size}_f{frames}_{_SHORT[dataset]}",
        variant=f"internvideo2_{size}",
        dataset=dataset,
        num_classes=CLASS_COUNTS[dataset],
        train=train,
        test=Protocol(test, short_side=224, crops="three", crop=224),
        recipe=replace(recipe, initial_weights=start),
        train_short_side=320,
        top1=top1,
        source=f"{_PAGE}/MODEL_ZOO.md",
        licence="Apache 2.0" if size == "1b" else "none stated (the code's is Apache 2.0)",
        section=_SECTIONS[dataset],
        pretrained="1B" if size != "1b" else "stage 1",
        note="; ".join(notes),
        overrides={} if frames == 8 else {"num_frames": frames},
    )


_ACCURACIES = {
    "s": {"400": 85.4, "710": 79.6, "600": 86.0, "700": 75.7, "sthv2": 71.6},
    "b": {"400": 88.4, "710": 83.5, "600": 88.9, "700": 80.5, "sthv2": 73.5},
    "l": {"400": 90.4, "710": 86.2, "600": 90.6, "700": 83.5, "sthv2": 76.4},
    "1b": {
        "400": 91.3,
        "710": 87.6,
        "600": 91.4,
        "700": 85.0,
        "sthv2": 77.1,
        "sthv1": 68.5,
        "mit": 50.8,
    },
}
ROWS = [
    *(
        _row(size, f"kinetics{word}" if word.isdigit() else word, top1)
        for size, figures in _ACCURACIES.items()
        for word, top1 in figures.items()
    ),
    _row("1b", "kinetics400", 91.6, 16),
    _row("1b", "kinetics600", 91.6, 16),
    _row("1b", "kinetics700", 85.4, 16),
]
