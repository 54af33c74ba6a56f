"""Squeeze-and-excitation (Hu, Shen and Sun, CVPR 2018)."""

from typing import Any

import flax.linen as nn
import jax

from jaxvid.layers import names
from jaxvid.layers.conv import Conv


def rounded_width(width: float, divisor: int = 8) -> int:
    """The multiple of `divisor` nearest to `width`, but not 0 nor a tenth or more below it."""
    nearest = max(divisor, int(width + divisor / 2) // divisor * divisor)
    return nearest + divisor if nearest < 0.9 * width else nearest


class SqueezeExcite(nn.Module):
    """Scales channels by a sigmoid of two linear layers, a ReLU between, on their means.

    `hidden` is the width between the layers, which are 1x1x1 convolutions.
    """

    hidden: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps x [B, T, H, W, C] to the same shape."""
        init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
        shared = {"use_bias": True, "kernel_init": init, "dtype": self.dtype}
        y = x.mean((1, 2, 3), keepdims=True)
        y = nn.relu(Conv(self.hidden, name="fc1", **shared)(y))
        return x * nn.sigmoid(Conv(x.shape[-1], name="fc2", **shared)(y))


def squeeze_names(key: str, path: str) -> list[names.Rule]:
    """Name rules of a `SqueezeExcite` whose layers PyTorch calls `fc1` and `fc2`."""
    layer = "{f:fc1|fc2}"
    return names.conv(f"{key}.{layer}", f"{path}/{layer}", "conv3d", bias=True)
