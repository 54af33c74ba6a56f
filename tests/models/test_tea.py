"""TEA: what its convolutions along time begin as, and what its block lets pass."""

import jax
import numpy as np
import pytest

from jaxvid.layers.conv import conv
from jaxvid.layers.temporal import temporal_shift
from jaxvid.models.tea import AggregationBlock, MotionExcitation, mean_pool

ALONG_TIME = {"padding": (1, 0, 0), "groups": 6}
X = np.random.default_rng(0).normal(size=(2, 5, 4, 4, 64)).astype(np.float32)


def block(number: int) -> AggregationBlock:
    return AggregationBlock(width=16, stage=2, block=number, blocks=3)


def test_a_new_network_shifts_the_last_group_and_leaves_the_others():
    quick = {"xla_backend_optimization_level": 0}
    params = jax.jit(block(1).init, compiler_options=quick)(jax.random.key(0), X)["params"]
    x = X[..., :6]
    for i in range(3):
        np.testing.assert_array_equal(conv(x, params[f"shift{i}"]["kernel"], **ALONG_TIME), x)
    moved = conv(x, params["shift3"]["kernel"], **ALONG_TIME)
    np.testing.assert_array_equal(moved, temporal_shift(x, 2))


def test_what_stands_still_is_weighed_as_the_last_frame():
    """No difference to the next frame leaves what the norm adds, one weight per channel."""
    module = MotionExcitation()
    apply = jax.jit(module.apply)
    shapes = jax.eval_shape(module.init, jax.random.key(0), X)
    rng = np.random.default_rng(1)
    variables = jax.tree.map(lambda a: rng.normal(size=a.shape).astype(np.float32), shapes)
    variables["batch_stats"] = jax.tree.map(np.abs, variables["batch_stats"])
    # With a 3x3 convolution that passes its middle, the next frame is compared with this one.
    middle = np.zeros((1, 3, 3, 1, 4), np.float32)
    middle[0, 1, 1] = 1
    variables["params"]["conv2"]["kernel"] = middle
    weights = np.asarray(apply(variables, np.repeat(X[:, :1], 5, axis=1))) / X[:, :1]
    np.testing.assert_allclose(
        weights, np.broadcast_to(weights[:1, :1, :1, :1], weights.shape), rtol=1e-3
    )
    assert weights.min() > 0.5 and weights.max() < 1.5
    moving = np.asarray(apply(variables, X)) / X
    np.testing.assert_allclose(moving[:, -1], weights[:, -1], rtol=1e-3)
    assert np.abs(moving[:, :-1] - weights[:, :-1]).max() > 1e-2


@pytest.mark.parametrize("number, reached", [(0, [0]), (1, [0, 1, 2])])
def test_a_group_reaches_the_next_ones_but_in_a_first_block(number, reached):
    """Which of the three convolved groups change when the first group does."""
    module = block(number)
    x = X[..., :64]
    shapes = jax.eval_shape(module.init, jax.random.key(0), x)
    rng = np.random.default_rng(1)
    variables = jax.tree.map(lambda a: rng.uniform(0.1, 1, a.shape).astype(np.float32), shapes)
    names = [f"conv2_{i}" for i in range(3)]

    @jax.jit
    def groups(variables):
        seen = module.apply(
            variables,
            x,
            capture_intermediates=lambda m, _: m.name in names,
            mutable="intermediates",
        )[1]["intermediates"]
        return [seen[name]["__call__"][0] for name in names]

    before = groups(variables)
    # The convolution along time of the first group: nothing else of the block reads it.
    # A new array: the call before may still be reading the old one.
    shift = variables["params"]["shift0"]
    shift["kernel"] = 2 * shift["kernel"]
    after = groups(variables)
    assert [i for i in range(3) if np.abs(after[i] - before[i]).max() > 1e-3] == reached


def test_the_mean_counts_the_border():
    x = np.ones((1, 2, 4, 4, 3), np.float32)
    y = np.asarray(mean_pool(x, (1, 2, 2)))
    assert y.shape == (1, 2, 2, 2, 3)
    np.testing.assert_allclose(y[0, 0, :, :, 0], [[4 / 9, 6 / 9], [6 / 9, 1]], rtol=1e-6)
