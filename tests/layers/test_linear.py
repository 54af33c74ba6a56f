"""Linear layers that share a matrix: one layer's parameters, and its answers in parts."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvid.layers.linear import Joined, joined

X = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, 6)), jnp.float32)


class Beside(nn.Module):
    """The same as one ordinary layer of all channels."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(24, bias_init=nn.initializers.normal(), name="qkv")(x)


class Together(nn.Module):
    @nn.compact
    def __call__(self, x):
        return Joined(8, 3, 2, bias_init=nn.initializers.normal(), name="qkv")(x)


def test_they_have_one_layers_parameters_and_answers():
    expected = Beside().init(jax.random.key(1), X)
    variables = Together().init(jax.random.key(1), X)
    assert jax.tree.all(jax.tree.map(np.array_equal, variables, expected))
    parts = Together().apply(variables, X)
    assert [part.shape for part in parts] == [(2, 5, 8)] * 3
    np.testing.assert_array_equal(jnp.concatenate(parts, -1), Beside().apply(expected, X))


@pytest.mark.parametrize("bias", [None, jnp.arange(6.0)])
def test_a_mesh_that_splits_heads_changes_nothing_but_how(bias, monkeypatch):
    kernel = jnp.asarray(np.random.default_rng(1).normal(size=(6, 6)), jnp.float32)

    def loss(x, kernel):
        return sum(jnp.sin(y * n).sum() for n, y in enumerate(joined(x, kernel, bias, 3, 2), 1))

    expected = jax.value_and_grad(loss, (0, 1))(X, kernel)
    monkeypatch.setattr("jaxvid.layers.linear.splits_heads", lambda heads: heads == 2)
    found = jax.value_and_grad(loss, (0, 1))(X, kernel)
    assert "split" in str(jax.make_jaxpr(loss)(X, kernel))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), found, expected)
