"""Probes beside one another are what each is alone, by the recipe that they follow."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxvid.layers.probe import AttentiveProbe
from jaxvid.probe import fit

CLASSES = 3
SETTINGS = [
    fit.Setting(lr, decay, seed) for lr in (1e-2, 1e-3) for decay in (0.1, 0.8) for seed in (0, 1)
]
PLAN = fit.Plan(epochs=3, batch_size=8, seed=5)


@pytest.fixture(scope="module")
def videos():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, 30)
    tokens = rng.normal(0, 1, (30, 5, 8)) + labels[:, None, None] * np.linspace(-1, 1, 8)
    return tokens.astype(np.float16), labels


@pytest.mark.parametrize("kind", ["linear", "attentive"])
def test_side_by_side_is_one_by_one(kind, videos):
    tokens, labels = videos
    means = tokens.astype(np.float32).mean(1)
    if kind == "linear":
        probe, rows = fit.LinearProbe(CLASSES), means.__getitem__
    else:
        probe, rows = AttentiveProbe(CLASSES, depth=2, heads=2), tokens.__getitem__
    together = fit.train(probe, SETTINGS, rows, labels, PLAN, kind)
    right = fit.right(probe, together, rows, labels, 16)
    assert right.shape == (len(SETTINGS), len(labels)) and right.dtype == bool
    x = jnp.asarray(rows(np.arange(30)), jnp.float32)
    answers = jax.vmap(lambda p: probe.apply(p, x)[0])(together)
    for number, setting in enumerate(SETTINGS):
        alone = fit.train(probe, [setting], rows, labels, PLAN, kind)
        one = probe.apply(jax.tree.map(lambda array: array[0], alone), x)[0]
        np.testing.assert_allclose(answers[number], one, atol=2e-4 * float(answers.std()))
        assert (np.asarray(one).argmax(1) == labels).tolist() == right[number].tolist()
    # Rates, decays and seeds each tell.
    assert len(np.unique(np.round(answers.std((1, 2)), 5))) == len(SETTINGS)


def test_the_recipe_is_adamw_with_a_cosine(videos):
    tokens, labels = videos
    means = tokens.astype(np.float32).mean(1)
    probe, setting = fit.LinearProbe(CLASSES), fit.Setting(1e-2, 0.4, 3)
    found = fit.train(probe, [setting], means.__getitem__, labels, PLAN, "linear")
    params = probe.init(jax.random.key(3), means[:1])
    steps = fit._order(len(labels), PLAN)
    assert [len(step) for step in steps] == [8] * 9
    assert all(len({*np.concatenate(steps[i : i + 3])}) == 24 for i in (0, 3, 6))
    rate = optax.cosine_decay_schedule(setting.lr, len(steps))
    adamw = optax.adamw(rate, weight_decay=setting.weight_decay)
    state = adamw.init(params)

    def loss(params, x, y):
        logits = jax.nn.log_softmax(probe.apply(params, x)[0])
        return -logits[jnp.arange(len(y)), y].mean()

    for numbers in steps:
        grads = jax.grad(loss)(params, means[numbers], labels[numbers])
        updates, state = adamw.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(params), strict=True):
        np.testing.assert_allclose(one[0], other, rtol=1e-4, atol=1e-6)


def test_two_classes_that_are_as_likely_are_no_answer():
    probe = fit.LinearProbe(2)
    kernels = np.array([np.zeros((2, 2)), np.eye(2)], np.float32)
    params = {"params": {"linear": {"kernel": kernels, "bias": np.zeros((2, 2), np.float32)}}}
    rows = np.eye(2, dtype=np.float32).__getitem__
    found = fit.right(probe, params, rows, np.array([0, 0]), 1)
    assert found.tolist() == [[False, False], [True, False]]


def test_a_share_of_each_class_is_held_out():
    labels = np.repeat([0, 1, 2], [10, 20, 5])
    out = fit.held_out(labels, 0.2, 0)
    assert [int(out[labels == label].sum()) for label in range(3)] == [2, 4, 1]
    assert (fit.held_out(labels, 0.2, 0) == out).all()
    assert (fit.held_out(labels, 0.2, 1) != out).any()
