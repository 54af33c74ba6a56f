"""Parameter-free operations along time."""

import functools
from typing import cast

import jax
import jax.numpy as jnp

from jaxvid.layers import lanes
from jaxvid.layers.backend import backend


def temporal_shift(x: jax.Array, divisor: int = 8) -> jax.Array:
    """Moves a share of the channels one frame along time (TSM; Lin, Gan and Han, 2019).

    Of the C channels of x [B, T, H, W, C] the first C // divisor come from the next frame, the
    second C // divisor from the previous one, the rest stay; zeros enter at both ends.
    """
    if backend() == "tpu":
        packed, fold = lanes.packed(x), x.shape[-1] // divisor
        return _selected_shift(packed, x.shape[-1], fold).reshape(x.shape)
    fold = x.shape[-1] // divisor
    zeros = jnp.zeros_like(x[:, :1, ..., :fold])
    future = jnp.concatenate([x[:, 1:, ..., :fold], zeros], axis=1)
    past = jnp.concatenate([zeros, x[:, :-1, ..., fold : 2 * fold]], axis=1)
    return jnp.concatenate([future, past, x[..., 2 * fold :]], axis=-1)


# Each slice of the channels would be written out on TPU, and so would its gradient: lanes of 128
# are cheaper to read whole and to select from, in one pass.
@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _selected_shift(x: jax.Array, channels: int, fold: int) -> jax.Array:
    return _select(x, channels, fold, 1)


def _select(x: jax.Array, channels: int, fold: int, step: int) -> jax.Array:
    """Takes `fold` channels from `step` frames later, the next `fold` from as much earlier.

    The last axis of x may hold all channels several times over, see `lanes`.
    """
    axis = x.ndim - 1
    channel = jax.lax.broadcasted_iota(jnp.int32, (1,) * axis + x.shape[-1:], axis) % channels

    def moved(by: int) -> jax.Array:
        ends = [(by, -by, 0) if a == 1 else (0, 0, 0) for a in range(x.ndim)]
        return jax.lax.pad(x, jnp.zeros((), x.dtype), ends)

    later, earlier = moved(-step), moved(step)
    return jnp.where(channel < fold, later, jnp.where(channel < 2 * fold, earlier, x))


_selected_shift.defvjp(
    lambda x, channels, fold: (_selected_shift(x, channels, fold), None),
    lambda channels, fold, _, dy: (_select(dy, channels, fold, -1),),
)


def temporal_conv_per_sample(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolves every channel of every sample along time with a kernel of its own.

    Takes x [B, T, H, W, C] and kernel [B, t, C], t odd; a frame meets tap t // 2, the frame after
    it the next one (cross-correlation), zeros lie beyond both ends.
    """
    taps, frames = kernel.shape[1], x.shape[1]
    x = jnp.pad(x, ((0, 0), (taps // 2, taps // 2), (0, 0), (0, 0), (0, 0)))
    kernel = kernel[:, :, None, None, None, :]
    total = sum(x[:, tap : tap + frames] * kernel[:, tap] for tap in range(taps))
    return cast(jax.Array, total)


def motion_of(video: jax.Array) -> jax.Array:
    """What moves in video [B, T, H, W, C]: [B, T - 1, H, W, 2 C], blind to what stands still.

    First how each frame but the first differs from the clip's mean, which shows where things are;
    then how it differs from the frame before (the RGB difference of Wang et al., "Temporal Segment
    Networks", 2016). Both are scaled to spread about as much as normalised pixels do.
    """
    still = video - video.mean(1, keepdims=True)
    change = video[:, 1:] - video[:, :-1]
    return jnp.concatenate([1.5 * still[:, 1:], 2 * change], axis=-1)
