"""How well a network fills in masked cubes: the losses of held-out videos, and pictures of some."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxvid.config.parts import Data, Train
from jaxvid.layers import spread
from jaxvid.objectives import masking

PICTURES, MOMENTS = 4, 8
"""How many videos of a batch are shown in pictures, and how many frames of each."""

Prepare = Callable[[jax.Array], jax.Array]
Tested = Callable[[Any, jax.Array, jax.Array], jax.Array]
"""From variables, video uint8 [B, V, T, H, W, C] and the videos' numbers [B].

Masks are drawn from the seed and these numbers, so that they are the same in each test.
"""


def task_of(model: nn.Module, train: Train, data: Data) -> masking.Task:
    """What the network is asked where a config trains or tests it so."""
    scale = None if train.normalize_cubes else (data.mean, data.std)
    return masking.Task(model.cubes, train.mask_ratio, train.decoder_mask_ratio, scale)


def make_scorer(model: nn.Module, task: masking.Task, prepare: Prepare, seed: int) -> Tested:
    """A function that gives the losses [B, 1], means over views, which are scanned one by one.

    `prepare` normalises clips; `seed` is that of the masks.
    """
    answer = _make_answer(model, task, prepare, seed)

    def score(variables: Any, video: jax.Array, numbers: jax.Array) -> jax.Array:
        def one(total: jax.Array, view: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
            clips, place = view
            pixels, masks = answer(variables, clips, numbers, place)
            sums, counts = masking.errors(clips, pixels, masks, task.cubes, task.scale)
            return total + sums / counts, None

        batch, views = video.shape[:2]
        clips = jnp.moveaxis(video, 1, 0)
        total, _ = jax.lax.scan(one, jnp.zeros(batch, jnp.float32), (clips, jnp.arange(views)))
        return (total / views)[:, None]

    return score


def make_filler(model: nn.Module, task: masking.Task, prepare: Prepare, seed: int) -> Tested:
    """A function that gives pictures uint8 [N, 3, T, H, W, C]; see `masking.fill_in`.

    They are of the first view of the first `PICTURES` videos of a batch, `MOMENTS` frames of each.
    Whatever share the decoder is trained to answer for, here it fills in all.
    """
    answer = _make_answer(model, task._replace(decoder_ratio=0.0), prepare, seed)

    def fill(variables: Any, video: jax.Array, numbers: jax.Array) -> jax.Array:
        clips = video[:, 0]
        pixels, masks = answer(variables, clips, numbers, 0)
        pictures = masking.fill_in(clips, pixels, masks, task.cubes, task.scale)[:PICTURES]
        length = pictures.shape[2]
        return pictures[:, :, np.linspace(0, length - 1, min(length, MOMENTS)).astype(int)]

    return fill


def _make_answer(
    model: nn.Module, task: masking.Task, prepare: Prepare, seed: int
) -> Callable[..., tuple[jax.Array, masking.Masks]]:
    """(variables, clips uint8 [B, T, H, W, C], numbers [B], view) -> what is answered to masks."""

    def answer(
        variables: Any, clips: jax.Array, numbers: jax.Array, view: jax.Array | int
    ) -> tuple[jax.Array, masking.Masks]:
        key = jax.random.fold_in(jax.random.key(seed), view)
        keys = jax.vmap(lambda number: jax.random.fold_in(key, number))(numbers)
        masks = masking.masks_of(task, keys, clips.shape[1:])
        pixels, _ = model.apply(
            spread.whole_variables(model, variables),
            prepare(clips),
            train=False,
            visible=masks.visible,
            decoded=masks.decoded,
        )
        return pixels, masks

    return answer
