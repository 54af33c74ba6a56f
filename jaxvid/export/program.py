"""The program that is exported: from frames or clips to answers, on each platform as it is best."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp

from jaxvid.config.parts import Config, Test
from jaxvid.layers import streaming
from jaxvid.layers.backend import tracing_for
from jaxvid.layers.preprocess import normalizer
from jaxvid.objectives import losses

Named = dict[str, Any]
"""The arrays of a state by names that all programs may give their arguments; {} of none."""
_BETWEEN = "__"  # the words of such a name

Program = Callable[[Any, jax.Array, Named], tuple[jax.Array, Named]]
"""From variables, video [B, T, H, W, C] and state to answers [B, classes] and the new state."""


def first_state(network: Any, variables: Any, clip: jax.ShapeDtypeStruct) -> Named:
    """The state before the first frame of one stream, given as many at a time as `clip` has.

    Raises:
      JaxvidError: the network carries none.
    """
    clips = jax.ShapeDtypeStruct((1, *clip.shape), clip.dtype)
    return _named(streaming.begin(network, variables, clips))


def _named(state: streaming.State) -> Named:
    return flax.traverse_util.flatten_dict({"state": state}, sep=_BETWEEN)


def make_program(network: Any, config: Config, preprocess: tuple[int, int] | None) -> Program:
    """The function (variables, video, state) -> (answers, state) that is exported; see `export`."""

    def answer(variables: Any, video: jax.Array, state: Named) -> tuple[jax.Array, Named]:
        if not state:
            return network.apply(variables, video, train=False)[0], {}
        nested = flax.traverse_util.unflatten_dict(state, sep=_BETWEEN)["state"]
        (logits, _), carried = streaming.step(network, variables, nested, video)
        return logits, _named(carried)

    if not preprocess:
        return answer
    normalize = normalizer(config.data)

    def answer_frames(variables: Any, video: jax.Array, state: Named) -> tuple[jax.Array, Named]:
        clips = normalize(central_crop(video, config.test))
        logits, state = answer(variables, clips, state)
        return losses.probabilities(config.train.loss, logits), state

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


def for_platforms(program: Callable[..., Any], platforms: Sequence[str]) -> Callable[..., Any]:
    """The program as each platform is to compute it; which one it is shows when it is run."""

    def traced_for(backend: str) -> Callable[..., Any]:
        def run(*given: Any) -> Any:
            with tracing_for(backend):
                return program(*given)

        return run

    if len(platforms) == 1:
        return traced_for(platforms[0])
    # JAX lowers what is for one platform for all of them, which no kernel of a chip's survives.
    if "cpu" not in platforms:
        return traced_for("any")
    return lambda *given: jax.lax.platform_dependent(
        *given, cpu=traced_for("cpu"), default=traced_for("any")
    )
