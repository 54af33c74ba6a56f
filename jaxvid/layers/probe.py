"""The attentive probe: what classifies the tokens of a frozen encoder.

Blocks of a transformer over all tokens, then one learnt query that looks at what they made of them,
and a linear layer, in the form of V-JEPA 2 (Assran et al., 2025). The probe knows no order of
tokens: they bring along what they know of their places.
"""

import functools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxvid.layers import names
from jaxvid.layers.attention import attend
from jaxvid.layers.linear import Joined, to_heads
from jaxvid.layers.vit import Block, Initializer, Mlp, dense_init, layer_norm

EPSILON = 1e-5


class AttentiveProbe(nn.Module):
    """`depth` - 1 blocks of self-attention, one of cross-attention, and a linear classifier.

    The blocks have as many channels as the tokens, `heads` heads, and MLPs that are `mlp_ratio`
    times as wide. Logits are float32 or wider whatever the compute dtype.
    """

    num_classes: int
    depth: int = 4
    heads: int = 16
    mlp_ratio: int = 4
    dtype: Any = None

    @nn.compact
    def __call__(self, tokens: jax.Array, train: bool = False) -> tuple[jax.Array, jax.Array]:
        """Maps tokens [B, L, C] to logits [B, classes] and what the query found [B, C]."""
        x = tokens
        hidden = self.mlp_ratio * x.shape[-1]
        for i in range(self.depth - 1):
            x = Block(
                self.heads,
                hidden,
                epsilon=EPSILON,
                dtype=self.dtype,
                last_init=_smaller(i + 1),
                name=f"block{i}",
            )(x, train)
        # Of as many blocks as stand before it, at least one: so its authors have it.
        init = _smaller(max(self.depth - 1, 1))
        x = CrossBlock(self.heads, hidden, init, self.dtype, name="cross")(x)[:, 0]
        dense = nn.Dense(self.num_classes, dtype=self.dtype, kernel_init=dense_init, name="linear")
        logits = dense(x)
        return logits.astype(jnp.promote_types(logits.dtype, jnp.float32)), x


class CrossBlock(nn.Module):
    """A learnt query that looks at tokens, and an MLP of `hidden` channels behind a norm.

    The query is not normalised, and what it finds is added to it as it is, without a projection.
    `last_init` is what the MLP's last layer starts from.
    """

    heads: int
    hidden: int
    last_init: Initializer = dense_init
    dtype: Any = None

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Maps tokens [B, L, C] to [B, 1, C]."""
        batch, length, width = tokens.shape
        query = self.param("query", dense_init, (1, 1, width), jnp.float32)
        query = jnp.broadcast_to(query.astype(tokens.dtype), (batch, 1, width))
        dense = functools.partial(nn.Dense, dtype=self.dtype, kernel_init=dense_init)
        k, v = Joined(width, 2, self.heads, True, dense_init, dtype=self.dtype, name="kv")(
            layer_norm("norm1", EPSILON, self.dtype)(tokens)
        )
        q, k, v = (
            x.reshape(batch, -1, self.heads, width // self.heads)
            for x in (dense(width, dot_general=to_heads(self.heads), name="q")(query), k, v)
        )
        x = query + attend(q, k, v).reshape(batch, 1, width)
        mlp = Mlp(self.hidden, dtype=self.dtype, last_init=self.last_init, name="mlp")
        return x + mlp(layer_norm("norm2", EPSILON, self.dtype)(x))


def _smaller(block: int) -> Initializer:
    """What the layers that close a branch of the block of this number, from 1, start from."""
    return functools.partial(_draw_smaller, block)


def _draw_smaller(block: int, *args: Any) -> jax.Array:
    return dense_init(*args) / math.sqrt(2 * block)


def probe_names(key: str, path: str) -> list[names.Rule]:
    """The rules of a probe at `key`, as V-JEPA 2's authors name it, at `path`."""
    pooler, cross = f"{key}.pooler", f"{key}.pooler.cross_attention_block"
    return [
        (f"{pooler}.query_tokens", f"params/{path}/cross/query", "same"),
        *names.layer_norm(f"{cross}.{{n:norm1|norm2}}", f"{path}/cross/{{n}}"),
        *names.dense(f"{cross}.xattn.{{n:q|kv}}", f"{path}/cross/{{n}}"),
        *names.dense(f"{cross}.mlp.{{n:fc1|fc2}}", f"{path}/cross/mlp/{{n}}"),
        *names.vit_block(f"{pooler}.blocks.{{i}}", f"{path}/block{{i}}"),
        *names.dense(f"{key}.linear", f"{path}/linear"),
    ]
