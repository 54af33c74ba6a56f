"""MoViNets (Kondratyuk et al., "MoViNets: Mobile Video Networks", CVPR 2021).

In: video [B, T, H, W, C], one clip. Out: logits [B, classes].
What sets it apart: inverted bottlenecks found by a search, whose depthwise convolutions over space
and time differ from block to block, for long clips at a low frame rate; and TensorFlow's padding.
A stream network sees the past alone: it is padded in front, convolves space and time one after the
other, and its means over time are those of the frames so far.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxvid.base.errors import JaxvidError
from jaxvid.layers import names
from jaxvid.layers.conv import Conv
from jaxvid.layers.drop import DropPath
from jaxvid.layers.norm import BatchNorm
from jaxvid.layers.resnet import HE_FAN_OUT
from jaxvid.layers.squeeze import rounded_width
from jaxvid.layers.streaming import MeanSoFar, WithPast
from jaxvid.rows import CLASS_COUNTS, Protocol, Recipe, Row, Sampling

Triple = tuple[int, int, int]
Activation = Callable[[jax.Array], jax.Array]

# Of each stage the stride of its first block.
_STRIDES = (2, 2, 2, 1, 2)
# The gates of stream networks: `clip` is what the released programs and the port to PyTorch
# compute, `relu6` what TensorFlow's source has by now. The same weights answer otherwise with it.
_GATES: dict[str, Activation] = {
    "clip": lambda x: jnp.clip(0.2 * x + 0.5, 0, 1),
    "relu6": lambda x: nn.relu6(x + 3) * 0.16667,
}


def _same(shape: Sequence[int], side: int, stride: int) -> list[tuple[int, int]]:
    """What SAME puts around the rows and columns of [B, T, H, W, C]: an odd one goes to the end."""
    whole = [max((-(-n // stride) - 1) * stride + side - n, 0) for n in shape[2:4]]
    return [(n // 2, n - n // 2) for n in whole]


class Unit(nn.Module):
    """A convolution, BatchNorm and, where there is one, an activation.

    `kernel` is what it spans of time and of both sides of the picture. Time is padded on both
    sides or, where it is `causal`, in front alone.
    """

    features: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1
    depthwise: bool = False
    causal: bool = False
    activation: Activation | None = None
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps x [B, T, H, W, C] to [B, T, H / stride, W / stride, features]."""
        frames, side = self.kernel
        if self.causal and frames > 1:
            x = WithPast(frames - 1, name="before")(x)
        x = jnp.pad(x, [(0, 0), (0, 0), *_same(x.shape, side, self.stride), (0, 0)])
        x = Conv(
            self.features,
            (frames, side, side),
            stride=(1, self.stride, self.stride),
            padding=(0 if self.causal else frames // 2, 0, 0),
            groups=self.features if self.depthwise else 1,
            kernel_init=HE_FAN_OUT,
            dtype=self.dtype,
            name="conv",
        )(x)
        x = BatchNorm(epsilon=1e-3, momentum=0.01, dtype=self.dtype, name="bn")(x, train)
        return self.activation(x) if self.activation else x


class Gate(nn.Module):
    """Scales channels by what two linear layers make of their means (squeeze-and-excitation).

    The means are the clip's. With `causal` each frame has its own, and beside them the means of
    all frames so far.
    """

    causal: bool
    activation: Activation
    gate: Activation
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps x [B, T, H, W, C] to the same shape."""
        shared = {"use_bias": True, "kernel_init": HE_FAN_OUT, "dtype": self.dtype}
        channels = x.shape[-1]
        if self.causal:
            frames = x.mean((2, 3), keepdims=True)
            y = jnp.concatenate([MeanSoFar(name="so_far")(frames), frames], axis=-1)
        else:
            y = x.mean((1, 2, 3), keepdims=True)
        y = Conv(rounded_width(y.shape[-1] / 4), name="fc1", **shared)(y)
        y = Conv(channels, name="fc2", **shared)(self.activation(y))
        return x * self.gate(y)


class Block(nn.Module):
    """Widens to `inner` channels, convolves each apart, gates them, and adds what it projects.

    `kernel` is what the depthwise convolution spans of time and of a side of the picture; it and
    what is causal, its activation and its gate are those of `Unit` and `Gate`.
    """

    width: int
    inner: int
    kernel: tuple[int, int]
    stride: int = 1
    causal: bool = False
    activation: Activation = nn.swish
    gate: Activation = nn.sigmoid
    drop_path: float = 0.0
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps x [B, T, H, W, C] to [B, T, H / stride, W / stride, width]."""
        unit = functools.partial(Unit, activation=self.activation, dtype=self.dtype)
        deep = functools.partial(unit, self.inner, depthwise=True, causal=self.causal)
        linear = functools.partial(Unit, self.width, dtype=self.dtype)
        frames, side = self.kernel
        y = unit(self.inner, name="expand")(x, train)
        if self.causal:
            y = deep((1, side), self.stride, name="space")(y, train)
            if frames > 1:
                y = deep((frames, 1), name="time")(y, train)
        else:
            y = deep(self.kernel, self.stride, name="depthwise")(y, train)
        y = Gate(self.causal, self.activation, self.gate, dtype=self.dtype, name="se")(y)
        y = linear(name="project")(y, train)
        # Training begins with blocks that add nothing (ReZero).
        alpha = self.param("alpha", nn.initializers.zeros, ())
        y = DropPath(self.drop_path)(y * alpha.astype(y.dtype), train)
        if self.stride > 1:
            x = _halved(x)
        if self.stride > 1 or x.shape[-1] != self.width:
            x = linear(name="shortcut")(x, train)
        return x + y


def _halved(x: jax.Array) -> jax.Array:
    """Means over every second square of side 3 of x [B, T, H, W, C], of the pixels that exist."""
    y = nn.avg_pool(
        x.reshape(-1, *x.shape[2:]), (3, 3), (2, 2), _same(x.shape, 3, 2), count_include_pad=False
    )
    return y.reshape(*x.shape[:2], *y.shape[1:])


class Head(nn.Module):
    """A convolution to `width` channels, their means, a hidden layer and the classifier."""

    num_classes: int
    width: int
    hidden: int
    causal: bool
    activation: Activation
    dropout: float
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> tuple[jax.Array, jax.Array]:
        """Maps features x [B, T, H, W, C] to logits [B, classes] and the hidden [B, `hidden`]."""
        x = Unit(self.width, activation=self.activation, dtype=self.dtype, name="conv")(x, train)
        if self.causal:
            x = MeanSoFar(name="so_far")(x.mean((2, 3), keepdims=True))[:, -1:]
        else:
            x = x.mean((1, 2, 3), keepdims=True)
        # Swish in stream networks too.
        x = nn.swish(Conv(self.hidden, use_bias=True, dtype=self.dtype, name="hidden")(x))
        y = nn.Dropout(self.dropout, deterministic=not train)(x)
        init = nn.initializers.normal(0.01)
        y = Conv(self.num_classes, use_bias=True, dtype=self.dtype, kernel_init=init, name="fc")(y)
        logits = y.astype(jnp.promote_types(y.dtype, jnp.float32))
        return logits[:, 0, 0, 0], x[:, 0, 0, 0]


class MoViNet(nn.Module):
    """Stem, five stages and a head with a hidden layer.

    `stages` are the width of each and the `inner` and `kernel` of its blocks; the stem is as wide
    as the first, the head's convolution `head_width`. `causal` makes a stream network, see
    `jaxvid.layers.streaming`, with the gate `clip` or `relu6`. `drop_path` is the last block's rate
    and rises evenly from the first on.
    """

    num_classes: int = 600
    stages: Sequence[tuple[int, Sequence[Triple]]] = ()
    head_width: int = 480
    hidden: int = 2048
    causal: bool = False
    gate: str = "clip"
    dropout: float = 0.5
    drop_path: float = 0.2
    dtype: Any = None

    @nn.compact
    def __call__(
        self, video: jax.Array, train: bool = False
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Maps video [B, T, H, W, C] to logits [B, classes] and the intermediates by name."""
        if self.gate not in _GATES:
            raise JaxvidError(
                f"MoViNet's gate={self.gate!r} is unknown: take {' or '.join(_GATES)}"
            )
        activation = nn.hard_swish if self.causal else nn.swish
        x = Unit(
            self.stages[0][0], (1, 3), 2, activation=activation, dtype=self.dtype, name="stem"
        )(video, train)
        out = {"stem": x}
        count, total = 0, sum(len(blocks) for _, blocks in self.stages)
        for i, (width, blocks) in enumerate(self.stages):
            for j, (inner, frames, side) in enumerate(blocks):
                count += 1
                x = Block(
                    width,
                    inner,
                    (frames, side),
                    stride=1 if j else _STRIDES[i],
                    causal=self.causal,
                    activation=activation,
                    gate=_GATES[self.gate] if self.causal else nn.sigmoid,
                    drop_path=self.drop_path * count / total,
                    dtype=self.dtype,
                    name=f"layer{i + 1}_{j}",
                )(x, train)
            out[f"stage{i + 1}"] = x
        head = Head(
            self.num_classes,
            self.head_width,
            self.hidden,
            self.causal,
            activation,
            self.dropout,
            dtype=self.dtype,
            name="head",
        )
        logits, out["pre_logits"] = head(x, train)
        return logits, out


Model = MoViNet

# Of each stage its width, and of its blocks their inner width and what their kernels span of time
# and of a side.
# fmt: off
_A0 = (
    (8, ((24, 1, 5),)),
    (32, ((80, 3, 3), (80, 3, 3), (80, 3, 3))),
    (56, ((184, 5, 3), (112, 3, 3), (184, 3, 3))),
    (56, ((184, 5, 3), (184, 3, 3), (184, 3, 3), (184, 3, 3))),
    (104, ((384, 5, 3), (280, 1, 5), (280, 1, 5), (344, 1, 5))),
)
_A1 = (
    (16, ((40, 1, 5), (40, 3, 3))),
    (40, ((96, 3, 3), (120, 3, 3), (96, 3, 3), (96, 3, 3))),
    (64, ((216, 5, 3), (128, 3, 3), (216, 3, 3), (168, 3, 3), (216, 3, 3))),
    (64, ((216, 5, 3), (216, 3, 3), (216, 3, 3), (128, 3, 3), (128, 1, 5), (216, 3, 3))),
    (136, ((456, 5, 3), (360, 1, 5), (360, 1, 5), (360, 1, 5), (456, 1, 5), (456, 3, 3),
           (544, 1, 3))),
)
_A2 = (
    (16, ((40, 1, 5), (40, 3, 3), (64, 3, 3))),
    (40, ((96, 3, 3), (120, 3, 3), (96, 3, 3), (96, 3, 3), (120, 3, 3))),
    (72, ((240, 5, 3), (160, 3, 3), (240, 3, 3), (192, 3, 3), (240, 3, 3))),
    (72, ((240, 5, 3), (240, 3, 3), (240, 3, 3), (240, 3, 3), (144, 1, 5), (240, 3, 3))),
    (144, ((480, 5, 3), (384, 1, 5), (384, 1, 5), (480, 1, 5), (480, 1, 5), (480, 3, 3),
           (576, 1, 3))),
)
_A3 = (
    (16, ((40, 1, 5), (40, 3, 3), (64, 3, 3), (40, 3, 3))),
    (48, ((112, 3, 3), (144, 3, 3), (112, 3, 3), (112, 1, 5), (144, 3, 3), (144, 3, 3))),
    (80, ((240, 5, 3), (152, 3, 3), (240, 3, 3), (192, 3, 3), (240, 3, 3))),
    (88, ((264, 5, 3), (264, 3, 3), (264, 3, 3), (264, 3, 3), (160, 1, 5), (264, 3, 3),
          (264, 3, 3), (264, 3, 3))),
    (168, ((560, 5, 3), (448, 1, 5), (448, 1, 5), (560, 1, 5), (560, 1, 5), (560, 3, 3),
           (448, 1, 5), (448, 1, 5), (560, 3, 3), (672, 1, 3))),
)
_A4 = (
    (24, ((64, 1, 5), (64, 3, 3), (96, 3, 3), (64, 3, 3), (96, 3, 3), (64, 3, 3))),
    (56, ((168, 3, 3), (168, 3, 3), (136, 3, 3), (136, 3, 3), (168, 3, 3), (168, 3, 3),
          (168, 3, 3), (136, 1, 5), (136, 3, 3))),
    (96, ((320, 5, 3), (160, 3, 3), (320, 3, 3), (192, 3, 3), (320, 3, 3), (160, 3, 3),
          (320, 3, 3), (256, 3, 3), (320, 3, 3))),
    (96, ((320, 5, 3), (320, 3, 3), (320, 3, 3), (320, 3, 3), (192, 1, 5), (320, 3, 3),
          (320, 3, 3), (192, 3, 3), (320, 3, 3), (320, 3, 3))),
    (192, ((640, 5, 3), (512, 1, 5), (512, 1, 5), (640, 1, 5), (640, 1, 5), (640, 3, 3),
           (512, 1, 5), (512, 1, 5), (640, 1, 5), (768, 1, 5), (640, 1, 5), (640, 3, 3),
           (768, 3, 3))),
)
_A5 = (
    (24, ((64, 1, 5), (64, 1, 5), (96, 3, 3), (64, 3, 3), (96, 3, 3), (64, 3, 3))),
    (64, ((192, 5, 3), (152, 3, 3), (152, 3, 3), (152, 3, 3), (192, 3, 3), (192, 3, 3),
          (192, 3, 3), (152, 3, 3), (152, 3, 3), (192, 3, 3), (192, 3, 3))),
    (112, ((376, 5, 3), (224, 3, 3), (376, 3, 3), (376, 3, 3), (296, 3, 3), (376, 3, 3),
           (224, 3, 3), (376, 3, 3), (376, 3, 3), (296, 3, 3), (376, 3, 3), (376, 3, 3),
           (376, 3, 3))),
    (120, ((376, 5, 3), (376, 3, 3), (376, 3, 3), (376, 3, 3), (224, 1, 5), (376, 3, 3),
           (376, 3, 3), (224, 3, 3), (376, 3, 3), (376, 3, 3), (376, 3, 3))),
    (224, ((744, 5, 3), (744, 3, 3), (600, 1, 5), (600, 1, 5), (744, 1, 5), (744, 1, 5),
           (744, 3, 3), (896, 1, 5), (600, 1, 5), (600, 1, 5), (896, 1, 5), (744, 1, 5),
           (744, 3, 3), (896, 1, 5), (600, 1, 5), (600, 1, 5), (744, 1, 5), (744, 3, 3))),
)
# fmt: on

_A0_FIELDS = {"stages": _A0, "dropout": 0.2}
_A1_FIELDS = {"stages": _A1, "head_width": 600}
_A2_FIELDS = {"stages": _A2, "head_width": 640}
_TINY = {
    "stages": ((8, ((16, 1, 5),)), (8, ((16, 3, 3), (16, 1, 3))), (12, ((24, 5, 3),))),
    "head_width": 16,
    "hidden": 16,
}

FAMILY = "MoViNet"
VARIANTS: dict[str, dict[str, Any]] = {
    "movinet_a0": _A0_FIELDS,
    "movinet_a1": _A1_FIELDS,
    "movinet_a2": _A2_FIELDS,
    "movinet_a3": {"stages": _A3, "head_width": 744},
    "movinet_a4": {"stages": _A4, "head_width": 856},
    "movinet_a5": {"stages": _A5, "head_width": 992},
    "movinet_a0_stream": _A0_FIELDS | {"causal": True},
    "movinet_a1_stream": _A1_FIELDS | {"causal": True},
    "movinet_a2_stream": _A2_FIELDS | {"causal": True},
    "movinet_test": _TINY,
    "movinet_stream_test": _TINY | {"causal": True},
}


def _unit_names(key: str, path: str, layer: str, layout: str = "") -> list[names.Rule]:
    """Of a `Unit`, whose convolution the port calls by its own class, `layer`."""
    return [
        *names.conv(f"{key}.{layer}", f"{path}/conv", layout or layer),
        *names.batch_norm(f"{key}.norm", f"{path}/bn"),
    ]


def _names(causal: bool) -> list[names.Rule]:
    """The port's keys; stream networks are 2-D there, over pixels or over frames."""
    layer = "conv2d" if causal else "conv3d"

    def linear(key: str, path: str) -> list[names.Rule]:
        return names.conv(f"{key}.conv_1.{layer}", path, layer, bias=True)

    rules = [
        *_unit_names("conv1.conv_1", "stem", layer),
        *_unit_names("conv7.conv_1", "head/conv", layer),
        *linear("classifier.0", "head/hidden"),
        *linear("classifier.3", "head/fc"),
    ]
    for stage, stride in enumerate(_STRIDES):
        block, path = f"blocks.b{stage}_l{{b}}", f"layer{stage + 1}_{{b}}"
        # Behind the pooling of a stride, where there is one.
        shortcut = f"res.{0 if stride == 1 else 1}"
        rules += [
            (f"{block}.alpha", f"params/{path}/alpha", "same"),
            *_unit_names(f"{block}.{{u:expand|project}}.conv_1", f"{path}/{{u}}", layer),
            *_unit_names(f"{block}.{shortcut}.conv_1", f"{path}/shortcut", layer),
            *linear(f"{block}.se.{{f:fc1|fc2}}", f"{path}/se/{{f}}"),
        ]
        deep = f"{block}.deep.conv"
        if causal:
            rules += _unit_names(f"{deep}_1", f"{path}/space", layer)
            rules += _unit_names(f"{deep}_2", f"{path}/time", layer, "conv2d_time")
        else:
            rules += _unit_names(f"{deep}_1", f"{path}/depthwise", layer)
    return rules


_BASE_NAMES, _STREAM_NAMES = _names(causal=False), _names(causal=True)
NAMES = {
    variant: _STREAM_NAMES if "causal" in fields else _BASE_NAMES
    for variant, fields in VARIANTS.items()
}

# Rows: the authors' table of Kinetics-600, with the files of the port to PyTorch.

_RECIPE = Recipe(
    epochs=240,
    batch_size=1024,
    lr=1.8,
    weight_decay=3e-5,
    decay_norm_and_bias=False,
    clip_norm=1.0,
    schedule="cosine",
    cosine_from="start",
    warmup_epochs=6,
    warmup="line",
    warmup_factor=0.0,
    label_smoothing=0.1,
)
_PORT = "https://github.com/Atze00/MoViNet-pytorch/blob/main/weights"
_TRAINED = (
    "trained by RMSprop with an epsilon of 1, of which SGD with momentum is what is left, by "
    "AutoAugment and with random strides: see docs/deviations.md"
)


def _row(
    name: str,
    frames: tuple[int, int],
    interval: int,
    sides: tuple[int, int],
    top1: float,
    top5: float,
) -> Row:
    """`frames` are those of a clip in training and test, `sides` the short side and the crop."""
    base = name.removesuffix("_stream")
    size, kind = base[-2:], "stream" if base != name else "base"
    # The network's intervals are of videos at 25 frames a second.
    test = Sampling(clip_len=frames[1], frame_interval=interval, target_fps=25)
    stream = "_stream" if kind == "stream" else ""
    return Row(
        name=f"{name}_{frames[1]}x{interval}_k600",
        variant=name,
        dataset="kinetics600",
        num_classes=CLASS_COUNTS["kinetics600"],
        train=Sampling(clip_len=frames[0], frame_interval=interval, target_fps=25),
        test=Protocol(test, short_side=sides[0], crops="center", crop=sides[1]),
        recipe=_RECIPE,
        train_crop=sides[1],
        train_short_side=sides[0],
        mean=(0.0, 0.0, 0.0),
        std=(255.0, 255.0, 255.0),
        top1=top1,
        top5=top5,
        source=f"{_PORT}/model{size.upper()}{stream}_statedict_v3",
        upstream=f"movinet_{size}_{kind}",
        section="Kinetics 600",
        config=f"official/projects/movinet/configs/yaml/movinet_{size}{stream}_k600_8x8.yaml",
        pretrained="-",
        note=_TRAINED,
    )


# fmt: off
ROWS = [
    _row("movinet_a0", (50, 50), 5, (192, 172), 72.28, 90.92),
    _row("movinet_a1", (50, 50), 5, (192, 172), 76.69, 93.40),
    _row("movinet_a2", (50, 50), 5, (256, 224), 78.62, 94.17),
    _row("movinet_a3", (64, 120), 2, (288, 256), 81.79, 95.67),
    _row("movinet_a4", (32, 80), 3, (320, 290), 83.48, 96.16),
    _row("movinet_a5", (32, 120), 2, (368, 320), 84.27, 96.39),
    _row("movinet_a0_stream", (50, 50), 5, (192, 172), 72.05, 90.63),
    _row("movinet_a1_stream", (50, 50), 5, (192, 172), 76.45, 93.25),
    _row("movinet_a2_stream", (50, 50), 5, (256, 224), 78.40, 94.05),
]
# fmt: on
