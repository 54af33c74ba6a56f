"""Swin's trunk on clips and on frames (Liu et al., "Swin Transformer", ICCV 2021).

Video Swin (Liu et al., CVPR 2022) is the same network with windows and patches of several frames;
with those of one frame each frame is seen alone.
"""

# Names end in their axes, outermost first, as in `x_BTHWC`:
#   B  batch
#   T  frames
#   H  height
#   W  width
#   C  channels
#   L  tokens of a sequence
#   N  heads
#   D  channels of a head
#   R  rows of a table
#   M  many in a row: frames or windows, of one sample or of all
#   t, h, w  what a kernel or window spans of T, H, W; beside them T, H, W count such spans

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxvid.layers import names
from jaxvid.layers.attention import attend
from jaxvid.layers.conv import Conv
from jaxvid.layers.drop import DropPath
from jaxvid.layers.linear import Joined, from_heads
from jaxvid.layers.shortcut import add
from jaxvid.layers.vit import Mlp, apply_blocks, dense_init, layer_norm
from jaxvid.layers.window import (
    Triple,
    fit_window,
    join,
    pad_to_multiples,
    partition,
    shift_mask,
    table_rows,
    window_bias,
)

STAGES = 4
EPSILON = 1e-5


class WindowAttention(nn.Module):
    """Attention inside windows, with a learnt bias for each distance between two tokens.

    `window` (T, H, W) is the one that the table of biases `position_bias` is made for; the grid may
    be smaller. With `shifted`, windows lie half a window further along every axis.
    """

    heads: int
    window: Triple
    shifted: bool
    dtype: Any = None

    @nn.compact
    def __call__(self, x_BTHWC: jax.Array) -> jax.Array:
        """Maps x [B, T, H, W, C] to the same shape."""
        _, *size, channels = x_BTHWC.shape
        window, shift = fit_window(size, self.window)
        rolled = self.shifted and any(shift)
        dense = functools.partial(nn.Dense, dtype=self.dtype, kernel_init=dense_init)
        table_RN = self.param(
            "position_bias", dense_init, (table_rows(self.window), self.heads), jnp.float32
        )

        # Zeros that fill the last windows take part: published networks were trained so.
        x_BTHWC = pad_to_multiples(x_BTHWC, window)
        padded = x_BTHWC.shape[1:4]
        if rolled:
            x_BTHWC = jnp.roll(x_BTHWC, [-s for s in shift], (1, 2, 3))
        x_MLC = partition(x_BTHWC, window)
        count, tokens, _ = x_MLC.shape
        q_MLND, k_MLND, v_MLND = (
            part_MLC.reshape(count, tokens, self.heads, -1)
            for part_MLC in Joined(
                channels, 3, self.heads, kernel_init=dense_init, dtype=self.dtype, name="qkv"
            )(x_MLC)
        )
        # One sample's windows follow another's, with the same masks.
        mask_M1LL = shift_mask(padded, window, shift)[:, None] if rolled else None
        bias_NLL = window_bias(table_RN, self.window, tokens)
        y_MLND = attend(q_MLND, k_MLND, v_MLND, bias=bias_NLL[None], mask=mask_M1LL)
        project = dense(channels, dot_general=from_heads(self.heads), name="proj")
        y_MLC = project(y_MLND.reshape(count, tokens, channels))
        y_BTHWC = join(y_MLC, window, padded)
        if rolled:
            y_BTHWC = jnp.roll(y_BTHWC, shift, (1, 2, 3))
        return y_BTHWC[:, : size[0], : size[1], : size[2]]


class Block(nn.Module):
    """Window attention and an MLP, each behind a layer norm and beside a shortcut."""

    heads: int
    window: Triple
    shifted: bool
    mlp_ratio: int
    drop_path: float
    dtype: Any = None

    @nn.compact
    def __call__(self, x_BTHWC: jax.Array, train: bool) -> jax.Array:
        """Maps x [B, T, H, W, C] to the same shape."""
        drop_path = DropPath(self.drop_path)
        attention = WindowAttention(self.heads, self.window, self.shifted, self.dtype, name="attn")
        y_BTHWC = attention(layer_norm("norm1", EPSILON, self.dtype)(x_BTHWC))
        x_BTHWC = add(x_BTHWC, drop_path(y_BTHWC, train), train)
        mlp = Mlp(self.mlp_ratio * x_BTHWC.shape[-1], dtype=self.dtype, name="mlp")
        y_BTHWC = mlp(layer_norm("norm2", EPSILON, self.dtype)(x_BTHWC))
        return add(x_BTHWC, drop_path(y_BTHWC, train), train)


