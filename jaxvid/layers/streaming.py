"""Networks that take a video a few frames at a time, and carry a state from each time to the next.

A network whose field `causal` is true sees the past alone. Then `step` answers for the frames so
far as `model.apply` would for all of them at once:

    state = streaming.begin(model, variables, frames)
    (logits, out), state = streaming.step(model, variables, state, frames)  # frames [B, t, H, W, C]

The state is flax's collection `stream`, nested dicts of arrays [B, ...] that are zero in the
beginning: several streams make a batch, and each may begin anew on its own.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxvid.base.errors import JaxvidError

STATE = "stream"
State = dict[str, Any]


def can_stream(model: nn.Module) -> bool:
    """Whether a network sees the past alone, and so can carry a state."""
    return bool(getattr(model, "causal", False))


def begin(model: nn.Module, variables: Any, video: Any) -> State:
    """The state before the first frame of streams like video [B, t, H, W, C], whatever t is.

    Of `video` only shape and type are looked at.

    Raises:
      JaxvidError: the network is not causal.
    """
    if not can_stream(model):
        raise JaxvidError(
            f"{type(model).__name__} sees frames that are still to come, so it carries no state: "
            "take a causal network, such as movinet_a0_stream"
        )
    shapes = jax.eval_shape(lambda v, x: step(model, v, {}, x)[1], variables, video)
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)


def step(
    model: nn.Module, variables: Any, state: State, video: jax.Array
) -> tuple[tuple[jax.Array, dict[str, jax.Array]], State]:
    """What a network answers after further frames, video [B, t, H, W, C], and its new state.

    Logits [B, classes] are those of all frames so far, intermediates those of the frames given.
    """
    answer, carried = model.apply({**variables, STATE: state}, video, train=False, mutable=[STATE])
    return answer, carried[STATE]


def _carries(module: nn.Module) -> bool:
    return module.is_mutable_collection(STATE) and not module.is_initializing()


class WithPast(nn.Module):
    """Puts before the frames at hand as many that came before them, or zeros at the beginning."""

    frames: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps x [B, T, ...] to [B, frames + T, ...]."""
        shape = (x.shape[0], self.frames, *x.shape[2:])
        if not _carries(self):
            return jnp.concatenate([jnp.zeros(shape, x.dtype), x], axis=1)
        past = self.variable(STATE, "past", jnp.zeros, shape, x.dtype)
        x = jnp.concatenate([past.value, x], axis=1)
        past.value = x[:, x.shape[1] - self.frames :]
        return x


class MeanSoFar(nn.Module):
    """The mean of each frame and all before it, summed in float32 or wider."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps x [B, T, ...] to the same shape."""
        batch, frames, *rest = x.shape
        wide = jnp.promote_types(x.dtype, jnp.float32)
        total = jnp.cumsum(x.astype(wide), axis=1)
        count = jnp.arange(1, frames + 1)[None]
        if _carries(self):
            before = self.variable(STATE, "total", jnp.zeros, (batch, *rest), wide)
            number = self.variable(STATE, "count", jnp.zeros, (batch,), jnp.int32)
            total, count = total + before.value[:, None], count + number.value[:, None]
            before.value, number.value = total[:, -1], count[:, -1]
        return (total / count.reshape(*count.shape, *[1] * len(rest))).astype(x.dtype)
