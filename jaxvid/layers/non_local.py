"""Non-local blocks (Wang et al., "Non-local Neural Networks", CVPR 2018)."""

# Names end in their axes, outermost first, as in `x_BTHWC`:
#   B  batch
#   T  frames
#   H  height
#   W  width
#   C  channels
#   Q  queries
#   K  keys
#   N  heads
#   D  channels of a head
#   E  channels of a head's values
# There is one head, and queries and keys are positions of all frames.

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
    def __call__(self, x_BTHWC: jax.Array, train: bool = False) -> jax.Array:
        """Maps x [B, T, H, W, C] to the same shape."""
        if self.mode not in MODES:
            raise JaxvidError(
                f"non-local mode {self.mode!r} is unknown: choose one of {', '.join(MODES)}"
            )
        channels = x_BTHWC.shape[-1]
        inner = channels // 2

        def project(name: str) -> jax.Array:
            init = nn.initializers.normal(0.01)
            conv = Conv(inner, use_bias=True, kernel_init=init, dtype=self.dtype, name=name)
            return conv(x_BTHWC)

        v_BKNE = _one_head(_halve(project("g")))
        if self.mode == "gaussian":
            q_BQND, k_BKND = _one_head(x_BTHWC), _one_head(_halve(x_BTHWC))
        else:
            q_BQND, k_BKND = _one_head(project("theta")), _one_head(_halve(project("phi")))
        if self.mode == "dot_product":
            y_BQNE = _average(q_BQND, k_BKND, v_BKNE)
        else:
            scale = inner**-0.5 if self.scale else 1
            y_BQNE = attend(q_BQND, k_BKND, v_BKNE, scale=scale)
        y_BTHWC = y_BQNE.reshape(*x_BTHWC.shape[:-1], inner)
        out = ConvNorm(
            channels, (1, 1, 1), relu=False, zero_init=True, dtype=self.dtype, name="conv_out"
        )
        return x_BTHWC + out(y_BTHWC, train)


def _halve(x_BTHWC: jax.Array) -> jax.Array:
    """Halves height and width, each square of four pixels to its maximum."""
    return max_pool(x_BTHWC, (1, 2, 2), (1, 2, 2))


def _one_head(x_BTHWC: jax.Array) -> jax.Array:
    """All positions in a row, for one head of attention: [B, T * H * W, 1, C]."""
    return x_BTHWC.reshape(x_BTHWC.shape[0], -1, 1, x_BTHWC.shape[-1])


def _average(q_BQND: jax.Array, k_BKND: jax.Array, v_BKNE: jax.Array) -> jax.Array:
    """The mean over keys of their values, each times its product with the query: [B, Q, N, E]."""
    wide = jnp.promote_types(q_BQND.dtype, jnp.float32)
    weights_BNQK = jnp.einsum("BQND,BKND->BNQK", q_BQND, k_BKND, preferred_element_type=wide)
    weights_BNQK = (weights_BNQK / k_BKND.shape[1]).astype(v_BKNE.dtype)
    y_BQNE = jnp.einsum("BNQK,BKNE->BQNE", weights_BNQK, v_BKNE, preferred_element_type=wide)
    return y_BQNE.astype(q_BQND.dtype)


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
