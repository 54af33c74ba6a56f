"""The training loss against its definition, written out in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvid import losses

LOGITS = np.random.default_rng(0).normal(0, 3, (6, 5))
LABELS = np.array([0, 4, 2, 2, 1, 3])


def log_probabilities(logits):
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def test_cross_entropy_is_the_mean_negative_log_probability():
    expected = -log_probabilities(LOGITS)[np.arange(6), LABELS].mean()
    loss = losses.softmax_cross_entropy(jnp.asarray(LOGITS), jnp.asarray(LABELS))
    assert loss.shape == ()
    np.testing.assert_allclose(loss, expected, rtol=1e-6)


def test_smoothing_moves_probability_to_all_classes():
    log_p = log_probabilities(LOGITS)
    own = log_p[np.arange(6), LABELS]
    expected = -(0.9 * own + 0.1 * log_p.mean(-1)).mean()
    loss = losses.softmax_cross_entropy(jnp.asarray(LOGITS), jnp.asarray(LABELS), 0.1)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)


def test_labels_may_be_probabilities():
    targets = np.random.default_rng(1).dirichlet(np.ones(5), 6)
    expected = -(targets * log_probabilities(LOGITS)).sum(-1).mean()
    loss = losses.softmax_cross_entropy(jnp.asarray(LOGITS), jnp.asarray(targets))
    np.testing.assert_allclose(loss, expected, rtol=1e-6)


@pytest.mark.parametrize("labels", [LABELS, np.eye(5)[LABELS]])
def test_bfloat16_logits_give_a_float32_loss(labels):
    logits = jnp.asarray(LOGITS, jnp.bfloat16)
    loss = losses.softmax_cross_entropy(logits, jnp.asarray(labels))
    assert loss.dtype == jnp.float32
    wide = losses.softmax_cross_entropy(logits.astype(jnp.float32), jnp.asarray(labels))
    np.testing.assert_allclose(loss, wide, rtol=1e-6)


def test_float64_stays_float64():
    with jax.enable_x64(True):
        loss = losses.softmax_cross_entropy(jnp.asarray(LOGITS), jnp.asarray(LABELS))
        assert loss.dtype == jnp.float64


def test_huge_logits_stay_finite():
    logits = jnp.array([[1e4, -1e4], [-1e4, 1e4]])
    loss, gradient = jax.value_and_grad(losses.softmax_cross_entropy)(logits, jnp.array([0, 0]))
    np.testing.assert_allclose(loss, 1e4)
    assert np.isfinite(gradient).all()
