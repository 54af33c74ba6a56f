"""C3D (Tran et al., "Learning Spatiotemporal Features with 3D Convolutional Networks", ICCV 2015).

In: video [B, T, H, W, C], a clip: 16 frames of 112 x 112 pixels as published. Out: logits
[B, classes].
VGG in three dimensions: 3x3x3 convolutions with biases and no norm, max-pooling, and linear layers
on the flattened last map, for which clips of one size only enter. A small form for a user's own
clips has norms, no hidden layers, and sees what moves instead of the frames.
"""

from functools import partial
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxvid.base.errors import JaxvidError
from jaxvid.layers import names
from jaxvid.layers.conv import Conv
from jaxvid.layers.heads import MeanHead
from jaxvid.layers.norm import BatchNorm
from jaxvid.layers.pool import max_pool
from jaxvid.layers.temporal import motion_of
from jaxvid.rows import CLASS_COUNTS, OPENMMLAB_V1, Protocol, Recipe, Row, Sampling


class C3D(nn.Module):
    """Convolutions in stages, two hidden linear layers and the classifier.

    `stages` gives the channels of each stage's convolutions, `hidden` those of the linear layers.
    Each stage ends in a max-pooling of 2 x 2 pixels and, but for the first, 2 frames; the last one
    pads the picture by a pixel. The first linear layer takes as many inputs as the clip's size
    makes; with `hidden` None the classifier takes the mean of the last map, not padded, of a clip
    of any size. With `norm` batch normalisation takes the place of the convolutions' biases. With
    `motion` the network sees what `layers.temporal.motion_of` makes of the frames, one frame less.
    """

    num_classes: int = 400
    stages: tuple[tuple[int, ...], ...] = ((64,), (128,), (256, 256), (512, 512), (512, 512))
    hidden: int | None = 4096
    norm: bool = False
    motion: bool = False
    dropout: float = 0.5
    dtype: Any = None

    @nn.compact
    def __call__(
        self, video: jax.Array, train: bool = False
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Maps video [B, T, H, W, C] to logits [B, classes] and the intermediates by name.

        Raises:
          JaxvidError: the clip has another size than the first linear layer was made for.
        """
        x, out = motion_of(video) if self.motion else video, {}
        for i, widths in enumerate(self.stages, start=1):
            for width, letter in zip(widths, "abcd", strict=False):
                init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
                x = Conv(
                    width,
                    (3, 3, 3),
                    padding=(1, 1, 1),
                    use_bias=not self.norm,
                    kernel_init=init,
                    dtype=self.dtype,
                    name=f"conv{i}{letter}",
                )(x)
                if self.norm:
                    x = BatchNorm(dtype=self.dtype, name=f"bn{i}{letter}")(x, train)
                x = nn.relu(x)
            window = (1 if i == 1 else 2, 2, 2)
            padded = self.hidden and i == len(self.stages)
            x = max_pool(x, window, window, (0, 1, 1) if padded else (0, 0, 0))
            out["stem" if i == 1 else f"stage{i - 1}"] = x
        if self.hidden:
            x = self.connect(x, video.shape[1:4], train)[:, None, None, None]
        head = MeanHead(self.num_classes, self.dropout, dtype=self.dtype, name="head")
        logits, out["pre_logits"] = head(x, train)
        return logits, out

    @nn.nowrap
    def connect(self, x: jax.Array, size: tuple[int, ...], train: bool) -> jax.Array:
        """Maps the last map [B, T, H, W, C] of clips of `size` to features [B, hidden]."""
        # The reference flattens channels first.
        x = jnp.moveaxis(x, -1, 1).reshape(x.shape[0], -1)
        made: Any = self.get_variable("params", "fc6")
        if made is not None and made["kernel"].shape[0] != x.shape[-1]:
            raise JaxvidError(
                f"C3D's first linear layer has {made['kernel'].shape[0]} inputs, but a clip of "
                f"size {'x'.join(map(str, size))} makes {x.shape[-1]}: give it clips "
                "of the size it was trained on (16x112x112 as published)"
            )
        init = nn.initializers.normal(0.005)
        hidden = partial(nn.Dense, cast(int, self.hidden), dtype=self.dtype, kernel_init=init)
        x = nn.relu(hidden(name="fc6")(x))
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.relu(hidden(name="fc7")(x))


Model = C3D

FAMILY = "C3D"
VARIANTS = {
    "c3d": {},
    "c3d_test": {"stages": ((8,), (8,), (8, 8)), "hidden": 16},
    # Not of the tables: a net for a few hundred own clips on a CPU. It sees motion, because so few
    # clips would teach it their backgrounds; it is narrow for the same reason, and for speed; and
    # its first convolution sees every pixel, because a fingertip is lost otherwise.
    "c3d_small": {
        "stages": ((8,), (16,), (32,), (64,)),
        "hidden": None,
        "norm": True,
        "motion": True,
        "dropout": 0.3,
    },
}

NAMES = [
    *names.conv("backbone.conv{i}{c:a|b}.conv", "conv{i}{c:a|b}", "conv3d", bias=True),
    *names.batch_norm("backbone.conv{i}{c:a|b}.bn", "bn{i}{c:a|b}"),
    *names.dense("backbone.fc{i}", "fc{i}"),
    *names.dense("cls_head.fc_cls", "head/fc"),
]

_UCF101 = "c3d_sports1m-pretrained_8xb30-16x1x1-45e_ucf101-rgb"

ROWS = [
    Row(
        name="c3d_16x1_ucf101",
        variant="c3d",
        dataset="ucf101",
        num_classes=CLASS_COUNTS["ucf101"],
        train=Sampling(clip_len=16),
        test=Protocol(Sampling(clip_len=16, num_clips=10), short_side=128, crop=112),
        recipe=Recipe(
            epochs=45,
            batch_size=240,
            lr=1e-3,
            weight_decay=5e-4,
            clip_norm=40.0,
            milestones=(20, 40),
            crop_mode="square",
            crop_scales=(112 / 128,),
        ),
        train_crop=112,
        train_short_side=128,
        mean=(104.0, 117.0, 128.0),
        std=(1.0, 1.0, 1.0),
        top1=83.08,
        top5=95.93,
        source=f"{OPENMMLAB_V1}/c3d/{_UCF101}/{_UCF101}_20220811-31723200.pth",
        upstream=_UCF101,
        section="UCF-101",
        config=f"mmaction2/configs/recognition/c3d/{_UCF101}.py",
        pretrained="sports1m",
        note="split 1; the means, which were those of BGR pixels, are taken from RGB ones",
    ),
]
