"""What happens to pixels on the device, before the network: the same in training and test."""

from collections.abc import Callable, Sequence
from typing import Protocol

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxvid.base.errors import JaxvidError


class Pixels(Protocol):
    """What says how pixels enter a network, such as `config.data`."""

    @property
    def mean(self) -> Sequence[float]: ...

    @property
    def std(self) -> Sequence[float]: ...

    @property
    def channel_order(self) -> str: ...


def normalizer(data: Pixels, dtype: DTypeLike = jnp.float32) -> Callable[[jax.Array], jax.Array]:
    """`normalize` as `data` says, for video of pixels [..., C].

    Raises:
        JaxvidError: `data.channel_order` is neither `rgb` nor `bgr`.
    """
    mean, std, order = tuple(data.mean), tuple(data.std), data.channel_order
    if order not in ("rgb", "bgr"):
        raise JaxvidError(f"config.data.channel_order={order!r} is unknown: take rgb or bgr")

    def apply(video: jax.Array) -> jax.Array:
        pixels = normalize(video, mean, std, dtype)
        return pixels[..., ::-1] if order == "bgr" else pixels

    return apply


def normalize(
    video: jax.Array, mean: Sequence[float], std: Sequence[float], dtype: DTypeLike = jnp.float32
) -> jax.Array:
    """(video - mean) / std by channel of video [..., C] with pixels of 0..255, in float32.

    `mean` and `std` repeat over C where it is a multiple of their length (stacked optical flow).
    """
    repeats = video.shape[-1] // len(mean)
    mean_C = jnp.tile(jnp.asarray(mean, jnp.float32), repeats)
    scale_C = 1 / jnp.tile(jnp.asarray(std, jnp.float32), repeats)
    return ((video.astype(jnp.float32) - mean_C) * scale_C).astype(dtype)
