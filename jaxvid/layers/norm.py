"""Batch and layer normalisation with the semantics that published weights assume."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxvid.layers import lanes, spread
from jaxvid.layers.backend import backend, target_mesh


class BatchNorm(nn.Module):
    """Batch normalisation over every axis but the last (Ioffe and Szegedy, 2015), as in PyTorch.

    `momentum` is the weight of the new batch in the running statistics (PyTorch's meaning, one
    minus flax's), and the running variance is the unbiased one. Statistics are computed and kept
    in float32 or wider. Under `jit` with a sharded batch they are those of the global batch, or
    those of each of `groups` parts of it. Over a mesh devices exchange two numbers a channel once
    in each direction.
    """

    epsilon: float = 1e-5
    momentum: float = 0.1
    scale_init: nn.initializers.Initializer = nn.initializers.ones
    dtype: Any = None

    @nn.compact
    def __call__(
        self, x: jax.Array, train: bool = False, groups: int = 1, measure: bool = False
    ) -> jax.Array:
        """Normalises x [B, ..., C]; with `train` by the batch's own statistics.

        The batch may be parted in `groups` of equally many clips that follow one another, each
        normalised by its own; the running statistics take in the mean of theirs. With `measure`
        these become the whole batch's mean and biased variance, whatever they were.
        """
        channels, shape = x.shape[-1], x.shape
        scale = self.param("scale", self.scale_init, (channels,))
        bias = self.param("bias", nn.initializers.zeros, (channels,))
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,))
        running_var = self.variable("batch_stats", "var", jnp.ones, (channels,))
        wide = jnp.promote_types(jnp.promote_types(x.dtype, scale.dtype), jnp.float32)
        if train:
            y = None
            if _at_once(x, groups):
                y, mean, var = _normalize(
                    lanes.packed(x), scale, bias, running_mean.value, self.epsilon, groups
                )
            else:
                mean, var = _moments(x.astype(wide), groups)
            if measure:
                running_mean.value = mean.mean(0)
                running_var.value = (var + jnp.square(mean - mean.mean(0))).mean(0)
            elif not self.is_initializing():
                count = x.size // channels // groups
                unbiased = var * (count / max(count - 1, 1))
                keep = 1 - self.momentum
                running_mean.value = keep * running_mean.value + self.momentum * mean.mean(0)
                running_var.value = keep * running_var.value + self.momentum * unbiased.mean(0)
            if y is not None:
                return y.astype(self.dtype or x.dtype).reshape(shape)
            mean, var = (_spread(each, x) for each in (mean, var))
        else:
            mean, var = running_mean.value, running_var.value
        # One multiply and one add per element: the rest is per channel.
        factor = scale * jax.lax.rsqrt(var + self.epsilon)
        offset = bias - mean * factor
        if not train:
            x = lanes.packed(x)
            factor, offset = (jnp.tile(v, x.shape[-1] // channels) for v in (factor, offset))
        y = x.astype(wide) * factor + offset
        return y.astype(self.dtype or x.dtype).reshape(shape)


def _at_once(x: jax.Array, groups: int) -> bool:
    """Whether x [B, ..., C] is normalised by sums that are taken, and exchanged, at once.

    XLA on CPU is quicker with two passes, where there is nothing to exchange.
    """
    mesh = target_mesh()
    if mesh is None or mesh.size == 1:
        return backend() != "cpu"
    return spread.divides(len(x)) and spread.has_whole_groups(groups)


_Kept = tuple[jax.Array, jax.Array, jax.Array, jax.Array, jax.Array]


def _forward(
    x: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    center: jax.Array,
    epsilon: float,
    groups: int,
) -> tuple[tuple[jax.Array, jax.Array, jax.Array], _Kept]:
    """Normalises each of the groups of x [B, ..., C] by its own mean and biased variance.

    These, [groups, C], are returned too, and have no gradient. The last axis of x may hold its C
    channels several times over, see `lanes`. Squares are taken of distances to `center`, the
    running mean, which is near enough to theirs that little cancels.
    """
    wide = jnp.promote_types(jnp.promote_types(x.dtype, scale.dtype), jnp.float32)
    copies, count = x.shape[-1] // len(scale), x.size // len(scale) // groups

    def sums(x: jax.Array) -> jax.Array:
        return _sums(far := x.astype(wide) - jnp.tile(center, copies), jnp.square(far))

    shift, square = _per_channel(spread.total(sums, groups, x) / count, copies)
    mean, var = center + shift, jnp.maximum(square - jnp.square(shift), 0)
    inverse = jax.lax.rsqrt(var + epsilon)
    factor = scale * inverse
    offset = bias - mean * factor
    y = (x.astype(wide) * _spread(factor, x) + _spread(offset, x)).astype(x.dtype)
    return (y, mean, var), (x, scale, center, mean, inverse)


def _backward(
    epsilon: float,
    groups: int,
    kept: _Kept,
    gradients: tuple[jax.Array, jax.Array, jax.Array],
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    x, scale, center, mean, inverse = kept
    dy = gradients[0].astype(mean.dtype)
    copies, count = x.shape[-1] // len(scale), x.size // len(scale) // groups

    def sums(x: jax.Array, dy: jax.Array) -> jax.Array:
        return _sums(dy, dy * (x - jnp.tile(center, copies)))

    dbias, turn = _per_channel(spread.total(sums, groups, x, dy), copies)
    dscale = inverse * (turn - (mean - center) * dbias)
    far = (x - _spread(mean, x)) * _spread(inverse, x)
    dx = dy - _spread(dbias / count, x) - far * _spread(dscale / count, x)
    dx = (_spread(scale * inverse, x) * dx).astype(x.dtype)
    # The center moves nothing.
    return (
        dx,
        dscale.sum(0).astype(scale.dtype),
        dbias.sum(0).astype(scale.dtype),
        jnp.zeros_like(center),
    )


_normalize = jax.custom_vjp(
    lambda x, scale, bias, center, epsilon, groups: _forward(
        x, scale, bias, center, epsilon, groups
    )[0],
    nondiff_argnums=(4, 5),
)
_normalize.defvjp(_forward, _backward)


def _sums(*each: jax.Array) -> jax.Array:
    """Sums [groups, n, C] of n arrays [groups, B, ..., C]."""
    return jnp.stack([x.sum(tuple(range(1, x.ndim - 1))) for x in each], axis=1)


def _per_channel(sums: jax.Array, copies: int) -> tuple[jax.Array, jax.Array]:
    """Two times [groups, C] of [groups, 2, copies * C]: what the copies of each channel have."""
    groups = len(sums)
    sums = sums.reshape(groups, 2, copies, -1).sum(2)
    return sums[:, 0], sums[:, 1]


def _moments(x: jax.Array, groups: int) -> tuple[jax.Array, jax.Array]:
    """Mean and biased variance [groups, C] of x [B, ..., C], by two passes (no cancellation)."""

    def average(x: jax.Array) -> jax.Array:
        if groups == 1:
            return x.mean(tuple(range(x.ndim - 1)))[None]
        # Each clip's own first: so devices exchange these small arrays only, and never clips,
        # whatever part of the batch they hold.
        return x.mean(tuple(range(1, x.ndim - 1))).reshape(groups, -1, x.shape[-1]).mean(1)

    mean = average(x)
    return mean, average(jnp.square(x - _spread(mean, x)))


def _spread(each: jax.Array, x: jax.Array) -> jax.Array:
    """Gives every clip of x [B, ..., C] what its group has of `each` [groups, C].

    The last axis of x may hold its C channels several times over.
    """
    each = jnp.tile(each, x.shape[-1] // each.shape[-1])
    if len(each) == 1:
        return each[0]
    each = jnp.repeat(each, len(x) // len(each), axis=0)
    return each.reshape(len(x), *[1] * (x.ndim - 2), -1)


class LayerNorm(nn.Module):
    """Layer normalisation over the last axis (Ba et al., 2016), its variance as in PyTorch.

    The variance is the mean square of distances to the mean. Both are computed in float32 or wider.
    With `from_one` the scale is a parameter and 1, as in networks of Praxis.
    """

    epsilon: float = 1e-6
    bias_init: nn.initializers.Initializer = nn.initializers.zeros
    dtype: Any = None
    from_one: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalises x [..., C]; the result has `dtype`, or what x and parameters promote to."""
        init = nn.initializers.zeros if self.from_one else nn.initializers.ones
        scale = self.param("scale", init, x.shape[-1:], jnp.float32)
        if self.from_one:
            scale = scale + 1
        bias = self.param("bias", self.bias_init, x.shape[-1:], jnp.float32)
        dtype = nn.dtypes.canonicalize_dtype(x, scale, bias, dtype=self.dtype)
        if backend() == "cpu":
            return _layer_forward(x, scale, bias, self.epsilon, dtype)[0]
        return _normalize_each(x, scale, bias, self.epsilon, dtype)


_LayerKept = tuple[jax.Array, jax.Array, jax.Array, jax.Array]


def _layer_forward(
    x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float, dtype: Any
) -> tuple[jax.Array, _LayerKept]:
    """x [..., C] normalised, and what its gradient needs: for each token two numbers beside it."""
    wide = jnp.promote_types(jnp.promote_types(x.dtype, dtype), jnp.float32)
    wide_x = x.astype(wide)
    mean = wide_x.mean(-1)
    var = jnp.square(wide_x - mean[..., None]).mean(-1)
    inverse = jax.lax.rsqrt(var + epsilon)
    y = (x - mean[..., None]) * (inverse[..., None] * scale) + bias
    return y.astype(dtype), (x, scale, mean, inverse)


def _layer_backward(
    epsilon: float, dtype: Any, kept: _LayerKept, dy: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    x, scale, mean, inverse = kept
    dy, every = dy.astype(mean.dtype), tuple(range(x.ndim - 1))
    far = (x - mean[..., None]) * inverse[..., None]
    dfar = dy * scale
    shift, turn = dfar.mean(-1, keepdims=True), (dfar * far).mean(-1, keepdims=True)
    dx = inverse[..., None] * (dfar - shift - far * turn)
    dscale, dbias = (dy * far).sum(every), dy.sum(every)
    return dx.astype(x.dtype), dscale.astype(scale.dtype), dbias.astype(scale.dtype)


# Differentiated step by step, what is kept of x for the backward pass is wide, twice or four times
# over; on CPU that is no slower, and stays as it was.
_normalize_each = jax.custom_vjp(
    lambda x, scale, bias, epsilon, dtype: _layer_forward(x, scale, bias, epsilon, dtype)[0],
    nondiff_argnums=(3, 4),
)
_normalize_each.defvjp(_layer_forward, _layer_backward)
