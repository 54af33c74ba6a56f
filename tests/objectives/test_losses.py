"""The training loss against its definition, written out in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvid.base.errors import JaxvidError
from jaxvid.objectives import losses
from jaxvid.rows import UNKNOWN

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


def test_sigmoid_cross_entropy_is_the_mean_over_clips_and_classes():
    targets = np.random.default_rng(2).integers(0, 2, (6, 5))
    p = 1 / (1 + np.exp(-LOGITS))
    expected = -np.where(targets, np.log(p), np.log(1 - p)).mean()
    loss = losses.make_loss("sigmoid")(jnp.asarray(LOGITS), jnp.asarray(targets, jnp.uint8))
    assert loss.shape == () and loss.dtype == jnp.float32
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    weighted = losses.make_loss("sigmoid", weight=333.0)(jnp.asarray(LOGITS), jnp.asarray(targets))
    np.testing.assert_allclose(weighted, 333 * expected, rtol=1e-6)
    one = losses.sigmoid_cross_entropy(jnp.asarray(LOGITS), jnp.asarray(LABELS))
    many = losses.sigmoid_cross_entropy(jnp.asarray(LOGITS), jnp.eye(5)[LABELS])
    assert one == many
    huge = losses.sigmoid_cross_entropy(jnp.array([[1e4, -1e4]]), jnp.array([[0, 1]]))
    np.testing.assert_allclose(huge, 1e4)


CATEGORIES = ("action", "action", "scene", "scene", "scene")
KNOWN = np.array([[1, 1, 0, 0, 0]] * 2 + [[1] * 5] * 3 + [[0, 0, 1, 1, 1]], bool)


def annotated_labels():
    targets = np.random.default_rng(2).integers(0, 2, (6, 5)).astype(np.uint8)
    p = 1 / (1 + np.exp(-LOGITS))
    each = -np.where(targets, np.log(p), np.log(1 - p))
    return jnp.asarray(np.where(KNOWN, targets, UNKNOWN)), np.where(KNOWN, each, 0)


def test_what_was_not_annotated_is_no_part_of_the_loss():
    labels, each = annotated_labels()
    loss = losses.make_loss("sigmoid", weight=3.0, categories=CATEGORIES)
    expected = (each.sum(1) / KNOWN.sum(1)).mean()
    np.testing.assert_allclose(loss(jnp.asarray(LOGITS), labels), 3 * expected, rtol=1e-6)
    blends = jnp.where(labels == UNKNOWN, jnp.nan, labels)
    np.testing.assert_allclose(loss(jnp.asarray(LOGITS), blends), 3 * expected, rtol=1e-6)
    gradient = jax.grad(loss)(jnp.asarray(LOGITS), blends)
    assert np.isfinite(gradient).all() and not np.asarray(gradient)[~KNOWN].any()
    assert losses.hits(jnp.asarray(LOGITS), labels, "sigmoid").shape == (6,)
    best = jnp.array([[1.0, 0.0, 9.0]])
    assert losses.hits(best, jnp.array([[1, 0, UNKNOWN]], jnp.uint8), "sigmoid").tolist() == [True]


def test_categories_weigh_as_told():
    labels, each = annotated_labels()
    loss = losses.make_loss("sigmoid", categories=CATEGORIES, category_weights={"scene": 3.0})
    action, scene = each[:5, :2].mean(), each[2:, 2:].mean()
    expected = (action + 3 * scene) / 4
    np.testing.assert_allclose(loss(jnp.asarray(LOGITS), labels), expected, rtol=1e-6)
    # A category that no clip of the batch has takes no part.
    only = loss(jnp.asarray(LOGITS[:2]), labels[:2])
    np.testing.assert_allclose(only, each[:2, :2].mean(), rtol=1e-6)
    with pytest.raises(JaxvidError, match="category_weights has 'smell'.*: action, scene"):
        losses.make_loss("sigmoid", categories=CATEGORIES, category_weights={"smell": 1.0})
    with pytest.raises(JaxvidError, match="category_weights has 'scene'.*: they have none"):
        losses.make_loss("sigmoid", category_weights={"scene": 1.0})


def test_smoothing_moves_probability_to_both_answers():
    targets = np.random.default_rng(2).integers(0, 2, (6, 5))
    p = 1 / (1 + np.exp(-LOGITS))
    soft = 0.9 * targets + 0.05
    expected = -(soft * np.log(p) + (1 - soft) * np.log(1 - p)).mean()
    loss = losses.make_loss("sigmoid", 0.1)(jnp.asarray(LOGITS), jnp.asarray(targets))
    np.testing.assert_allclose(loss, expected, rtol=1e-6)


WEIGHTS = (0.5, 2.0, 1.0, 0.0, 3.0)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_a_clip_counts_as_its_class_weighs(smoothing):
    weighted = losses.make_loss("softmax", smoothing, class_weights=WEIGHTS)
    alone = losses.make_loss("softmax", smoothing)
    each = np.array([alone(jnp.asarray(LOGITS[i : i + 1]), LABELS[i : i + 1]) for i in range(6)])
    found = weighted(jnp.asarray(LOGITS), jnp.asarray(LABELS))
    np.testing.assert_allclose(found, (np.take(WEIGHTS, LABELS) * each).mean(), rtol=1e-5)
    # A blend is the mean of what its labels give.
    other = np.roll(LABELS, 1)
    blend = 0.7 * np.eye(5)[LABELS] + 0.3 * np.eye(5)[other]
    both = [weighted(jnp.asarray(LOGITS), jnp.asarray(labels)) for labels in (LABELS, other)]
    found = weighted(jnp.asarray(LOGITS), jnp.asarray(blend))
    np.testing.assert_allclose(found, 0.7 * both[0] + 0.3 * both[1], rtol=1e-5)
    same = losses.make_loss("softmax", smoothing, class_weights=(1.0,) * 5)
    np.testing.assert_allclose(
        same(jnp.asarray(LOGITS), jnp.asarray(blend)),
        alone(jnp.asarray(LOGITS), jnp.asarray(blend)),
        rtol=1e-5,
    )


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_a_class_that_is_there_counts_as_it_weighs(smoothing):
    targets = np.random.default_rng(2).integers(0, 2, (6, 5))
    log_p, log_not = (-np.log1p(np.exp(sign * LOGITS)) for sign in (-1, 1))
    there = (1 - smoothing / 2) * log_p + smoothing / 2 * log_not
    absent = (1 - smoothing / 2) * log_not + smoothing / 2 * log_p
    expected = -np.where(targets, np.array(WEIGHTS) * there, absent).mean()
    loss = losses.make_loss("sigmoid", smoothing, class_weights=WEIGHTS)
    found = loss(jnp.asarray(LOGITS), jnp.asarray(targets))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_annotated_labels_are_smoothed_and_weighed():
    labels, _ = annotated_labels()
    how = {"label_smoothing": 0.2, "class_weights": WEIGHTS}
    loss = losses.make_loss("sigmoid", categories=CATEGORIES, **how)
    alone = losses.make_loss("sigmoid", **how)
    some = [alone(jnp.asarray(LOGITS[i : i + 1]), labels[i : i + 1]) for i in range(2, 5)]
    found = loss(jnp.asarray(LOGITS[2:5]), labels[2:5])
    np.testing.assert_allclose(found, np.mean(some), rtol=1e-5)
    gradient = jax.grad(loss)(jnp.asarray(LOGITS), labels)
    assert np.isfinite(gradient).all() and not np.asarray(gradient)[~KNOWN].any()


def test_a_loss_that_does_not_exist_is_refused():
    with pytest.raises(JaxvidError, match="loss='hinge' is unknown: take softmax or sigmoid"):
        losses.make_loss("hinge")


def test_hits_count_what_the_labels_mean():
    logits = jnp.array([[3.0, 1.0, 2.0], [0.0, 2.0, 1.0], [1.0, 0.0, 3.0]])
    assert losses.hits(logits, jnp.array([0, 0, 2])).tolist() == [True, False, True]
    blend = jnp.array([[0.6, 0.4, 0.0], [0.6, 0.4, 0.0], [0.6, 0.0, 0.4]])
    assert losses.hits(logits, blend).tolist() == [True, False, False]
    several = jnp.array([[1, 0, 1], [1, 0, 1], [0, 0, 0]], jnp.uint8)
    assert losses.hits(logits, several, "sigmoid").tolist() == [True, False, False]


def test_probabilities_are_shares_or_each_class_its_own():
    logits = jnp.asarray(LOGITS)
    np.testing.assert_allclose(losses.probabilities("softmax", logits).sum(-1), 1, rtol=1e-6)
    expected = 1 / (1 + np.exp(-LOGITS))
    np.testing.assert_allclose(losses.probabilities("sigmoid", logits), expected, rtol=1e-5)
