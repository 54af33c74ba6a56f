"""Neighbours, retrieval and clusters on features whose answers are known."""

import numpy as np
import pytest

from jaxvid.probe import clusters, neighbours

# Angles on a circle, so that cosines are easy to foretell; lengths are no part of them.
GALLERY = np.array([0, 10, 20, 90, 100])
LABELS = np.array([0, 1, 0, 1, 1])


def at(degrees, length=3.0):
    radians = np.deg2rad(degrees)
    return length * np.stack([np.cos(radians), np.sin(radians)], -1).astype(np.float32)


def test_the_nearest_vote_by_their_cosines():
    scores = neighbours.votes(at(np.array([9, 92]), 0.5), at(GALLERY), LABELS, 2, [1, 3, 50])
    assert scores.shape == (3, 2, 2)
    np.testing.assert_array_equal(scores[0], [[0, 1], [0, 1]])
    # The neighbours of 9 degrees are those at 10, 0 and 20: two of three are of class 0.
    cosines = np.cos(np.deg2rad([1, 9, 11]))
    votes = np.exp((cosines - cosines[0]) / neighbours.TEMPERATURE)
    np.testing.assert_allclose(scores[1, 0], [votes[1] + votes[2], votes[0]], rtol=1e-4)
    assert scores[2, 0].argmax() == 0 and scores[2, 1].argmax() == 1


def test_recall_and_average_precision(monkeypatch):
    monkeypatch.setattr(neighbours, "_AT_ONCE", 2)  # Several parts of the queries.
    queries, labels = at(np.array([11, 1, 95])), np.array([0, 0, 2])
    hits, precisions = neighbours.retrieval(queries, labels, at(GALLERY), LABELS, [1, 2, 5])
    # From 11 degrees: 10 (no), 20 (yes), 0 (yes); from 1: 0 (yes), 10 (no), 20 (yes).
    assert hits.tolist() == [[False, True, False], [True, True, False], [True, True, False]]
    np.testing.assert_allclose(precisions[:2], [(1 / 2 + 2 / 3) / 2, (1 + 2 / 3) / 2])
    assert np.isnan(precisions[2])


def test_clusters_that_lie_apart_are_found():
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), 10)
    points = (10 * np.eye(4)[labels] + rng.normal(0, 0.1, (40, 4))).astype(np.float32)
    for seed in range(3):
        found = clusters.k_means(points, 4, seed)
        assert clusters.adjusted_rand(found, labels) == pytest.approx(1)
        assert clusters.mutual_information(found, labels) == pytest.approx(1)


def test_points_that_are_all_the_same_make_one_cluster():
    found = clusters.k_means(np.ones((5, 2), np.float32), 3, 0)
    assert len(set(found.tolist())) == 1


@pytest.mark.parametrize(
    "one, other, rand, information",
    [
        ([0, 0, 1, 1], [1, 1, 0, 0], 1, 1),
        ([0, 0, 1, 1], [0, 0, 1, 2], 4 / 7, 0.8),
        ([0, 0, 1, 1], [0, 1, 0, 1], -0.5, 0),
        ([0, 0, 0, 0], [0, 0, 0, 0], 1, 1),
        ([0, 0, 0, 0], [0, 1, 2, 3], 0, 0),
    ],
)
def test_partitions_whose_agreement_is_known(one, other, rand, information):
    one, other = np.array(one), np.array(other)
    assert clusters.adjusted_rand(one, other) == pytest.approx(rand)
    assert clusters.mutual_information(one, other) == pytest.approx(information, abs=1e-12)
