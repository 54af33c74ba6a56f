"""Features of videos: the intermediates of a network by name."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxvid.base.errors import JaxvidError

Extractor = Callable[[Any, np.ndarray], dict[str, np.ndarray]]


def make_extractor(
    network: nn.Module,
    prepare: Callable[[jax.Array], jax.Array],
    at_once: int,
    names: Sequence[str],
    pooled: bool,
    variables: Any,
    clip_shape: tuple[int, ...],
) -> Extractor:
    """A function (variables, views uint8 [V, T, H, W, C]) -> intermediates by name, as float32.

    Pooled ones are [C], the mean over all views and positions; others keep both: [V, ..., C].
    Views are taken `at_once` at a time.

    Args:
      network: a model that returns its intermediates by name beside the logits.
      prepare: what normalises clips.
      at_once: views of a step; fewer where equal steps need it.
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

    @jax.jit
    def extract(variables: Any, views: jax.Array) -> dict[str, jax.Array]:
        clips = prepare(views)
        _, out = network.apply(variables, clips, train=False)
        found = {name: out[name].astype(jnp.float32) for name in names}
        if pooled:
            found = {name: x.reshape(len(x), -1, x.shape[-1]).mean(1) for name, x in found.items()}
        return found

    def run(variables: Any, views: np.ndarray) -> dict[str, np.ndarray]:
        # Equal steps, so that one program does for all.
        most = max(1, min(at_once, len(views)))
        step = max(k for k in range(1, most + 1) if len(views) % k == 0)
        parts = [
            jax.device_get(extract(variables, jnp.asarray(views[start : start + step])))
            for start in range(0, len(views), step)
        ]
        found = {name: np.concatenate([part[name] for part in parts]) for name in names}
        return {name: array.mean(0) for name, array in found.items()} if pooled else found

    return run
