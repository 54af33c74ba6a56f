"""Stochastic depth."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvid.layers.drop import DropPath


def drop(rate, x, train=True, seed=0):
    return DropPath(rate).apply({}, x, train, rngs={"dropout": jax.random.key(seed)})


def test_identity_outside_training_and_at_rate_zero():
    x = jnp.arange(6.0).reshape(2, 3)
    np.testing.assert_array_equal(DropPath(0.9).apply({}, x), x)
    np.testing.assert_array_equal(DropPath(0.0).apply({}, x, True), x)


def test_whole_samples_are_dropped_and_the_rest_scaled():
    x = jax.random.normal(jax.random.key(1), (4000, 2, 3))
    y = np.asarray(drop(0.25, x))
    dropped = (y == 0).all(axis=(1, 2))
    np.testing.assert_allclose(y[~dropped], np.asarray(x)[~dropped] / 0.75, rtol=1e-6)
    assert dropped.mean() == pytest.approx(0.25, abs=0.03)


def test_draws_follow_the_key():
    x = jnp.ones((64, 1))
    np.testing.assert_array_equal(drop(0.5, x), drop(0.5, x))
    assert (drop(0.5, x) != drop(0.5, x, seed=1)).any()


def test_rate_one_gives_zeros_and_a_finite_gradient():
    x = jnp.ones((4, 2))
    np.testing.assert_array_equal(drop(1.0, x), jnp.zeros_like(x))
    gradient = jax.grad(lambda x: drop(1.0, x).sum())(x)
    np.testing.assert_array_equal(gradient, jnp.zeros_like(x))


def test_dtype_is_kept():
    assert drop(0.5, jnp.ones((4, 2), jnp.bfloat16)).dtype == jnp.bfloat16
