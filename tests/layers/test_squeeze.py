"""Squeeze-and-excitation against its definition, and the rounding of its width."""

import jax
import numpy as np
import pytest

from jaxvid.layers.squeeze import SqueezeExcite, rounded_width


@pytest.mark.parametrize(
    "channels, hidden", [(40, 8), (54, 8), (192, 16), (216, 16), (320, 24), (384, 24), (432, 32)]
)
def test_widths_are_the_published(channels, hidden):
    # 432 / 16 = 27 is nearest to 24, but that is more than a tenth less.
    assert rounded_width(channels / 16) == hidden


def test_channels_are_scaled_by_what_their_means_say():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 3, 4, 5, 6)).astype(np.float32)
    layer = SqueezeExcite(hidden=4)
    shapes = jax.eval_shape(layer.init, jax.random.key(0), x)
    variables = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)
    fc1, fc2 = variables["params"]["fc1"], variables["params"]["fc2"]
    hidden = np.maximum(x.mean((1, 2, 3)) @ fc1["kernel"][0, 0, 0] + fc1["bias"], 0)
    scale = 1 / (1 + np.exp(-(hidden @ fc2["kernel"][0, 0, 0] + fc2["bias"])))
    wanted = x * scale[:, None, None, None]
    np.testing.assert_allclose(layer.apply(variables, x), wanted, atol=1e-5)
