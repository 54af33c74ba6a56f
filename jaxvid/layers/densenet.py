"""DenseNet's trunk on frames (Huang et al., "Densely Connected Networks", CVPR 2017)."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxvid.layers import names
from jaxvid.layers.conv import Conv
from jaxvid.layers.norm import BatchNorm
from jaxvid.layers.pool import avg_pool, max_pool

# How wide a dense layer's first convolution is, in multiples of its growth.
BOTTLENECK = 4


class NormConv(nn.Module):
    """Batch normalisation, ReLU and a convolution without bias, in this order."""

    features: int
    size: int = 1
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps x [B, T, H, W, C] to [B, T, H, W, features]."""
        x = nn.relu(BatchNorm(dtype=self.dtype, name="bn")(x, train))
        half = self.size // 2
        return Conv(
            self.features,
            (1, self.size, self.size),
            padding=(0, half, half),
            dtype=self.dtype,
            name="conv",
        )(x)


class DenseLayer(nn.Module):
    """Two convolutions whose `growth` channels join those that came in."""

    growth: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps x [B, T, H, W, C] to [B, T, H, W, C + growth]."""
        y = NormConv(BOTTLENECK * self.growth, dtype=self.dtype, name="unit1")(x, train)
        y = NormConv(self.growth, 3, dtype=self.dtype, name="unit2")(y, train)
        return jnp.concatenate([x, y], axis=-1)


class DenseNet(nn.Module):
    """Stem, four blocks of dense layers with transitions between them, a norm and no ReLU.

    A transition halves channels and picture. The defaults are those of DenseNet-161. An image
    classifier has a ReLU after the last norm; the networks that video families made of it do not.
    """

    depths: Sequence[int] = (6, 12, 36, 24)
    growth: int = 48
    width: int = 96
    dtype: Any = None

    @nn.compact
    def __call__(
        self, video: jax.Array, train: bool = False
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Maps video [B, T, H, W, C] to features [B, T, H', W', C'] and the intermediates."""
        out = {}
        x = Conv(
            self.width,
            (1, 7, 7),
            stride=(1, 2, 2),
            padding=(0, 3, 3),
            dtype=self.dtype,
            name="conv0",
        )(video)
        x = nn.relu(BatchNorm(dtype=self.dtype, name="norm0")(x, train))
        x = out["stem"] = max_pool(x, (1, 3, 3), (1, 2, 2), (0, 1, 1))
        for i, layers in enumerate(self.depths, start=1):
            if i > 1:
                half = x.shape[-1] // 2
                x = NormConv(half, dtype=self.dtype, name=f"transition{i - 1}")(x, train)
                x = avg_pool(x, 2)
            for j in range(1, layers + 1):
                x = DenseLayer(self.growth, dtype=self.dtype, name=f"block{i}_{j}")(x, train)
            out[f"stage{i}"] = x
        return BatchNorm(dtype=self.dtype, name="norm5")(x, train), out


def densenet_names(prefix: str = "backbone.", dot: str = "") -> list[names.Rule]:
    """Name rules of torchvision's and timm's DenseNet behind `prefix`.

    The files that torchvision offers have a `dot` before the numbers inside a layer.
    """
    key = f"{prefix}features"
    layer, unit = f"{key}.denseblock{{i}}.denselayer{{j}}", "backbone/block{i}_{j}/unit{k}"
    return [
        *names.conv(f"{key}.conv0", "backbone/conv0", "conv2d"),
        *names.batch_norm(f"{key}.{{n:norm0|norm5}}", "backbone/{n:norm0|norm5}"),
        *names.conv(f"{layer}.conv{dot}{{k}}", f"{unit}/conv", "conv2d"),
        *names.batch_norm(f"{layer}.norm{dot}{{k}}", f"{unit}/bn"),
        *names.conv(f"{key}.transition{{i}}.conv", "backbone/transition{i}/conv", "conv2d"),
        *names.batch_norm(f"{key}.transition{{i}}.norm", "backbone/transition{i}/bn"),
    ]
