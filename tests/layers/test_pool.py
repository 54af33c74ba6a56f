"""Max-pooling: its values, and its gradient as XLA defines it, ties and padding included."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvid.layers.pool import max_pool

GEOMETRIES = [
    ((1, 3, 3), (1, 2, 2), (0, 1, 1)),
    ((1, 3, 3), (2, 2, 2), (0, 0, 0)),
    ((2, 1, 1), (2, 1, 1), (0, 0, 0)),
    ((2, 2, 2), (2, 2, 2), (0, 1, 1)),
    ((3, 3, 3), (2, 1, 2), (1, 1, 1)),
]


def of_xla(x, window, stride, padding):
    return nn.max_pool(x, window, stride, [(p, p) for p in padding])


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_values_and_gradients_are_those_of_xla(geometry):
    rng = np.random.default_rng(0)
    # Few values, so that most windows hold several of the largest.
    x = jnp.asarray(rng.integers(-3, 1, (2, 5, 8, 7, 3)), jnp.float32)
    wanted, backward = jax.vjp(lambda x: of_xla(x, *geometry), x)
    found, ours = jax.vjp(lambda x: max_pool(x, *geometry), x)
    np.testing.assert_array_equal(found, wanted)
    cotangent = jnp.asarray(rng.normal(size=wanted.shape), jnp.float32)
    np.testing.assert_allclose(ours(cotangent)[0], backward(cotangent)[0], atol=1e-6)


def test_half_precision_stays_and_nan_shows():
    x = jnp.ones((1, 2, 4, 4, 1), jnp.bfloat16).at[0, 0, 0, 0, 0].set(jnp.nan)
    y, backward = jax.vjp(lambda x: max_pool(x, *GEOMETRIES[0]), x)
    assert y.dtype == backward(y)[0].dtype == jnp.bfloat16
    assert np.isnan(np.asarray(y, np.float32)).tolist()[0] == [
        [[[True], [False]], [[False], [False]]],
        [[[False], [False]], [[False], [False]]],
    ]
