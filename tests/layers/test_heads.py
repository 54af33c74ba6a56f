"""The classification head: what it computes, in which order it averages, where dropout acts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvid.layers.heads import MeanHead, PositionHead, average_positions
from jaxvid.layers.pool import mean_windows

X = np.random.default_rng(0).normal(size=(3, 4, 5, 2, 6)).astype(np.float32)


def make(**settings):
    head = MeanHead(7, **settings)
    variables = head.init(jax.random.key(0), X)
    bias = jnp.arange(7.0)
    variables["params"]["fc"]["bias"] = bias
    return head, variables


@pytest.mark.parametrize("per_frame", [False, True])
def test_logits_are_linear_in_the_mean(per_frame):
    head, variables = make(per_frame=per_frame, init_std=1.0)
    logits, features = head.apply(variables, X)
    fc = variables["params"]["fc"]
    np.testing.assert_allclose(features, X.mean((1, 2, 3)), atol=1e-6)
    np.testing.assert_allclose(logits, X.mean((1, 2, 3)) @ fc["kernel"] + fc["bias"], atol=1e-5)


@pytest.mark.parametrize("per_frame, mixtures", [(False, 2), (True, 3)])
def test_dropout_acts_per_frame_or_once(per_frame, mixtures):
    # One channel of ones through a weight of one: the logit is the share of frames kept, doubled.
    head = MeanHead(1, dropout=0.5, per_frame=per_frame)
    x = jnp.ones((200, 2, 1, 1, 1))
    variables = {"params": {"fc": {"kernel": jnp.ones((1, 1)), "bias": jnp.zeros(1)}}}
    logits, _ = head.apply(variables, x, train=True, rngs={"dropout": jax.random.key(0)})
    assert len(np.unique(logits)) == mixtures
    np.testing.assert_allclose(logits.mean(), 1, atol=0.2)


def test_no_dropout_in_test():
    head, variables = make(dropout=0.9)
    first, second = (head.apply(variables, X)[0] for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_no_dropout_needs_no_random_numbers():
    head, variables = make(dropout=0.0)
    np.testing.assert_array_equal(
        head.apply(variables, X, train=True)[0], head.apply(variables, X)[0]
    )


@pytest.mark.parametrize("per_frame", [False, True])
def test_half_precision_still_answers_in_float32(per_frame):
    head, variables = make(per_frame=per_frame, dtype=jnp.bfloat16)
    assert variables["params"]["fc"]["kernel"].dtype == jnp.float32
    logits, _ = head.apply(variables, jnp.asarray(X, jnp.bfloat16))
    assert logits.dtype == jnp.float32


def test_initial_weights_have_the_published_spread():
    head = MeanHead(400, init_std=0.01)
    params = head.init(jax.random.key(0), jnp.ones((1, 1, 1, 1, 64)))["params"]["fc"]
    np.testing.assert_allclose(np.std(params["kernel"]), 0.01, rtol=0.05)
    assert not params["bias"].any()


def test_positions_average_in_probability():
    head = PositionHead(7, init_std=3.0)
    variables = head.init(jax.random.key(0), X)
    logits, features = head.apply(variables, X)
    fc = variables["params"]["fc"]
    one_by_one = jax.nn.softmax(X @ fc["kernel"] + fc["bias"])
    np.testing.assert_allclose(jax.nn.softmax(logits), one_by_one.mean((1, 2, 3)), atol=1e-6)
    np.testing.assert_allclose(features, X.mean((1, 2, 3)), atol=1e-6)


def test_one_position_keeps_its_logits():
    logits = 30 * X[:, :1, :1, :1]
    np.testing.assert_allclose(average_positions(logits), logits[:, 0, 0, 0], atol=1e-5)


def test_windows_are_those_of_the_training_crop():
    pooled = mean_windows(X, 2)
    assert pooled.shape == (3, 1, 4, 1, 6)
    np.testing.assert_allclose(pooled[:, 0, 3, 0], X[:, :, 3:].mean((1, 2, 3)), atol=1e-6)
    np.testing.assert_allclose(mean_windows(X, 9)[:, 0, 0, 0], X.mean((1, 2, 3)), atol=1e-6)
