"""Gradients of kernels in float32 of layers that compute in bfloat16."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvid.layers.conv import Conv
from jaxvid.layers.linear import Joined
from jaxvid.layers.wide import wide_gradients
from jaxvid.models.mvit import HeadPool

NARROW = jnp.bfloat16
LAYERS = {
    "dense": (nn.Dense(8, dtype=NARROW), (5, 3, 6), ()),
    "joined": (Joined(8, 3, 2, dtype=NARROW), (5, 3, 6), ()),
    "conv": (Conv(4, (3, 3, 3), use_bias=True, dtype=NARROW), (2, 3, 5, 5, 6), ()),
    "pool": (HeadPool(2, (1, 2, 2), dtype=NARROW), (2, 33, 8), ((2, 4, 4),)),
}


def gradients(layer, params, x, rest, wide):
    """The loss and its gradients by the parameters and by x."""

    def loss(params, x):
        with wide_gradients(wide):
            answers = jax.tree.leaves(layer.apply({"params": params}, x, *rest))
        return sum((each.astype(jnp.float32) ** 2).mean() for each in answers)

    return jax.jit(jax.value_and_grad(loss, (0, 1)))(params, x)


def is_narrow(array):
    return bool((array == array.astype(NARROW).astype(array.dtype)).all())


@pytest.mark.parametrize("name", LAYERS)
def test_only_gradients_of_parameters_are_wider(name):
    layer, shape, rest = LAYERS[name]
    keys = jax.random.split(jax.random.key(0))
    x = jax.random.normal(keys[0], shape, NARROW)
    params = layer.init(keys[1], x, *rest)["params"]
    loss, (by_params, by_x) = gradients(layer, params, x, rest, wide=False)
    same, (by_params_wide, by_x_same) = gradients(layer, params, x, rest, wide=True)
    assert loss == same
    np.testing.assert_array_equal(by_x, by_x_same)
    assert is_narrow(by_params["kernel"]) and not is_narrow(by_params_wide["kernel"])
    for narrow, wide in zip(
        jax.tree.leaves(by_params), jax.tree.leaves(by_params_wide), strict=True
    ):
        np.testing.assert_allclose(narrow, wide, rtol=2e-2, atol=2e-2 * abs(wide).max())


def test_layers_in_float32_are_left_alone():
    layer, x = nn.Dense(8), jnp.ones((2, 6))
    params = layer.init(jax.random.key(0), x)["params"]

    def traced(asked):
        def call(params, x):
            with wide_gradients(asked):
                return layer.apply({"params": params}, x)

        return str(jax.make_jaxpr(call)(params, x))

    assert traced(True) == traced(False)
