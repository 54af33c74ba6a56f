"""Linear layers that share a matrix, and such behind an activation."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvid.layers.backend import tracing_for
from jaxvid.layers.linear import Joined, behind, joined

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


class Hidden(nn.Module):
    """An activation and a linear layer behind it, together or one after the other."""

    together: bool

    @nn.compact
    def __call__(self, x):
        layer = nn.Dense(5, name="fc2")
        return behind(nn.gelu, layer, x) if self.together else layer(nn.gelu(x))


@pytest.mark.parametrize("platform", ["cpu", "tpu"])
def test_an_activation_before_a_layer_is_kept_on_cpu_only(platform):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 7)), jnp.float32)
    variables = Hidden(False).init(jax.random.key(0), x)
    results = []
    for together in (False, True):
        with tracing_for(platform):
            y, backward = jax.vjp(Hidden(together).apply, variables, x)
        results.append(jax.tree.leaves((y, backward(jnp.cos(y)))))
        alike = [leaf for leaf in jax.tree.leaves(backward) if leaf.shape == x.shape]
        kept = any(np.allclose(leaf, nn.gelu(x)) for leaf in alike)
        assert kept == (platform == "cpu" or not together)
    for one, other in zip(*results, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
