"""How well a network fills in masked cubes: the losses of held-out videos, and pictures of some."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from jaxvid.layers.preprocess import normalizer
from jaxvid.objectives import masking

PICTURES, MOMENTS = 4, 8
"""How many videos of a batch are shown in pictures, and how many frames of each."""

Tested = Callable[[Any, jax.Array, jax.Array], jax.Array]
"""From variables, video uint8 [B, V, T, H, W, C] and the videos' numbers [B].

Masks are drawn from the seed and these numbers, so that they are the same in each test.
"""


def make_scorer(model: nn.Module, config: ml_collections.ConfigDict) -> Tested:
    """A function that gives the losses [B, 1], means over views, which are scanned one by one."""
    answer = _make_answer(model, config, config.train.decoder_mask_ratio)
    cube, scale = masking.cube_of(model), masking.scale_of(config)

    def score(variables: Any, video: jax.Array, numbers: jax.Array) -> jax.Array:
        def one(total: jax.Array, view: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
            clips, place = view
            pixels, masks = answer(variables, clips, numbers, place)
            sums, counts = masking.errors(clips, pixels, masks, cube, scale)
            return total + sums / counts, None

        batch, views = video.shape[:2]
        clips = jnp.moveaxis(video, 1, 0)
        total, _ = jax.lax.scan(one, jnp.zeros(batch, jnp.float32), (clips, jnp.arange(views)))
        return (total / views)[:, None]

    return score


def make_filler(model: nn.Module, config: ml_collections.ConfigDict) -> Tested:
    """A function that gives pictures uint8 [N, 3, T, H, W, C]; see `masking.fill_in`.

    They are of the first view of the first `PICTURES` videos of a batch, `MOMENTS` frames of each.
    Whatever share the decoder is trained to answer for, here it fills in all.
    """
    answer = _make_answer(model, config, 0.0)
    cube, scale = masking.cube_of(model), masking.scale_of(config)

    def fill(variables: Any, video: jax.Array, numbers: jax.Array) -> jax.Array:
        clips = video[:, 0]
        pixels, masks = answer(variables, clips, numbers, 0)
        pictures = masking.fill_in(clips, pixels, masks, cube, scale)[:PICTURES]
        length = pictures.shape[2]
        return pictures[:, :, np.linspace(0, length - 1, min(length, MOMENTS)).astype(int)]

    return fill


def _make_answer(
    model: nn.Module, config: ml_collections.ConfigDict, decoder_ratio: float
) -> Callable[..., tuple[jax.Array, masking.Masks]]:
    """(variables, clips uint8 [B, T, H, W, C], numbers [B], view) -> what is answered to masks."""
    normalize = normalizer(config.data, jnp.dtype(config.model.dtype))
    seed, ratio = config.seed, config.train.mask_ratio
    cube = masking.cube_of(model)

    def answer(variables: Any, clips: jax.Array, numbers: jax.Array, view: jax.Array | int):
        key = jax.random.fold_in(jax.random.key(seed), view)
        keys = jax.vmap(lambda number: jax.random.fold_in(key, number))(numbers)
        masks = masking.draw(keys, masking.grid_of(clips.shape[1:], cube), ratio, decoder_ratio)
        pixels, _ = model.apply(
            variables,
            normalize(clips),
            train=False,
            visible=masks.visible,
            decoded=masks.decoded,
        )
        return pixels, masks

    return answer
