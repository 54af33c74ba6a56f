"""Linear layers that share a matrix, and such behind an activation."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxvid.layers.backend import backend
from jaxvid.layers.spread import lie, lie_hidden, splits_heads, used_by_heads


class Joined(nn.Module):
    """`count` linear layers of `width` channels, with one matrix and one bias side by side.

    The channels of each are those of `heads`, which a mesh may split.
    """

    width: int
    count: int
    heads: int
    use_bias: bool = True
    kernel_init: Callable[..., jax.Array] = nn.initializers.lecun_normal()
    bias_init: Callable[..., jax.Array] = nn.initializers.zeros
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> list[jax.Array]:
        """Maps x [..., C] to `count` times [..., width]."""
        size = self.count * self.width
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], size), jnp.float32)
        bias = self.param("bias", self.bias_init, (size,)) if self.use_bias else None
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        return joined(x, kernel, bias, self.count, self.heads)


def joined(
    x: jax.Array, kernel: jax.Array, bias: jax.Array | None, count: int, heads: int
) -> list[jax.Array]:
    """What `count` linear layers side by side in one matrix make of x [..., C].

    Over a mesh that splits their heads they are brought apart first, so that a device makes of each
    what belongs to its heads.
    """
    if not splits_heads(heads):
        y = jax.lax.dot_general(x, kernel, (((x.ndim - 1,), (0,)), ((), ())))
        y = y if bias is None else y + bias.reshape((1,) * (y.ndim - 1) + (-1,))
        return jnp.split(y, count, axis=-1)
    kernel = used_by_heads(jnp.stack(jnp.split(kernel, count, axis=-1)))
    y = jnp.einsum("...i,kio->k...o", x, kernel)
    if bias is not None:
        y = y + used_by_heads(bias.reshape(count, *[1] * (y.ndim - 2), -1))
    return list(lie(y, None, "batch", *["any"] * (y.ndim - 3), "model"))


def from_heads(heads: int) -> Callable[..., jax.Array]:
    """The product of what `heads` found, [..., C], and a kernel [C, D], for `nn.Dense`.

    Over a mesh that splits the heads each device multiplies what its own found, and the products
    are added up. Left alone, all that they found would come together where nothing learns the
    kernel, as in a frozen trunk.
    """
    if not splits_heads(heads):
        return jax.lax.dot_general

    def product(y: jax.Array, kernel: jax.Array, *args: Any, **how: Any) -> jax.Array:
        kernel = lie(kernel, "model", *[None] * (kernel.ndim - 1))
        return jax.lax.dot_general(y, kernel, *args, **how)

    return product


def to_heads(heads: int) -> Callable[..., jax.Array]:
    """The product of x [..., C] and a kernel [C, D] whose channels D are those of `heads`.

    For `nn.Dense`, of one layer alone (see `Joined`): each device makes what belongs to its heads,
    and what the others made never comes to it, in the backward pass neither.
    """
    if not splits_heads(heads):
        return jax.lax.dot_general

    def product(x: jax.Array, kernel: jax.Array, *args: Any, **how: Any) -> jax.Array:
        kernel = lie(kernel, *[None] * (kernel.ndim - 1), "model")
        y = jax.lax.dot_general(x, kernel, *args, **how)
        return lie(y, "batch", *["any"] * (y.ndim - 2), "model")

    return product


def behind(
    activation: Callable[[jax.Array], jax.Array], layer: nn.Module, x: jax.Array
) -> jax.Array:
    """What a layer makes of the activation of hidden channels x [..., C].

    Of the two the backward pass is given x alone and computes the activation again, but on CPU,
    where that would take longer than reading it.
    """

    def call(layer: nn.Module, x: jax.Array) -> jax.Array:
        return layer(lie_hidden(activation(x)))

    return call(layer, x) if backend() == "cpu" else nn.remat(call)(layer, x)