class PatchMerging(nn.Module):
    """Halves the picture and doubles the channels: 2 x 2 tokens become one."""

    dtype: Any = None

    @nn.compact
    def __call__(self, x_BTHWC: jax.Array) -> jax.Array:
        """Maps x [B, T, H, W, C] to [B, T, H / 2, W / 2, 2 C], odd sizes rounded up."""
        x_BTHWC = pad_to_multiples(x_BTHWC, (1, 2, 2))
        batch, frames, height, width, channels = x_BTHWC.shape
        x_BTHhWwC = x_BTHWC.reshape(batch, frames, height // 2, 2, width // 2, 2, channels)
        # The four tokens go down before they go right.
        x_BTHWwhC = x_BTHhWwC.transpose(0, 1, 2, 4, 5, 3, 6)
        x_BTHWC = x_BTHWwhC.reshape(batch, frames, height // 2, width // 2, 4 * channels)
        x_BTHWC = layer_norm("norm", EPSILON, self.dtype)(x_BTHWC)
        reduction = nn.Dense(
            2 * channels, False, self.dtype, kernel_init=dense_init, name="reduction"
        )
        return reduction(x_BTHWC)


class Swin(nn.Module):
    """Patches, stages of blocks whose windows shift in turn, patch merging between them, a norm.

    `depths` and `heads` are those of the stages. `window` and `patch` are (T, H, W). Frames and
    pictures of any size may enter: zeros fill the last patches and windows. `drop_path` is the last
    block's rate, zero at the first and linear between. With `scan_blocks` two blocks are compiled
    for all of a stage.
    """

    dim: int
    depths: tuple[int, ...]
    heads: tuple[int, ...]
    window: Triple
    patch: Triple
    mlp_ratio: int = 4
    drop_path: float = 0.0
    scan_blocks: bool = False
    dtype: Any = None

    @nn.compact
    def __call__(
        self, video_BTHWC: jax.Array, train: bool = False
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Maps video [B, T, H, W, C] to features [B, T', H', W', C'] and the intermediates."""
        x_BTHWC = Conv(
            self.dim,
            self.patch,
            self.patch,
            use_bias=True,
            dtype=self.dtype,
            kernel_init=nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform"),
            name="patch_embed",
        )(pad_to_multiples(video_BTHWC, self.patch))
        x_BTHWC = layer_norm("patch_norm", EPSILON, self.dtype)(x_BTHWC)
        out = {"stem": x_BTHWC}
        rates = iter(np.linspace(0, self.drop_path, sum(self.depths)).tolist())
        for stage, (depth, heads) in enumerate(zip(self.depths, self.heads, strict=True), start=1):
            if stage > 1:
                x_BTHWC = PatchMerging(self.dtype, name=f"merge{stage}")(x_BTHWC)
            blocks = {
                f"layer{stage}_{i}": Block(
                    heads,
                    self.window,
                    i % 2 == 1,
                    self.mlp_ratio,
                    next(rates),
                    self.dtype,
                    parent=None,
                )
                for i in range(depth)
            }
            x_BTHWC = apply_blocks(self, blocks, x_BTHWC, train, self.scan_blocks)
            if stage == len(self.depths):
                x_BTHWC = layer_norm("norm", EPSILON, self.dtype)(x_BTHWC)
            out[f"stage{stage}"] = x_BTHWC
        return x_BTHWC, out


def swin_names(
    layout: str, norm: str, merge_closes_stage: bool, prefix: str = "backbone."
) -> list[names.Rule]:
    """Name rules of a Swin trunk behind `prefix`.

    `layout` is that of the patches' kernel, `norm` the last norm's name. Patch merging closes a
    stage in the original code and opens the next one in timm since 0.9.
    """
    key = f"{prefix}patch_embed"
    rules = [
        *names.conv(f"{key}.proj", "backbone/patch_embed", layout, bias=True),
        *names.layer_norm(f"{key}.norm", "backbone/patch_norm"),
        *names.layer_norm(f"{prefix}{norm}", "backbone/norm"),
    ]
    for stage in range(1, STAGES + 1):
        block, path = f"{prefix}layers.{stage - 1}.blocks.{{i}}", f"backbone/layer{stage}_{{i}}"
        table = f"{block}.attn.relative_position"
        rules += [
            *names.layer_norm(f"{block}.{{n:norm1|norm2}}", f"{path}/{{n:norm1|norm2}}"),
            *names.dense(f"{block}.attn.{{n:qkv|proj}}", f"{path}/attn/{{n:qkv|proj}}"),
            *names.dense(f"{block}.mlp.{{n:fc1|fc2}}", f"{path}/mlp/{{n:fc1|fc2}}"),
            (f"{table}_bias_table", f"params/{path}/attn/position_bias", "same"),
            # What follows from the sizes of windows and pictures.
            (f"{table}_index", None, "drop"),
            (f"{block}.attn_mask", None, "drop"),
        ]
        if stage > 1:
            merge = f"{prefix}layers.{stage - 2 if merge_closes_stage else stage - 1}.downsample"
            rules += [
                *names.layer_norm(f"{merge}.norm", f"backbone/merge{stage}/norm"),
                *names.dense(f"{merge}.reduction", f"backbone/merge{stage}/reduction", bias=False),
            ]
    return rules
