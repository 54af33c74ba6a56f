"""Intermediates of a network: by name, over views, whole or averaged."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvid.base.errors import JaxvidError
from jaxvid.inference import features

SHAPE = (3, 4, 5, 3)  # of a view


class Network(nn.Module):
    """Its intermediates are easy to foretell."""

    @nn.compact
    def __call__(self, video, train=False):
        slope = self.param("slope", nn.initializers.constant(2.0), (3,))
        stem = (video * slope).astype(jnp.bfloat16)
        mean = video.mean((1, 2, 3))
        return mean, {"stem": stem, "pre_logits": mean}


def prepare(views):
    return views.astype(jnp.float32) / 2


@pytest.fixture
def views():
    return np.random.default_rng(0).integers(0, 100, (6, *SHAPE), np.uint8)


def extract(views, names, pooled, at_once=4):
    variables = {"params": {"slope": np.array([1.0, 2.0, 4.0], np.float32)}}
    run = features.make_extractor(Network(), prepare, at_once, names, pooled, variables, SHAPE)
    return run(variables, views)


def test_whole_ones_keep_their_views_and_positions(views):
    found = extract(views, ["stem", "pre_logits"], pooled=False)
    # Products of such numbers have more digits than bfloat16: it is the network's own that is said.
    stem = (views / 2 * np.array([1.0, 2.0, 4.0])).astype(jnp.bfloat16).astype(np.float32)
    assert found["stem"].dtype == np.float32
    np.testing.assert_array_equal(found["stem"], stem)
    np.testing.assert_allclose(found["pre_logits"], views.mean((1, 2, 3)) / 2, rtol=1e-5)


def test_pooled_ones_are_the_mean_of_all_views_and_positions(views):
    whole = extract(views, ["stem", "pre_logits"], pooled=False)
    found = extract(views, ["stem", "pre_logits"], pooled=True)
    assert found.keys() == whole.keys()
    for name, array in found.items():
        expected = whole[name].reshape(-1, 3).mean(0)
        np.testing.assert_allclose(array, expected, rtol=1e-5, err_msg=name)


@pytest.mark.parametrize("at_once, sizes", [(4, {3}), (6, {6}), (100, {6}), (1, {1}), (0, {1})])
def test_views_are_taken_in_equal_steps_of_no_more_than_asked(views, at_once, sizes):
    seen = []

    def note(views):
        seen.append(len(views))
        return prepare(views)

    variables = {"params": {"slope": np.ones(3, np.float32)}}
    run = features.make_extractor(Network(), note, at_once, ["stem"], False, variables, SHAPE)
    found = run(variables, views)
    assert set(seen) == sizes and len(seen) == 1  # one program
    np.testing.assert_array_equal(found["stem"], views / 2)


def test_a_name_that_is_not_there_is_said_with_those_that_are(views):
    with pytest.raises(
        JaxvidError, match=r"'stage9': it has pre_logits \[3\], stem \[3, 4, 5, 3\]"
    ):
        extract(views, ["stem", "stage9"], pooled=True)


def test_the_network_answers_as_in_a_test(views):
    class Asked(Network):
        @nn.compact
        def __call__(self, video, train=True):
            assert not train
            return video.mean(), {"stem": video}

    run = features.make_extractor(Asked(), prepare, 6, ["stem"], False, {}, SHAPE)
    assert run({}, views)["stem"].shape == views.shape
