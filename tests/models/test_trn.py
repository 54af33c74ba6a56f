"""TRN: which subsets of frames it relates, and when it draws them."""

import itertools

import jax
import numpy as np
import pytest

from jaxvid import zoo
from jaxvid.models.trn import draw_relations, subsets
from tests.models.test_families import network, video

NAME = "trn_test"


def test_subsets_are_drawn_as_the_reference_draws_them():
    """NumPy's global generator, seeded once, chooses three of each length from the longest on."""
    np.random.seed(7)
    wanted = [[tuple(range(8))]]
    for length in range(7, 1, -1):
        every = list(itertools.combinations(range(8), length))
        wanted.append([every[i] for i in np.random.choice(len(every), 3, replace=False)])
    drawn = draw_relations(8, seed=7)
    assert [list(of_a_length) for of_a_length in drawn] == wanted
    assert draw_relations(8, seed=8) != drawn
    # Of two frames there is one subset of two, and none shorter.
    assert draw_relations(2, seed=0) == (((0, 1),),)
    assert [len(of_a_length) for of_a_length in draw_relations(3, seed=0)] == [1, 3]


@pytest.fixture(scope="module")
def scores():
    """Logits of the test network with the subsets of a seed, or with given ones."""
    _, variables = network(NAME)

    def score(x=None, **fields):
        model = zoo.create_model(NAME, 5, **fields)
        return np.asarray(jax.jit(model.apply)(variables, video(NAME) if x is None else x)[0])

    return score


def test_testing_takes_the_subsets_it_is_given(scores):
    first = scores()
    np.testing.assert_array_equal(scores(relation_seed=0), first)
    given = [[list(subset) for subset in subsets] for subsets in draw_relations(4, 3)]
    np.testing.assert_array_equal(scores(relations=given), scores(relation_seed=3))
    assert np.abs(scores(relation_seed=3) - first).max() > 1e-3


def test_the_order_of_frames_matters(scores):
    reversed_in_time = video(NAME)[:, ::-1].copy()
    assert np.abs(scores(reversed_in_time) - scores()).max() > 1e-2


def test_training_draws_in_each_step_and_finds_every_subset():
    model, variables = network(NAME)

    @jax.jit
    def drawn(key):
        return model.apply(variables, 4, True, method=model.choose, rngs={"dropout": key})

    seen = [set(), set(), set()]
    for step in range(12):
        for length, chosen in enumerate(drawn(jax.random.key(step))):
            rows = [tuple(row) for row in np.asarray(chosen).tolist()]
            assert len(set(rows)) == len(rows) == (1, 3, 3)[length]
            seen[length].update(rows)
    every = [{tuple(row) for row in subsets(4, length).tolist()} for length in (4, 3, 2)]
    assert seen == every
