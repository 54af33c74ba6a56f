"""Batch normalisation against PyTorch's definition, transcribed to numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvid.layers.norm import BatchNorm

RNG = np.random.default_rng(0)
SHAPE = (2, 3, 4, 5, 6)


def torch_batch_norm(x, scale, bias, mean, var, train, momentum=0.1, epsilon=1e-5):
    """Returns the output and the new running statistics, as torch.nn.BatchNorm3d has them."""
    if train:
        axes = tuple(range(x.ndim - 1))
        batch_mean, batch_var = x.mean(axes), x.var(axes)
        unbiased = x.var(axes, ddof=1)
        new = (1 - momentum) * mean + momentum * batch_mean
        new_var = (1 - momentum) * var + momentum * unbiased
        mean, var = batch_mean, batch_var
    else:
        new, new_var = mean, var
    return (x - mean) / np.sqrt(var + epsilon) * scale + bias, new, new_var


def make_state():
    scale, bias, mean = RNG.normal(size=(3, SHAPE[-1]))
    var = RNG.uniform(0.2, 3, SHAPE[-1])
    return {
        "params": {"scale": scale, "bias": bias},
        "batch_stats": {"mean": mean, "var": var},
    }


@pytest.mark.parametrize("settings", [{}, {"momentum": 0.3, "epsilon": 1e-3}])
@pytest.mark.parametrize("shape", [SHAPE, (7, 6), (1, 1, 1, 2, 6)])
def test_three_steps_of_training_and_one_test(shape, settings):
    module = BatchNorm(**settings)
    with jax.enable_x64(True):
        state = jax.tree.map(jnp.asarray, make_state())
        for train in (True, True, True, False):
            x = RNG.normal(2, 3, shape)
            scale, bias = (np.asarray(state["params"][name]) for name in ("scale", "bias"))
            mean, var = (np.asarray(state["batch_stats"][name]) for name in ("mean", "var"))
            expected = torch_batch_norm(x, scale, bias, mean, var, train, **settings)
            y, new = module.apply(state, x, train=train, mutable=["batch_stats"])
            state = state | new
            np.testing.assert_allclose(y, expected[0], 1e-10, 1e-10)
            np.testing.assert_allclose(state["batch_stats"]["mean"], expected[1], 1e-12)
            np.testing.assert_allclose(state["batch_stats"]["var"], expected[2], 1e-12)


def test_initial_values():
    variables = BatchNorm().init(jax.random.key(0), jnp.ones(SHAPE), train=True)
    np.testing.assert_array_equal(variables["params"]["scale"], np.ones(6))
    np.testing.assert_array_equal(variables["params"]["bias"], np.zeros(6))
    # Initialising in training mode leaves the running statistics alone.
    np.testing.assert_array_equal(variables["batch_stats"]["mean"], np.zeros(6))
    np.testing.assert_array_equal(variables["batch_stats"]["var"], np.ones(6))


def test_a_single_value_per_channel_stays_finite():
    module = BatchNorm()
    x = jnp.full((1, 6), 3.0)
    variables = module.init(jax.random.key(0), x)
    y, new = module.apply(variables, x, train=True, mutable=["batch_stats"])
    assert np.isfinite(y).all() and np.isfinite(new["batch_stats"]["var"]).all()


def test_testing_leaves_the_statistics_alone():
    state = jax.tree.map(np.float32, make_state())
    _, new = BatchNorm().apply(state, jnp.ones(SHAPE), train=False, mutable=["batch_stats"])
    for name, value in state["batch_stats"].items():
        np.testing.assert_array_equal(new["batch_stats"][name], value)


def test_a_large_mean_does_not_drown_the_variance():
    x = np.float32(RNG.normal(4000, 1, (64, 6)))
    module = BatchNorm()
    variables = module.init(jax.random.key(0), x)
    y, _ = module.apply(variables, x, train=True, mutable=["batch_stats"])
    np.testing.assert_allclose(np.asarray(y).std(0), 1, rtol=2e-3)


@pytest.mark.parametrize("train", [False, True])
def test_half_precision_keeps_its_statistics_in_float32(train):
    module = BatchNorm(dtype=jnp.bfloat16)
    x = jnp.asarray(RNG.normal(2, 3, SHAPE), jnp.bfloat16)
    variables = module.init(jax.random.key(0), x)
    y, new = module.apply(variables, x, train=train, mutable=["batch_stats"])
    assert y.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves((variables, new))} == {jnp.dtype("float32")}
    if train:
        wide = np.asarray(x, np.float64)
        expected = 0.1 * wide.mean((0, 1, 2, 3))
        np.testing.assert_allclose(new["batch_stats"]["mean"], expected, rtol=1e-5)
