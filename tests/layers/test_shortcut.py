"""The sum at the end of a residual branch: the same sum, whichever way it is computed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvid.layers import shortcut
from jaxvid.layers.backend import tracing_for


def loops(x, y, train):
    """How many loops it is; a new function each time, as what was traced is not traced again."""
    return jax.jit(lambda x, y: shortcut.add(x, y, train)).lower(x, y).as_text().count("while")


@pytest.mark.parametrize("shape", [(2, 5, 4), (1, 3, 7), (1, 1, 2)])
@pytest.mark.parametrize("train", [False, True])
def test_it_is_the_sum_and_so_is_its_gradient(shape, train):
    x, y, g = (jax.random.normal(jax.random.key(i), shape) for i in range(3))
    total, gradient = jax.vjp(lambda x, y: shortcut.add(x, y, train), x, y)
    np.testing.assert_array_equal(total, x + y)
    for part in gradient(g):
        np.testing.assert_array_equal(part, g)


def test_it_is_a_loop_only_where_that_helps():
    x = jnp.ones((2, 3, 4))
    assert loops(x, x, True) > 0
    assert loops(x, x, False) == 0
    assert loops(x[:, :1, :1], x[:, :1, :1], True) > 0
    assert loops(x[:1, :, :1], x[:1, :, :1], True) == 0  # Three values have no halves.
    assert loops(x, x.astype(jnp.bfloat16), True) == 0
    with tracing_for("gpu"):
        assert loops(x, x, True) == 0


def test_a_chain_of_branches_is_not_computed_again_in_each():
    """What every later sum reads is there once: the work grows with the depth, not its square."""

    def chain(depth):
        def loss(x):
            for i in range(depth):
                x = shortcut.add(x, jnp.tanh(x - x.mean(-1, keepdims=True)) @ eye * (1 + i), True)
            return jnp.square(x).sum()

        return jax.jit(jax.grad(loss)).lower(x).compile().as_text()

    x, eye = jnp.ones((8, 16)), jnp.eye(16)
    sums = [chain(depth).count(" add(") for depth in (4, 8)]
    assert sums[1] < 2.5 * sums[0]
