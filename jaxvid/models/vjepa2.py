"""V-JEPA 2 and 2.1 (Assran et al., 2025): encoders, and what classifies their tokens.

In: video [B, T, H, W, C], clips one behind another. Out: logits [B, classes] of an attentive probe
on the tokens of all clips; or, of an encoder alone, its tokens [B, L, C].
What sets it apart: the encoder learnt from unlabelled video by predicting its own features of what
it was not shown, and stays frozen afterwards. It is a plain vision transformer on cubes of two
frames by 16 x 16 pixels, without a class token or tables of positions: attention turns queries and
keys by the places of their cubes. In version 2 the two channels of a pair turn by different angles,
an error that became part of the weights. Version 2.1 turns them alike, stretches places in height
and width to those of pictures of 256 pixels, has an embedding of its own for single pictures, and a
norm of its own for each of four blocks that may be looked at.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxvid.base.errors import JaxvidError
from jaxvid.layers import names
from jaxvid.layers.conv import Conv
from jaxvid.layers.position import rotary_tables, rotate
from jaxvid.layers.probe import AttentiveProbe, probe_names
from jaxvid.layers.vit import Block, apply_blocks, dense_init, layer_norm
from jaxvid.rows import CLASS_COUNTS, Protocol, Recipe, Row, Sampling

# The last place in height and width of version 2.1, whatever the size of the pictures.
STRETCH = 256 / 16 - 1


class VJEPA2(nn.Module):
    """The encoder, and an attentive probe with a linear classifier where there are classes.

    `norms` are the blocks that have a norm of their own, the last one among them, which makes a
    network of version 2.1; in version 2 there are none, and one norm for all. `out_layers` are the
    blocks that the probe looks at, of version 2.1 some of `norms`; without any it is the last one.
    A video longer than `clip_frames` is clips of as many frames, which the encoder sees one by one
    and the probe together; 0 makes one clip of any video. `drop_path` is the last block's rate,
    zero at the first and linear between. With `scan_blocks` one block is compiled for each run of
    blocks that nothing looks into.
    """

    num_classes: int = 0
    dim: int = 1024
    depth: int = 24
    heads: int = 16
    mlp_ratio: float = 4.0
    patch: int = 16
    tubelet: int = 2
    norms: tuple[int, ...] = ()
    out_layers: tuple[int, ...] = ()
    clip_frames: int = 0
    probe_depth: int = 4
    probe_heads: int = 16
    drop_path: float = 0.0
    scan_blocks: bool = False
    dtype: Any = None

    @nn.compact
    def __call__(
        self, video: jax.Array, train: bool = False
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Maps video [B, T, H, W, C] to logits [B, classes] and the intermediates by name.

        Without classes the tokens [B, L, C'] are in the place of logits. `stem` is the grid
        [B, T', H', W', C'] before all blocks, `stage1`.. such grids of what `out_layers` made of
        it, normalised, `tokens` all of these side by side [B, L, C'], clip by clip, and
        `pre_logits` [B, C'] what the probe's query found.
        """
        batch, frames = video.shape[:2]
        each = min(self.clip_frames or frames, frames)
        if frames % each:
            raise JaxvidError(
                f"{frames} frames are not clips of {self.clip_frames}: change the sampling, or the "
                "network's clip_frames"
            )
        count = frames // each
        clips = video.reshape(batch * count, each, *video.shape[2:])
        grid = self.embed(clips)
        length, height, width = grid.shape[1:4]

        def whole(x: jax.Array) -> jax.Array:
            """Grids of clips [B S, ...] as grids of videos [B, S T', H', W', C']."""
            return x.reshape(batch, count * length, height, width, self.dim)

        out = {"stem": whole(grid)}
        flat = grid.reshape(clips.shape[0], -1, self.dim)
        levels = self.encode(flat, (length, height, width), train)
        out |= {f"stage{i}": whole(level) for i, level in enumerate(levels, 1)}
        tokens = jnp.concatenate(levels, axis=1).reshape(batch, -1, self.dim)
        out["tokens"] = tokens
        if not self.num_classes:
            return tokens, out
        probe = AttentiveProbe(
            self.num_classes, self.probe_depth, self.probe_heads, dtype=self.dtype, name="head"
        )
        logits, out["pre_logits"] = probe(tokens, train)
        return logits, out

    def embed(self, clips: jax.Array) -> jax.Array:
        """Maps clips [B, T, H, W, C] to their cubes' embeddings [B, T', H', W', C']."""
        lengths = {"video": self.tubelet, "image": 1}

        def cubes(kind: str, clips: jax.Array) -> jax.Array:
            cube = (lengths[kind], self.patch, self.patch)
            grid = Conv(
                self.dim,
                cube,
                cube,
                use_bias=True,
                dtype=self.dtype,
                kernel_init=dense_init,
                name=f"{kind}_embed",
            )(clips)
            if not self.norms:
                return grid
            init = nn.initializers.normal(1e-6)
            token = self.param(f"{kind}_token", init, (1, 1, self.dim), jnp.float32)
            return grid + token.astype(grid.dtype)

        kind = "image" if self.norms and clips.shape[1] == 1 else "video"
        if self.norms and self.is_initializing():  # Either has parameters, whatever enters.
            other = "video" if kind == "image" else "image"
            cubes(other, clips[:, :1, : self.patch, : self.patch].repeat(lengths[other], 1))
        return cubes(kind, clips)

    def encode(self, x: jax.Array, size: tuple[int, int, int], train: bool) -> list[jax.Array]:
        """Maps tokens x [B, L, C] of a grid `size` (T, H, W) to those of each of `out_layers`."""
        seen = self.out_layers or (self.depth - 1,)
        known = self.norms or tuple(range(self.depth))
        if self.depth - 1 not in known or not set(seen) <= set(known):
            raise JaxvidError(
                f"out_layers={seen} and the last block, {self.depth - 1}, are not all among "
                f"{list(known)}, the blocks that have a norm: change out_layers or norms"
            )
        stretch = STRETCH if self.norms else 0.0
        if stretch and min(size[1:]) < 2:
            raise JaxvidError(
                f"places in a grid of {size[1]} x {size[2]} cubes cannot be stretched: give "
                f"pictures of at least {2 * self.patch} pixels on each side"
            )
        tables = rotary_tables(size, self.dim // self.heads, tiled=not self.norms, stretch=stretch)
        wide = jnp.promote_types(x.dtype, jnp.float32)
        cosines, sines = (jnp.asarray(table, wide) for table in tables)

        def turned(x: jax.Array) -> jax.Array:
            return rotate(x, cosines, sines)

        blocks: dict[str, nn.Module] = {
            f"block{i}": Block(
                self.heads,
                round(self.dim * self.mlp_ratio),
                drop_path=rate,
                dtype=self.dtype,
                rotate=turned,
                parent=None,
            )
            for i, rate in enumerate(np.linspace(0, self.drop_path, self.depth).tolist())
        }
        levels, start = {}, 0
        norm = None if self.norms else layer_norm("norm", dtype=self.dtype)
        for end in sorted({*seen, *self.norms, self.depth - 1}):
            run = {f"block{i}": blocks[f"block{i}"] for i in range(start, end + 1)}
            x, start = apply_blocks(self, run, x, train, self.scan_blocks), end + 1
            own = norm or layer_norm(f"norm{self.norms.index(end)}", dtype=self.dtype)
            levels[end] = own(x)
        return [levels[layer] for layer in seen]


Model = VJEPA2

FAMILY = "V-JEPA 2"
_BASE: dict[str, Any] = {"dim": 768, "depth": 12, "heads": 12}
_LARGE: dict[str, Any] = {"dim": 1024, "depth": 24, "heads": 16}
_HUGE: dict[str, Any] = {"dim": 1280, "depth": 32, "heads": 16}
_GIANT: dict[str, Any] = {"dim": 1408, "depth": 40, "heads": 22, "mlp_ratio": 48 / 11}
_GIGANTIC: dict[str, Any] = {"dim": 1664, "depth": 48, "heads": 26, "mlp_ratio": 64 / 13}
_TINY: dict[str, Any] = {
    "dim": 24,
    "depth": 3,
    "heads": 2,
    "patch": 8,
    "probe_depth": 2,
    "probe_heads": 2,
    "num_classes": 400,
}
# Sizes of the encoders, and of those that a probe was published for, with what it looks at.
VARIANTS: dict[str, dict[str, Any]] = {
    **{
        name: {**size, "num_classes": 0}
        for name, size in {
            "vjepa2_vitl": _LARGE,
            "vjepa2_vith": _HUGE,
            "vjepa2_vitg": _GIANT,
            "vjepa2_vitg_384": _GIANT,
            "vjepa2_1_vitb_384": {**_BASE, "norms": (2, 5, 8, 11)},
            "vjepa2_1_vitl_384": {**_LARGE, "norms": (5, 11, 17, 23)},
            "vjepa2_1_vitg_384": {**_GIANT, "norms": (9, 19, 29, 39)},
            "vjepa2_1_vitG_384": {**_GIGANTIC, "norms": (11, 23, 37, 47)},
        }.items()
    },
    "vjepa2_vitl_probe_ssv2": {**_LARGE, "clip_frames": 16},
    "vjepa2_vitl_probe_diving48": {
        **_LARGE,
        "clip_frames": 32,
        "out_layers": (17, 19, 21, 23),
    },
    "vjepa2_vitg_384_probe_ssv2": {**_GIANT, "clip_frames": 64},
    "vjepa2_vitg_384_probe_diving48": {
        **_GIANT,
        "clip_frames": 32,
        "out_layers": (24, 29, 34, 39),
    },
    "vjepa2_test": _TINY,
    "vjepa2_1_test": {**_TINY, "norms": (0, 2), "out_layers": (0, 2)},
}


def _encoder(key: str) -> list[names.Rule]:
    return [
        (f"{key}pos_embed", None, "drop"),
        *names.conv(f"{key}patch_embed.proj", "video_embed", "conv3d", bias=True),
        *names.conv(f"{key}patch_embed_img.proj", "image_embed", "conv3d", bias=True),
        (f"{key}video_mod_embed", "params/video_token", "same"),
        (f"{key}img_mod_embed", "params/image_token", "same"),
        *names.vit_block(f"{key}blocks.{{i}}", "block{i}"),
        *names.layer_norm(f"{key}norm", "norm"),
        *names.layer_norm(f"{key}norms_block.{{i}}", "norm{i}"),
    ]


# The encoder and the probe are published in files of their own.
_ALONE = [*_encoder(""), *probe_names("classifier", "head")]
_PROBED = [*_encoder("encoder."), *probe_names("classifier", "head")]
NAMES = {
    name: _ALONE if fields.get("num_classes") == 0 else _PROBED for name, fields in VARIANTS.items()
}

# Rows: encoders stay frozen, and are tested with the probes that their authors trained. Of these
# many are trained beside one another and the best on the validation set is reported.


def _recipe(epochs: int, batch_size: int, lr: float, weight_decay: float) -> Recipe:
    return Recipe(
        epochs=epochs,
        batch_size=batch_size,
        optimizer="adamw",
        lr=lr,
        weight_decay=weight_decay,
        schedule="cosine",
        freeze=("trunk",),
        flip=0.0,
        rand_augment="m7-n4",
        random_erasing=0.25,
    )


_SSV2 = _recipe(20, 256, 1e-3, 0.1)
_DIVING48 = _recipe(100, 128, 3e-4, 0.8)
_CHOICES = {
    "sthv2": "the best of 20 probes, of rates 1e-4, 3e-4, 1e-3, 3e-3 and 5e-3 and decays 0.01, 0.1,"
    " 0.4 and 0.8",
    "diving48": "the best of 3 probes, of rates 1e-4, 3e-4 and 1e-3",
}
_NOTE = (
    "{}, chosen on the videos it is tested on; which it was is not published, the recipe is one in "
    "the middle; where a part of a video is longer than its clip, the authors place this at random "
    "in tests too, here it lies in the middle; published angles are of half precision, here of "
    "single; the encoder's file is {}.pt and the probe's evals/{}.pt of V-JEPA 2, and the page has "
    "both in one file"
)


def _row(
    name: str,
    variant: str,
    sampling: Sampling,
    size: int,
    top1: float,
    recipe: Recipe,
    files: tuple[str, str],
    page: str,
) -> Row:
    """`files` are those of encoder and probe, `page` is that of both in one file."""
    dataset = variant.rpartition("_")[2].replace("ssv2", "sthv2")
    return Row(
        name=name,
        variant=variant,
        dataset=dataset,
        num_classes=CLASS_COUNTS[dataset],
        train=sampling,
        test=Protocol(sampling, short_side=size, crops="three", crop=size),
        recipe=recipe,
        train_crop=size,
        train_short_side=max(size, 320),
        top1=top1,
        source=f"https://huggingface.co/facebook/{page}",
        pretrained="VideoMix22M",
        licence="MIT",
        note=_NOTE.format(_CHOICES[dataset], *files),
    )


def _segments(count: int, frames: int, interval: int) -> Sampling:
    return Sampling("segments", clip_len=frames, frame_interval=interval, num_clips=count)


# fmt: off
ROWS = [
    _row("vjepa2_vitl_16x4_sthv2", "vjepa2_vitl_probe_ssv2", _segments(2, 16, 4), 256, 73.7,
         _SSV2, ("vitl", "ssv2-vitl-16x2x3"), "vjepa2-vitl-fpc16-256-ssv2"),
    _row("vjepa2_vitg_384_64x2_sthv2", "vjepa2_vitg_384_probe_ssv2", _segments(2, 64, 2), 384, 77.3,
         _SSV2, ("vitg-384", "ssv2-vitg-384-64x2x3"), "vjepa2-vitg-fpc64-384-ssv2"),
    _row("vjepa2_vitl_32x2_diving48", "vjepa2_vitl_probe_diving48", _segments(4, 32, 2), 256, 89.0,
         _DIVING48, ("vitl", "diving48-vitl-256"), "vjepa2-vitl-fpc32-256-diving48"),
    _row("vjepa2_vitg_384_32x2_diving48", "vjepa2_vitg_384_probe_diving48", _segments(4, 32, 2),
         384, 90.2, _DIVING48, ("vitg-384", "diving48-vitg-384-32x4x3"),
         "vjepa2-vitg-fpc32-384-diving48"),
]
# fmt: on
