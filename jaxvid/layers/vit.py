"""The block of a vision transformer (Dosovitskiy et al., ICLR 2021), which several families share.

Tokens are [B, L, C]. Every norm stands before what it feeds (pre-norm), and attention and MLP each
lie beside a shortcut.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxvid.layers.attention import attend
from jaxvid.layers.drop import DropPath

Activation = Callable[[jax.Array], jax.Array]

# Cut two deviations out, as nearly all published vision transformers start.
dense_init = nn.initializers.truncated_normal(0.02)
exact_gelu = functools.partial(nn.gelu, approximate=False)


class SelfAttention(nn.Module):
    """Attention of tokens among themselves, with one matrix for queries, keys and values.

    With `key_bias` the three have one bias, in `qkv`. Without it queries and values have biases of
    their own, `q_bias` and `v_bias` (Bao et al., "BEiT", 2022): the softmax is blind to a bias of
    the keys.
    """

    heads: int
    key_bias: bool = True
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps tokens [B, L, C] to [B, L, C]."""
        batch, length, width = x.shape
        qkv = nn.Dense(
            3 * width, self.key_bias, dtype=self.dtype, kernel_init=dense_init, name="qkv"
        )(x)
        if not self.key_bias:
            q_bias, v_bias = (
                self.param(name, nn.initializers.zeros, (width,), jnp.float32).astype(qkv.dtype)
                for name in ("q_bias", "v_bias")
            )
            qkv = qkv + jnp.concatenate([q_bias, jnp.zeros_like(q_bias), v_bias])
        q, k, v = (
            part.reshape(batch, length, self.heads, width // self.heads)
            for part in jnp.split(qkv, 3, axis=-1)
        )
        y = attend(q, k, v).reshape(batch, length, width)
        return nn.Dense(width, dtype=self.dtype, kernel_init=dense_init, name="proj")(y)


class Mlp(nn.Module):
    """Two linear layers with an activation between, by default an exact GELU."""

    hidden: int
    activation: Activation = exact_gelu
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [..., C] to [..., C]."""
        width = x.shape[-1]
        x = nn.Dense(self.hidden, dtype=self.dtype, kernel_init=dense_init, name="fc1")(x)
        return nn.Dense(width, dtype=self.dtype, kernel_init=dense_init, name="fc2")(
            self.activation(x)
        )


class Block(nn.Module):
    """Self-attention and an MLP of `hidden` channels, each behind a norm and beside a shortcut.

    `drop_path` is the rate at which samples skip either (see `layers.drop.DropPath`).
    """

    heads: int
    hidden: int
    key_bias: bool = True
    drop_path: float = 0.0
    epsilon: float = 1e-6
    activation: Activation = exact_gelu
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps tokens [B, L, C] to [B, L, C]."""
        drop_path = DropPath(self.drop_path)
        y = layer_norm("norm1", self.epsilon, self.dtype)(x)
        y = SelfAttention(self.heads, self.key_bias, self.dtype, name="attn")(y)
        x = x + drop_path(y, train)
        y = layer_norm("norm2", self.epsilon, self.dtype)(x)
        y = Mlp(self.hidden, self.activation, self.dtype, name="mlp")(y)
        return x + drop_path(y, train)


def layer_norm(name: str, epsilon: float = 1e-6, dtype: Any = None) -> nn.LayerNorm:
    """A layer normalisation that computes the variance as PyTorch does."""
    return nn.LayerNorm(epsilon, dtype=dtype, use_fast_variance=False, name=name)


class _FirstBlock(nn.Module):
    """A trunk of one block, under the path that the first block of a longer one has."""

    block0: nn.Module

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        return self.block0(x, train)


def scan_blocks(
    trunk: nn.Module, block: nn.Module, drop_path: Sequence[float], x: jax.Array, train: bool
) -> jax.Array:
    """Applies `block0`, `block1`.. of `trunk` to x as one loop, so that one block is compiled.

    The parameters stay where they are without the loop, block by block: they are stacked on the
    way in, which costs a copy of them. Checkpoints, rates by layer and recomputation by block know
    no difference.

    Args:
        trunk: a bound module that holds the parameters of all blocks; not while it is initialised.
        block: what every block is, unbound and without a name; only `drop_path` differs.
        drop_path: of each block.
        x: tokens [B, L, C].
    """
    params = [trunk.variables["params"][f"block{i}"] for i in range(len(drop_path))]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *params)
    draws = train and any(drop_path)
    keys = jax.random.split(trunk.make_rng("dropout"), len(drop_path)) if draws else None
    rates = jnp.asarray(drop_path, jnp.float32) if draws else None

    def step(x, one):
        params, rate, key = one
        unbound = block.clone(drop_path=rate if draws else 0.0)
        rngs = {"dropout": key} if draws else {}
        y = _FirstBlock(unbound).apply({"params": {"block0": params}}, x, train, rngs=rngs)
        return y, None

    return jax.lax.scan(step, x, (stacked, rates, keys))[0]
