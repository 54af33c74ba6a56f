"""Slow and fast pathways (Feichtenhofer et al., "SlowFast Networks", ICCV 2019).

In: video [B, T, H, W, C], the fast pathway's clip: all frames. Out: logits [B, classes].
Two trunks see one clip. The fast one sees every frame in an eighth of the channels and is inflated
throughout; the slow one, which is SlowOnly's, sees one frame in `alpha` and, before each of its
stages, is told what the fast one has found: a convolution along time that strides over `alpha`
frames makes channels that join its own.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxvid.base.errors import JaxvidError
from jaxvid.layers import names
from jaxvid.layers.conv import Conv
from jaxvid.layers.heads import MeanHead, PositionHead
from jaxvid.layers.norm import BatchNorm
from jaxvid.layers.pool import mean_windows
from jaxvid.layers.resnet import DEPTHS, Bottleneck, Hook, Place, ResNet
from jaxvid.rows import CLASS_COUNTS, OPENMMLAB_V1, Protocol, Recipe, Row, Sampling


class Lateral(nn.Module):
    """What the slow pathway is told: a strided convolution along time and, with `norm`, BN, ReLU.

    Twice as many channels leave as enter.
    """

    alpha: int
    kernel: int
    norm: bool
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps the fast pathway's x [B, alpha T, H, W, C] to [B, T, H, W, 2 C]."""
        x = Conv(
            2 * x.shape[-1],
            (self.kernel, 1, 1),
            stride=(self.alpha, 1, 1),
            padding=(self.kernel // 2, 0, 0),
            kernel_init=nn.initializers.variance_scaling(2.0, "fan_out", "normal"),
            dtype=self.dtype,
            name="conv",
        )(x)
        return nn.relu(BatchNorm(dtype=self.dtype, name="bn")(x, train)) if self.norm else x


def lateral_hook(fast: dict[str, jax.Array], lateral: Callable[..., Lateral]) -> Hook:
    """Joins what enters each stage with a `Lateral` of the fast pathway's intermediate there."""

    def hook(place: Place, x: jax.Array, train: bool) -> jax.Array:
        if place.point != "block_in" or place.block > 0:
            return x
        told = fast["stem" if place.stage == 1 else f"stage{place.stage - 1}"]
        return jnp.concatenate([x, lateral(name="lateral")(told, train)], axis=-1)

    return hook


def slow_frames(frames: int, alpha: int, to_last: bool) -> np.ndarray:
    """Which of a clip's frames the slow pathway sees: every `alpha`-th from the first.

    With `to_last` as many are spread evenly from the first to the last one, rounded down.

    Raises:
      JaxvidError: `frames` is no multiple of `alpha`, so the pathways would not meet.
    """
    if frames % alpha:
        raise JaxvidError(
            f"SlowFast's slow pathway sees one frame in {alpha}, but the clip has {frames} frames: "
            f"let it be a multiple of {alpha}"
        )
    if to_last:
        return np.linspace(0, frames - 1, frames // alpha).astype(np.int64)
    return np.arange(0, frames, alpha)


class SlowFast(nn.Module):
    """Two inflated ResNets, the fast one told to the slow one, and a linear layer on both.

    `depths` are keys of `layers.resnet.DEPTHS` for the slow and the fast pathway; `blocks`
    overrides the stages of both, `width` is the slow one's. `alpha` counts the fast pathway's
    frames for each of the slow one's, whose channels are `beta` times as many (the paper's names,
    beta inverted).

    With `pyslowfast` three details are those of the authors' own code instead of MMAction2's: the
    slow frames reach to the clip's last one; the slow features come first; and a map larger than
    `window`, its side at the training crop, answers with the mean probability of all its windows.
    """

    num_classes: int = 400
    depths: tuple[int, int] = (50, 50)
    blocks: tuple[int, ...] | None = None
    width: int = 64
    alpha: int = 8
    beta: int = 8
    lateral_kernel: int = 5
    lateral_norm: bool = False
    pyslowfast: bool = False
    window: int = 7
    dropout: float = 0.5
    dtype: Any = None

    @nn.compact
    def __call__(
        self, video: jax.Array, train: bool = False
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Maps video [B, T, H, W, C] to logits [B, classes] and the intermediates by name.

        Those of the fast pathway are called `fast_stem`, `fast_stage1`, ...; T is a multiple of
        `alpha`.
        """
        shared = {"block": Bottleneck, "zero_init": True, "packs": True, "dtype": self.dtype}
        # One by one: frames by a list of their numbers would be gathered, row by row on TPU.
        seen = slow_frames(video.shape[1], self.alpha, self.pyslowfast)
        slow_video = jnp.stack([video[:, t] for t in seen], axis=1)
        fast, fast_out = ResNet(
            self.blocks or DEPTHS[self.depths[1]],
            width=self.width // self.beta,
            stem_kernel=(5, 7, 7),
            inflate=((3,), (3,), (3,), (3,)),
            name="fast",
            **shared,
        )(video, train)
        lateral = partial(Lateral, self.alpha, self.lateral_kernel, self.lateral_norm, self.dtype)
        slow, out = ResNet(
            self.blocks or DEPTHS[self.depths[0]],
            width=self.width,
            inflate=((1,), (1,), (3,), (3,)),
            hook=lateral_hook(fast_out, lateral),
            name="slow",
            **shared,
        )(slow_video, train)
        out.update({f"fast_{name}": value for name, value in fast_out.items()})
        kind: type[PositionHead] | type[MeanHead]
        if self.pyslowfast:
            kind = PositionHead
            pooled = [mean_windows(x, self.window) for x in (slow, fast)]
        else:
            kind = MeanHead
            pooled = [x.mean((1, 2, 3), keepdims=True) for x in (fast, slow)]
        head = kind(self.num_classes, self.dropout, dtype=self.dtype, name="head")
        logits, out["pre_logits"] = head(jnp.concatenate(pooled, axis=-1), train)
        return logits, out


Model = SlowFast

_8X8 = {"alpha": 4, "lateral_kernel": 7}
_PYSLOWFAST = {**_8X8, "lateral_norm": True, "pyslowfast": True}
_TINY = {"blocks": (1, 1), "width": 16, "alpha": 2, "lateral_kernel": 5}

FAMILY = "SlowFast"
VARIANTS: dict[str, dict[str, Any]] = {
    "slowfast_r50_4x16": {},
    "slowfast_r50_8x8": _8X8,
    "slowfast_r50_8x8_lateralnorm": {**_8X8, "lateral_norm": True},
    "slowfast_r101_8x8": {**_8X8, "depths": (101, 101)},
    "slowfast_r101r50_4x16": {"depths": (101, 50)},
    "pyslowfast_slowfast_16x8_r50": _PYSLOWFAST,
    "slowfast_test": _TINY,
    "pyslowfast_slowfast_test": {**_PYSLOWFAST, **_TINY, "window": 1},
}


def _mmaction_names() -> list[names.Rule]:
    trunk, unit = "{p:slow|fast}", "{c:conv1|conv2|conv3|downsample}"
    rules = [
        *names.conv_norm(f"backbone.{trunk}_path.conv1", f"{trunk}/conv1", "conv3d"),
        *names.conv_norm(
            f"backbone.{trunk}_path.layer{{s}}.{{b}}.{unit}",
            f"{trunk}/layer{{s}}_{{b}}/{unit}",
            "conv3d",
        ),
        *names.dense("cls_head.fc_cls", "head/fc"),
    ]
    # A lateral is called by where it comes from there, by where it goes to here.
    for stage, source in enumerate(("conv1", "layer1", "layer2", "layer3"), start=1):
        key, path = f"backbone.slow_path.{source}_lateral", f"slow/layer{stage}_0/lateral"
        rules += names.conv_norm(key, path, "conv3d")
    return rules


def _pyslowfast_names() -> list[names.Rule]:
    units = {"branch1": "downsample"}
    units |= {f"branch2.{letter}": f"conv{n}" for n, letter in enumerate("abc", start=1)}
    rules = names.dense("head.projection", "head/fc")
    for p, trunk in enumerate(("slow", "fast")):
        rules += names.conv_norm(f"s1.pathway{p}_stem", f"{trunk}/conv1", "conv3d")
        for stage in (1, 2, 3, 4):
            for key, path in units.items():
                key = f"s{stage + 1}.pathway{p}_res{{b}}.{key}"
                path = f"{trunk}/layer{stage}_{{b}}/{path}"
                rules += names.conv(key, f"{path}/conv", "conv3d")
                rules += names.batch_norm(f"{key}_bn", f"{path}/bn")
    for stage in (1, 2, 3, 4):
        path = f"slow/layer{stage}_0/lateral"
        rules += names.conv(f"s{stage}_fuse.conv_f2s", f"{path}/conv", "conv3d")
        rules += names.batch_norm(f"s{stage}_fuse.bn", f"{path}/bn")
    return rules


NAMES = {
    variant: _pyslowfast_names() if fields.get("pyslowfast") else _mmaction_names()
    for variant, fields in VARIANTS.items()
}

# Rows: what the table of SlowFast publishes, and the row of its authors that VoV3D quotes.

_COSINE = Recipe(
    epochs=256,
    batch_size=64,
    lr=0.1,
    clip_norm=40.0,
    schedule="cosine",
    cosine_from="start",
    schedule_every="epoch",
    warmup_epochs=34,
    norm_groups=8,
)
_STEPS = replace(_COSINE, schedule="step", milestones=(94, 154, 196))


def _row(
    name: str, variant: str, recipe: Recipe, top1: float, top5: float, upstream: str, date: str
) -> Row:
    test = Sampling(clip_len=32, frame_interval=2, num_clips=10)
    return Row(
        name=name,
        variant=variant,
        dataset="kinetics400",
        num_classes=CLASS_COUNTS["kinetics400"],
        train=replace(test, num_clips=1),
        test=Protocol(test, crops="three", crop=256),
        recipe=recipe,
        top1=top1,
        top5=top5,
        source=f"{OPENMMLAB_V1}/slowfast/{upstream}/{upstream}_{date}.pth",
        upstream=upstream,
        section="Kinetics-400",
        config=f"mmaction2/configs/recognition/slowfast/{upstream}.py",
        pretrained="None",
    )


# fmt: off
ROWS = [
    _row("slowfast_r50_4x16_k400", "slowfast_r50_4x16", _COSINE, 75.55, 92.35,
         "slowfast_r50_8xb8-4x16x1-256e_kinetics400-rgb", "20220901-701b0f6f"),
    _row("slowfast_r50_8x8_k400", "slowfast_r50_8x8", _COSINE, 76.80, 92.99,
         "slowfast_r50_8xb8-8x8x1-256e_kinetics400-rgb", "20220818-1cb6dfc8"),
    _row("slowfast_r50_8x8_k400_steps", "slowfast_r50_8x8_lateralnorm", _STEPS, 76.65, 92.86,
         "slowfast_r50_8xb8-8x8x1-steplr-256e_kinetics400-rgb", "20220818-b62a501f"),
    _row("slowfast_r101_8x8_k400", "slowfast_r101_8x8", _COSINE, 78.65, 93.88,
         "slowfast_r101_8xb8-8x8x1-256e_kinetics400-rgb", "20220818-9c0e09bd"),
    _row("slowfast_r101_r50_4x16_k400", "slowfast_r101r50_4x16",
         replace(_COSINE, batch_size=256, lr=0.4, norm_groups=32), 77.03, 92.99,
         "slowfast_r101-r50_32xb8-4x16x1-256e_kinetics400-rgb", "20220901-a77ac3ee"),
    Row(
        name="slowfast_r50_16x8_sthv2",
        variant="pyslowfast_slowfast_16x8_r50",
        dataset="sthv2",
        num_classes=CLASS_COUNTS["sthv2"],
        train=Sampling("uniform", clip_len=64),
        test=Protocol(Sampling("uniform", clip_len=64), crops="left", crop=256),
        recipe=Recipe(
            epochs=22,
            batch_size=16,
            lr=0.03,
            nesterov=True,
            weight_decay=1e-6,
            no_decay=("*/bn/*",),
            milestones=(14, 18),
            warmup_epochs=0.19,
            warmup_factor=1 / 300,
            warmup="line",
            # Each four of its eight GPUs shared theirs.
            norm_groups=2,
            precise_norm_batches=200,
            crop_mode="square",
            crop_scales=(224 / 320, 224 / 256),
            flip=0.0,
        ),
        mean=(114.75,) * 3,
        std=(57.375,) * 3,
        top1=63.9,
        top5=88.2,
        source="https://dl.fbaipublicfiles.com/pyslowfast/pyslowfast/model_zoo/multigrid/model_zoo/"
               "Kinetics/SLOWFAST_8x8_R50_stepwise.pkl",
        upstream="slowfast_16x8_r_50_k_400_f64_sthv2",
        section="Something-Something-V2",
        config="VoV3D/configs/SSv2/SLOWFAST_16x8_R50.yaml",
        pretrained="K-400",
        note="quoted by VoV3D as 6 views with a link to Kinetics-400 weights; its config tests one "
             "view, the left crop, for which the authors' page lists 63.0 and 88.5 and links "
             "SSv2/SLOWFAST_16x8_R50.pkl; that code's middle frames may lie one frame later",
    ),
]
# fmt: on
