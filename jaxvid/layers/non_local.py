"""Non-local blocks (Wang et al., "Non-local Neural Networks", CVPR 2018)."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxvid.base.errors import JaxvidError
from jaxvid.layers import names
from jaxvid.layers.attention import attend
from jaxvid.layers.conv import Conv
from jaxvid.layers.pool import max_pool
from jaxvid.layers.resnet import ConvNorm, Hook, Place

MODES = ("gaussian", "embedded_gaussian", "dot_product")


class NonLocal(nn.Module):
    """Adds to every position a weighted sum over all positions of all frames.

    Weights compare positions of x itself (`gaussian`) or of two projections of it, by a softmax
    (`embedded_gaussian`) or by products over the number of keys (`dot_product`). Keys and values
    are pooled to half of height and width. `scale` divides embedded products by the root of their
    length. The last norm starts at zero, so that a new block changes nothing.
    """

    mode: str = "embedded_gaussian"
    scale: bool = False
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps x [B, T, H, W, C] to the same shape."""
        if self.mode not in MODES:
            raise JaxvidError(
                f"non-local mode {self.mode!r} is unknown: choose one of {', '.join(MODES)}"
            )
        channels = x.shape[-1]
        inner = channels // 2

        def project(name: str) -> jax.Array:
            init = nn.initializers.normal(0.01)
            return Conv(inner, use_bias=True, kernel_init=init, dtype=self.dtype, name=name)(x)

        value = _tokens(_halve(project("g")))
        if self.mode == "gaussian":
            query, key = _tokens(x), _tokens(_halve(x))
        else:
            query, key = _tokens(project("theta")), _tokens(_halve(project("phi")))
        if self.mode == "dot_product":
            y = _average(query, key, value)
        else:
            scale = inner**-0.5 if self.scale else 1
            y = attend(query, key, value, scale=scale)
        y = y.reshape(*x.shape[:-1], inner)
        out = ConvNorm(
            channels, (1, 1, 1), relu=False, zero_init=True, dtype=self.dtype, name="conv_out"
        )
        return x + out(y, train)


def _halve(x: jax.Array) -> jax.Array:
    return max_pool(x, (1, 2, 2), (1, 2, 2))


def _tokens(x: jax.Array) -> jax.Array:
    """All positions of x [B, T, H, W, C] in a row, for one head of attention: [B, N, 1, C]."""
    return x.reshape(x.shape[0], -1, 1, x.shape[-1])


def _average(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    """The mean over keys of their values, each times its product with the query."""
    wide = jnp.promote_types(query.dtype, jnp.float32)
    weights = jnp.einsum("bqnd,bknd->bnqk", query, key, preferred_element_type=wide)
    weights = (weights / key.shape[1]).astype(value.dtype)
    y = jnp.einsum("bnqk,bknd->bqnd", weights, value, preferred_element_type=wide)
    return y.astype(query.dtype)


def non_local_hook(mode: str, first: int = 0, scale: bool = False, dtype: Any = None) -> Hook:
    """Non-local blocks behind every second block of stages 2 and 3, from block `first` on."""

    def hook(place: Place, x: jax.Array, train: bool) -> jax.Array:
        chosen = place.stage in (2, 3) and place.block % 2 == first
        if place.point == "block_out" and chosen:
            return NonLocal(mode, scale, dtype=dtype, name="non_local")(x, train)
        return x

    return hook


def non_local_names(block: str = "layer{s}.{b}") -> list[names.Rule]:
    """Name rules of non-local blocks inside the blocks called `block` of a trunk at `backbone.`."""
    key, path = f"backbone.{block}.non_local_block", "backbone/layer{s}_{b}/non_local"
    return [
        *names.conv(f"{key}.theta.conv", f"{path}/theta", "conv3d", bias=True),
        *names.conv(f"{key}.{{c:g|phi}}.0.conv", f"{path}/{{c:g|phi}}", "conv3d", bias=True),
        *names.conv_norm(f"{key}.conv_out", f"{path}/conv_out", "conv3d"),
    ]
