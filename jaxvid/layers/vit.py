"""The block of a vision transformer (Dosovitskiy et al., ICLR 2021), which several families share.

Tokens are [B, L, C]. Every norm stands before what it feeds (pre-norm), and attention and MLP each
lie beside a shortcut.
"""

# Names end in their axes, outermost first, as in `x_BLC`:
#   B  batch
#   C  channels
#   L  tokens of a sequence
#   N  heads
#   D  channels of a head

import functools
import itertools
import math
from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxvid.layers.attention import attend
from jaxvid.layers.drop import DropPath
from jaxvid.layers.linear import Joined, behind, from_heads
from jaxvid.layers.norm import LayerNorm
from jaxvid.layers.shortcut import add

Activation = Callable[[jax.Array], jax.Array]
Initializer = Callable[..., jax.Array]
Rotation = Callable[[jax.Array], jax.Array]

# Cut two deviations out, as nearly all published vision transformers start.
dense_init = nn.initializers.truncated_normal(0.02)
# Uniform within 1 / sqrt(inputs): what keeps PyTorch's own initialisation, such as embeddings of
# cubes.
torch_init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
exact_gelu = functools.partial(nn.gelu, approximate=False)


class SelfAttention(nn.Module):
    """Attention of tokens among themselves, with one matrix for queries, keys and values.

    With `key_bias` the three have one bias, in `qkv`. Without it queries and values have biases of
    their own, `q_bias` and `v_bias` (Bao et al., "BEiT", 2022): the softmax is blind to a bias of
    the keys. `rotate` is what becomes of queries and keys [B, L, N, D], such as rotary positions.
    `kernel_init` is what the linear layers start from, and `last_init`, where given, the last one.
    """

    heads: int
    key_bias: bool = True
    kernel_init: Initializer = dense_init
    dtype: Any = None
    rotate: Rotation | None = None
    last_init: Initializer | None = None

    @nn.compact
    def __call__(self, x_BLC: jax.Array) -> jax.Array:
        """Maps tokens [B, L, C] to [B, L, C]."""
        batch, length, width = x_BLC.shape
        q_BLC, k_BLC, v_BLC = Joined(
            width, 3, self.heads, self.key_bias, self.kernel_init, dtype=self.dtype, name="qkv"
        )(x_BLC)
        if not self.key_bias:
            q_bias_C, v_bias_C = (
                self.param(name, nn.initializers.zeros, (width,), jnp.float32).astype(q_BLC.dtype)
                for name in ("q_bias", "v_bias")
            )
            q_BLC, v_BLC = q_BLC + q_bias_C, v_BLC + v_bias_C
        q_BLND, k_BLND, v_BLND = (
            part_BLC.reshape(batch, length, self.heads, width // self.heads)
            for part_BLC in (q_BLC, k_BLC, v_BLC)
        )
        if self.rotate is not None:
            q_BLND, k_BLND = self.rotate(q_BLND), self.rotate(k_BLND)
        y_BLND = attend(q_BLND, k_BLND, v_BLND)
        init = self.last_init or self.kernel_init
        product = from_heads(self.heads)
        dense = nn.Dense(
            width, dtype=self.dtype, kernel_init=init, dot_general=product, name="proj"
        )
        return dense(y_BLND.reshape(batch, length, width))


class Mlp(nn.Module):
    """Two linear layers with an activation between, by default an exact GELU.

    `kernel_init` is what they start from, and `last_init`, where given, the second one.
    """

    hidden: int
    activation: Activation = exact_gelu
    kernel_init: Initializer = dense_init
    dtype: Any = None
    bias_init: Initializer = nn.initializers.zeros
    last_init: Initializer | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [..., C] to [..., C]."""
        dense = functools.partial(nn.Dense, dtype=self.dtype, bias_init=self.bias_init)
        hidden = dense(self.hidden, kernel_init=self.kernel_init, name="fc1")(x)
        init = self.last_init or self.kernel_init
        return behind(self.activation, dense(x.shape[-1], kernel_init=init, name="fc2"), hidden)


class Block(nn.Module):
    """Self-attention and an MLP of `hidden` channels, each behind a norm and beside a shortcut.

    `drop_path` is the rate at which samples skip either (see `layers.drop.DropPath`), `kernel_init`
    what the linear layers start from, and `last_init`, where given, the last one of either. For
    `rotate` see `SelfAttention`.
    """

    heads: int
    hidden: int
    key_bias: bool = True
    drop_path: float = 0.0
    epsilon: float = 1e-6
    activation: Activation = exact_gelu
    kernel_init: Initializer = dense_init
    dtype: Any = None
    rotate: Rotation | None = None
    last_init: Initializer | None = None

    @nn.compact
    def __call__(self, x_BLC: jax.Array, train: bool = False) -> jax.Array:
        """Maps tokens [B, L, C] to [B, L, C]."""
        drop_path = DropPath(self.drop_path)
        attention = SelfAttention(
            self.heads,
            self.key_bias,
            self.kernel_init,
            self.dtype,
            self.rotate,
            self.last_init,
            name="attn",
        )
        y_BLC = attention(layer_norm("norm1", self.epsilon, self.dtype)(x_BLC))
        x_BLC = add(x_BLC, drop_path(y_BLC, train), train)
        mlp = Mlp(
            self.hidden,
            self.activation,
            self.kernel_init,
            self.dtype,
            last_init=self.last_init,
            name="mlp",
        )
        y_BLC = mlp(layer_norm("norm2", self.epsilon, self.dtype)(x_BLC))
        return add(x_BLC, drop_path(y_BLC, train), train)


def layer_norm(name: str, epsilon: float = 1e-6, dtype: Any = None) -> LayerNorm:
    """A layer normalisation by name."""
    return LayerNorm(epsilon, dtype=dtype, name=name)


def apply_blocks(
    trunk: nn.Module, blocks: Mapping[str, nn.Module], x: jax.Array, train: bool, scan: bool
) -> jax.Array:
    """Applies the blocks of `trunk`, by name, one after another.

    With `scan` each run of blocks that are alike but for their `drop_path` is one loop, and so is
    one of pairs that are alike, so that one block or pair is compiled for all. The parameters stay
    where they are without the loop, block by block: they are stacked on the way in, which costs a
    copy of them. Checkpoints, rates by layer and recomputation by block know no difference. Blocks
    with running statistics are not looped over.

    Args:
        trunk: a bound module, which holds the parameters of the blocks.
        blocks: modules that are not bound, which map (x, train) to the shape of x.
        x: [B, ...].
    """
    params = {} if trunk.is_initializing() else trunk.variables["params"]
    loopable = params.keys() - trunk.variables.get("batch_stats", {}).keys() if scan else set()
    names = list(blocks)
    while names:
        unit, count = _run(blocks, names, loopable)
        run, names = names[: unit * count], names[unit * count :]
        if count == 1:
            for name in run:
                x = blocks[name].clone(parent=trunk, name=name)(x, train)
        else:
            x = _loop(trunk, {name: blocks[name] for name in run}, unit, x, train)
    return x


def _run(
    blocks: Mapping[str, nn.Module], names: Sequence[str], loopable: Set[str]
) -> tuple[int, int]:
    """How many blocks at the front repeat, and how often they stand there: (1, 1) for no loop."""
    best = (1, 1)
    for unit in (1, 2):
        length = 0
        for name, first in zip(names, itertools.cycle(names[:unit]), strict=False):
            alike = blocks[name].clone(drop_path=blocks[first].drop_path) == blocks[first]
            if name not in loopable or not alike:
                break
            length += 1
        if length >= 2 * unit and length // unit * unit > math.prod(best):
            best = (unit, length // unit)
    return best


class _Within(nn.Module):
    """Calls a function of a module that has the path `names`."""

    names: tuple[str, ...]
    function: Callable[[nn.Module], jax.Array]

    @nn.compact
    def __call__(self) -> jax.Array:
        if self.names:
            return _Within(self.names[1:], self.function, name=self.names[0])()
        return self.function(self)


def _loop(
    trunk: nn.Module, blocks: Mapping[str, nn.Module], unit: int, x: jax.Array, train: bool
) -> jax.Array:
    """Applies `blocks`, of which each is like the one `unit` places before, as one loop."""
    names, params = list(blocks), trunk.variables["params"]
    repeated = names[:unit]
    stacked = {
        name: jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(params.get, names[i::unit]))
        for i, name in enumerate(repeated)
    }
    given = [float(block.drop_path) for block in blocks.values()]
    count = len(names) // unit
    draws = train and any(given)
    keys = jax.random.split(trunk.make_rng("dropout"), count) if draws else None
    rates = jnp.asarray(given, jnp.float32).reshape(count, unit) if draws else None

    def step(x: jax.Array, one: Any) -> tuple[Any, None]:
        params, rates, key = one

        def call(parent: nn.Module) -> jax.Array:
            y = x
            for i, name in enumerate(repeated):
                block = blocks[name].clone(
                    parent=parent, name=name, drop_path=rates[i] if draws else 0.0
                )
                y = block(y, train)
            return y

        # Under the path that the blocks have in the network: recomputation goes by it.
        for name in reversed(trunk.path):
            params = {name: params}
        rngs = {"dropout": key} if draws else {}
        return _Within(trunk.path, call).apply({"params": params}, rngs=rngs), None

    return jax.lax.scan(step, x, (stacked, rates, keys))[0]
