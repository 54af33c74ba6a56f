"""Features of videos: the intermediates of a network by name."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from jaxvid.base.errors import JaxvidError
from jaxvid.layers.preprocess import normalizer

Extractor = Callable[[Any, np.ndarray], dict[str, np.ndarray]]


def make_extractor(
    network: nn.Module,
    config: ml_collections.ConfigDict,
    names: Sequence[str],
    pooled: bool,
    variables: Any,
    clip_shape: tuple[int, ...],
) -> Extractor:
    """A function (variables, views uint8 [V, T, H, W, C]) -> intermediates by name, as float32.

    Pooled ones are [C], the mean over all views and positions; others keep both: [V, ..., C].
    Views are taken `config.test.views_per_step` at a time.

    Args:
      network: a model that returns its intermediates by name beside the logits.
      config: its normalisation and `test.views_per_step` are read.
      names: of the intermediates.
      pooled: whether to average.
      variables: of the network; only their shapes are looked at.
      clip_shape: [T, H, W, C] of a view.

    Raises:
      JaxvidError: the network has no intermediate of a name.
    """
    clip = jax.ShapeDtypeStruct((1, *clip_shape), jnp.float32)
    _, known = jax.eval_shape(lambda v, x: network.apply(v, x, train=False), variables, clip)
    for name in names:
        if name not in known:
            there = ", ".join(f"{key} {list(leaf.shape[1:])}" for key, leaf in known.items())
            raise JaxvidError(f"the network has no intermediate {name!r}: it has {there}")
    normalize = normalizer(config.data)

    @jax.jit
    def extract(variables: Any, views: jax.Array) -> dict[str, jax.Array]:
        clips = normalize(views)
        _, out = network.apply(variables, clips, train=False)
        found = {name: out[name].astype(jnp.float32) for name in names}
        if pooled:
            found = {name: x.reshape(len(x), -1, x.shape[-1]).mean(1) for name, x in found.items()}
        return found

    def run(variables: Any, views: np.ndarray) -> dict[str, np.ndarray]:
        # Equal steps, so that one program does for all.
        at_once = max(1, min(config.test.views_per_step, len(views)))
        step = max(k for k in range(1, at_once + 1) if len(views) % k == 0)
        parts = [
            jax.device_get(extract(variables, jnp.asarray(views[start : start + step])))
            for start in range(0, len(views), step)
        ]
        found = {name: np.concatenate([part[name] for part in parts]) for name in names}
        return {name: array.mean(0) for name, array in found.items()} if pooled else found

    return run
