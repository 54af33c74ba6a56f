"""TPN: its pyramid in time, and the auxiliary classifier that only training has."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import converters
from jaxvid import zoo
from jaxvid.base.errors import JaxvidError
from jaxvid.models.tpn import peaks
from jaxvid.objectives import losses
from jaxvid.training.state import make_state
from jaxvid.training.step import Lesson, make_update
from tests.models.test_families import network, video


@pytest.mark.parametrize("frames, steps", [(3, 1), (8, 1), (9, 2), (16, 2)])
def test_every_eight_frames_become_their_maximum_and_the_last_may_be_fewer(frames, steps):
    x = np.random.default_rng(0).normal(size=(2, frames, 2, 3, 4)).astype(np.float32) - 5
    y = np.asarray(peaks(jnp.asarray(x)))
    wanted = [x[:, 8 * step : 8 * step + 8].max(1) for step in range(steps)]
    np.testing.assert_array_equal(y, np.stack(wanted, axis=1))


@pytest.mark.parametrize("name", ["tpn_test", "tpn_tsm_test"])
def test_only_training_has_the_auxiliary_classifier(name):
    model, variables = network(name)

    def intermediates(train):
        how = {"mutable": ["batch_stats"], "rngs": {"dropout": jax.random.key(0)}} if train else {}
        answer = jax.eval_shape(
            lambda x: model.apply(variables, x, train=train, **how), video(name)
        )
        return (answer[0] if train else answer)[1]

    assert intermediates(True)["aux_logits"].shape == (2, 5)
    assert "aux_logits" not in intermediates(False)


def test_what_a_test_with_the_reference_left_in_a_checkpoint_is_dropped():
    _, variables = network("tpn_test")
    tensors = converters.to_torch("tpn_test", jax.tree.map(np.asarray, variables))
    kernel = tensors["cls_head.fc_cls.weight"]
    tensors["cls_head.new_cls.weight"] = kernel[..., None, None, None]
    tensors["cls_head.new_cls.bias"] = tensors["cls_head.fc_cls.bias"]
    converted = converters.convert("tpn_test", tensors)
    assert jax.tree.all(jax.tree.map(np.array_equal, converted, dict(variables)))


class Pair(nn.Module):
    """Two linear classifiers on the mean picture, the second only in training."""

    auxiliary: bool = True

    @nn.compact
    def __call__(self, video, train=False):
        x = video.mean((1, 2, 3))
        logits, others = nn.Dense(4, name="head")(x), nn.Dense(4, name="aux")(x)
        return logits, {"aux_logits": others} if self.auxiliary and train else {}


VIDEO = np.random.default_rng(0).normal(size=(6, 2, 4, 4, 3)).astype(np.float32)
LABELS = np.array([0, 1, 2, 3, 0, 1])


def step(model, aux_weight=0.0):
    """(State before a step of plain descent, state after it, what the step measured)."""
    optimizer = optax.sgd(0.1)
    state = make_state(Pair().init(jax.random.key(0), VIDEO), optimizer)
    update = make_update(model, optimizer, Lesson(aux_weight=aux_weight))
    return state, *update(state, VIDEO, LABELS, jax.random.key(1))


def test_the_auxiliary_loss_is_weighed_and_added():
    before, after, measured = step(Pair(), aux_weight=0.5)
    logits, out = Pair().apply(before.variables, VIDEO, train=True)
    own = losses.softmax_cross_entropy(logits, LABELS)
    other = losses.softmax_cross_entropy(out["aux_logits"], LABELS)
    np.testing.assert_allclose(measured["loss"], own + 0.5 * other, rtol=1e-6)
    # Its classifier moves by half of its own gradient.
    _, twice, _ = step(Pair(), aux_weight=1.0)
    half, whole = (
        np.asarray(state.params["aux"]["kernel"] - before.params["aux"]["kernel"])
        for state in (after, twice)
    )
    np.testing.assert_allclose(2 * half, whole, atol=1e-6)
    assert np.abs(half).max() > 1e-3


def test_without_a_weight_it_stays_as_it_is_and_without_a_classifier_a_weight_is_refused():
    before, after, _ = step(Pair())
    np.testing.assert_array_equal(after.params["aux"]["kernel"], before.params["aux"]["kernel"])
    with pytest.raises(JaxvidError, match="aux_weight=0.5 but this network has no auxiliary"):
        step(Pair(auxiliary=False), aux_weight=0.5)


def test_the_published_recipes_weigh_it():
    rows = [zoo.get_row(name) for name in zoo.list_models("tpn_*")]
    assert rows and all(row.recipe.aux_weight == 0.5 for row in rows)
