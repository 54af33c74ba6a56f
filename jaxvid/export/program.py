"""The program that is exported: from frames or clips to answers, on each platform as it is best."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxvid.config.parts import Config, Test
from jaxvid.layers.backend import tracing_for
from jaxvid.layers.preprocess import normalizer
from jaxvid.objectives import losses

Program = Callable[[Any, jax.Array], jax.Array]
"""From a network's variables and video [B, T, H, W, C] to answers [B, classes]."""


def make_program(network: Any, config: Config, preprocess: tuple[int, int] | None) -> Program:
    """The function (variables, video) -> answers that is exported; see `export`."""

    def answer(variables: Any, video: jax.Array) -> jax.Array:
        return network.apply(variables, video, train=False)[0]

    if not preprocess:
        return answer
    normalize = normalizer(config.data)

    def answer_frames(variables: Any, video: jax.Array) -> jax.Array:
        logits = answer(variables, normalize(central_crop(video, config.test)))
        return losses.probabilities(config.train.loss, logits)

    return answer_frames


def central_crop(video: jax.Array, test: Test) -> jax.Array:
    """Resizes and crops frames uint8 [B, T, H, W, C] as the test does: float32, whole numbers."""
    *start, height, width, channels = video.shape
    crop = test.crop
    scale = test.short_side / min(height, width)
    size = [int(side * scale + 0.5) for side in (height, width)]
    if test.crops == "whole":
        size = [crop, crop]
    video = video.astype(jnp.float32)
    if size != [height, width]:
        video = jax.image.resize(video, (*start, *size, channels), "linear", antialias=False)
    top, left = ((side - crop) // 2 for side in size)
    if test.crops == "left":
        top, left = (0, left) if size[0] > size[1] else (top, 0)
    return jnp.round(video[..., top : top + crop, left : left + crop, :])


def for_platforms(program: Program, platforms: Sequence[str]) -> Program:
    """The program as each platform is to compute it; which one it is shows when it is run."""

    def traced_for(backend: str) -> Program:
        def run(variables: Any, video: jax.Array) -> jax.Array:
            with tracing_for(backend):
                return program(variables, video)

        return run

    if len(platforms) == 1:
        return traced_for(platforms[0])
    # JAX lowers what is for one platform for all of them, which no kernel of a chip's survives.
    if "cpu" not in platforms:
        return traced_for("any")
    return lambda variables, video: jax.lax.platform_dependent(
        variables, video, cpu=traced_for("cpu"), default=traced_for("any")
    )
