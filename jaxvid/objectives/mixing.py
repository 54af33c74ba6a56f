"""Mixup and CutMix: each clip of a batch is blended with another, and its label with the other's.

Both happen on the device, inside the step, and are functions of a key.
"""

import dataclasses

import jax
import jax.numpy as jnp

from jaxvid.base.errors import JaxvidError
from jaxvid.rows import UNKNOWN


@dataclasses.dataclass(frozen=True)
class Mixing:
    """How clips are blended.

    Attributes:
        mixup: alpha of the Beta(alpha, alpha) that mixup (Zhang et al., 2018) draws the weights of
            two clips from; 0 is no mixup.
        cutmix: alpha of the Beta(alpha, alpha) that CutMix (Yun et al., 2019) draws the share of
            the picture from that a clip keeps; 0 is no CutMix.
        switch: where both are on, the probability that a clip gets CutMix.
        repeats: how many clips of the same video follow one another in a batch.
    """

    mixup: float = 0.0
    cutmix: float = 0.0
    switch: float = 0.5
    repeats: int = 1

    def __post_init__(self) -> None:
        for name in ("mixup", "cutmix"):
            if getattr(self, name) < 0:
                raise JaxvidError(
                    f"config.train.{name} is {getattr(self, name)}: give an alpha above 0, or 0"
                )
        if not 0 <= self.switch <= 1:
            raise JaxvidError(
                f"config.train.mixup_switch_prob is {self.switch}: give a probability"
            )

    def __bool__(self) -> bool:
        """Whether there is anything to do."""
        return self.mixup > 0 or self.cutmix > 0


def key_of(seed: int, step: jax.typing.ArrayLike) -> jax.Array:
    """What the blends of a training's step are drawn from."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), step), 1)


def mix(
    how: Mixing, key: jax.Array, video: jax.Array, labels: jax.Array, num_classes: int
) -> tuple[jax.Array, jax.Array]:
    """Blends each clip with one of the video before it in the batch.

    A batch is in random order already, so this is a random other video; and neighbours are near
    where a batch is divided over devices. Weights are drawn clip by clip, so that they do not
    depend on how it is divided.

    Args:
        how: the settings.
        key: what everything is drawn from.
        video: pixels [B, T, H, W, C] of any scale.
        labels: integers [B], or [B, num_classes] where a clip may have several.
        num_classes: how many classes there are.

    Returns:
        float32 video [B, T, H, W, C] and the labels' probabilities [B, num_classes], NaN where one
        of the two labels is `UNKNOWN`.
    """
    batch, _, height, width, _ = video.shape
    weight, kept = draw(how, key, batch, height, width)
    other = jnp.roll(video, how.repeats, axis=0).astype(jnp.float32)
    mixed = weight * video.astype(jnp.float32) + (1 - weight) * other
    if labels.ndim == 1:
        own = jax.nn.one_hot(labels, num_classes)
    else:
        own = jnp.where(labels == UNKNOWN, jnp.nan, labels.astype(jnp.float32))
    kept = kept[:, None]
    return mixed, kept * own + (1 - kept) * jnp.roll(own, how.repeats, axis=0)


def draw(
    how: Mixing, key: jax.Array, batch: int, height: int, width: int
) -> tuple[jax.Array, jax.Array]:
    """How much clips keep: of each pixel [B, 1, H, W, 1], and of their labels [B]."""
    which, weights, rows, columns = jax.random.split(key, 4)
    chance = how.switch if how.mixup and how.cutmix else float(how.cutmix > 0)
    is_cut = jax.random.bernoulli(which, chance, (batch,))
    alpha = jnp.where(is_cut, how.cutmix, how.mixup)
    share = jax.random.beta(weights, alpha, alpha)

    side = jnp.sqrt(1 - share)
    box = _span(rows, side, height)[:, :, None] & _span(columns, side, width)[:, None, :]
    # The box is cut at the rim: its label counts for what is left of it.
    kept = jnp.where(is_cut, 1 - box.mean((1, 2)), share)
    weight = jnp.where(is_cut[:, None, None], ~box, share[:, None, None])[:, None, :, :, None]
    return weight, kept


def _span(key: jax.Array, share: jax.Array, size: int) -> jax.Array:
    """Marks [B, size] that share [B] of a side, around a random place and cut at its ends."""
    half = jnp.floor(size * share).astype(jnp.int32) // 2
    middle = jax.random.randint(key, share.shape, 0, size)
    place = jnp.arange(size)
    return (place >= (middle - half)[:, None]) & (place < (middle + half)[:, None])
