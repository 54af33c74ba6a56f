"""What X3D (Feichtenhofer, CVPR 2020) shares with the networks built on it: its two ends."""

from typing import Any

import flax.linen as nn
import jax

from jaxvid.layers import lanes, names
from jaxvid.layers.conv import Conv
from jaxvid.layers.heads import PositionHead
from jaxvid.layers.norm import BatchNorm
from jaxvid.layers.pool import mean_windows
from jaxvid.layers.resnet import ConvNorm

kernel_init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


class ExpandedStem(nn.Module):
    """A 3x3 convolution that halves the picture, then a depthwise one over five frames."""

    features: int
    dtype: Any = None

    @nn.compact
    def __call__(self, video: jax.Array, train: bool = False) -> jax.Array:
        """Maps video [B, T, H, W, C] to [B, T, H / 2, W / 2, features]."""
        with lanes.packing(self.features, video.shape[3] // 2):
            x = Conv(
                self.features,
                (1, 3, 3),
                (1, 2, 2),
                (0, 1, 1),
                dtype=self.dtype,
                kernel_init=kernel_init,
                name="conv_s",
            )(video)
            x = Conv(
                self.features,
                (5, 1, 1),
                padding=(2, 0, 0),
                groups=self.features,
                dtype=self.dtype,
                kernel_init=kernel_init,
                name="conv_t",
            )(x)
            x = BatchNorm(dtype=self.dtype, name="bn")(x, train)
            return lanes.each(nn.relu, x)


class ExpandedHead(nn.Module):
    """A convolution to `width` channels, pooling, a hidden layer and the classifier.

    With `window` the pooling is that of PySlowFast: over squares of that side, one pixel apart,
    each of which is classified; otherwise it is global.
    """

    num_classes: int
    width: int
    hidden: int
    window: int | None = None
    dropout: float = 0.5
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> tuple[jax.Array, jax.Array]:
        """Maps features x [B, T, H, W, C] to logits [B, classes] and the hidden [B, `hidden`]."""
        x = ConvNorm(self.width, (1, 1, 1), dtype=self.dtype, name="conv5")(x, train)
        if self.window is None:
            x = x.mean((1, 2, 3), keepdims=True)
        else:
            x = mean_windows(x, self.window)
        # At every position, so a convolution.
        x = Conv(self.hidden, dtype=self.dtype, kernel_init=kernel_init, name="hidden")(x)
        head = PositionHead(self.num_classes, self.dropout, dtype=self.dtype, name="classifier")
        return head(nn.relu(x), train)


def pyslowfast_ends() -> list[names.Rule]:
    """Name rules of `ExpandedStem` at `stem` and `ExpandedHead` at `head` in PySlowFast."""
    stem = "s1.pathway0_stem"
    return [
        *names.conv(f"{stem}.conv_xy", "stem/conv_s", "conv3d"),
        *names.conv(f"{stem}.conv", "stem/conv_t", "conv3d"),
        *names.batch_norm(f"{stem}.bn", "stem/bn"),
        *names.conv("head.conv_5", "head/conv5/conv", "conv3d"),
        *names.batch_norm("head.conv_5_bn", "head/conv5/bn"),
        *names.conv("head.lin_5", "head/hidden", "conv3d"),
        *names.dense("head.projection", "head/classifier/fc"),
    ]
