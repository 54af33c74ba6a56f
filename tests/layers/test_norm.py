"""Batch normalisation against its definition in numpy, and layer normalisation against flax."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvid.layers.backend import tracing_for
from jaxvid.layers.norm import BatchNorm, LayerNorm

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


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("measure", [False, True])
def test_sums_that_are_taken_at_once_give_the_same(measure, groups):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(30, 2, (4, 3, 5, 7)), jnp.float32)
    weight = jnp.asarray(rng.normal(size=x.shape), jnp.float32)
    norm = BatchNorm()
    variables = {
        "params": {"scale": jnp.arange(1.0, 8), "bias": jnp.arange(7.0)},
        "batch_stats": {"mean": jnp.full(7, 29.0), "var": jnp.ones(7)},
    }

    def loss(params, x):
        y, updated = norm.apply(
            variables | {"params": params},
            x,
            train=True,
            groups=groups,
            measure=measure,
            mutable=["batch_stats"],
        )
        return (y * weight).sum(), (y, updated)

    def run():
        return jax.value_and_grad(loss, (0, 1), has_aux=True)(variables["params"], x)

    expected = run()
    with tracing_for("tpu"):
        assert "custom_vjp" in str(jax.make_jaxpr(lambda x: loss(variables["params"], x)[0])(x))
        found = run()
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-3), found, expected
    )


def test_a_half_precise_input_stays_what_is_kept_for_its_gradient():
    x = jnp.ones((2, 3, 4), jnp.bfloat16)
    variables = BatchNorm().init(jax.random.key(0), x)
    with tracing_for("tpu"):
        y, backward = jax.vjp(
            lambda x: BatchNorm().apply(variables, x, train=True, mutable=["batch_stats"])[0], x
        )
    assert y.dtype == jnp.bfloat16
    large = [leaf for leaf in jax.tree.leaves(backward) if leaf.size == x.size]
    assert [leaf.dtype for leaf in large] == [jnp.bfloat16]


DTYPES = [(jnp.float32, None), (jnp.bfloat16, jnp.bfloat16), (jnp.float32, jnp.bfloat16)]


def layer_normed(module, dtype, platform):
    """Value, and gradients of parameters and x, of a layer norm on tokens [2, 49, 96]."""
    rng = np.random.default_rng(1)
    x = jnp.asarray(rng.normal(1, 3, (2, 49, 96)), dtype)
    scale, bias = jnp.asarray(rng.normal(size=(2, 96)), jnp.float32)
    variables = {"params": {"scale": scale, "bias": bias}}

    def loss(variables, x):
        y = module.apply(variables, x)
        return jnp.sin(y.astype(jnp.float32)).sum(), y

    with tracing_for(platform):
        gradients, y = jax.jit(jax.grad(loss, (0, 1), has_aux=True))(variables, x)
    return jax.tree.leaves((y, gradients))


@pytest.mark.parametrize(("dtype", "computed_in"), DTYPES)
def test_layer_norm_on_cpu_is_that_of_flax_to_the_last_bit(dtype, computed_in):
    theirs = nn.LayerNorm(1e-6, dtype=computed_in, use_fast_variance=False)
    wanted = layer_normed(theirs, dtype, "cpu")
    for x, y in zip(layer_normed(LayerNorm(dtype=computed_in), dtype, "cpu"), wanted, strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize(("dtype", "computed_in"), DTYPES)
def test_layer_norm_elsewhere_is_the_same_but_for_rounding(dtype, computed_in):
    wanted = layer_normed(LayerNorm(dtype=computed_in), dtype, "cpu")
    found = layer_normed(LayerNorm(dtype=computed_in), dtype, "tpu")
    # Gradients of x in bfloat16 are rounded once here, and four times there.
    atol = 1e-5 if dtype == jnp.float32 else 1e-2
    for x, y in zip(found, wanted, strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_allclose(x.astype(jnp.float32), y.astype(jnp.float32), atol=atol)


def test_layer_norm_keeps_activations_in_their_own_dtype():
    norm = LayerNorm(dtype=jnp.bfloat16)
    x = jnp.ones((2, 49, 96), jnp.bfloat16)
    variables = norm.init(jax.random.key(0), x)
    with tracing_for("tpu"):
        _, backward = jax.vjp(lambda x: norm.apply(variables, x), x)
    kept = {(leaf.shape, str(leaf.dtype)) for leaf in jax.tree.leaves(backward)}
    assert {dtype for shape, dtype in kept if shape == x.shape} == {"bfloat16"}
