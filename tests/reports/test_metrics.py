"""Accuracies of a test set, on scores small enough to count by hand."""

import numpy as np
import pytest

from jaxvid.reports import metrics
from jaxvid.rows import UNKNOWN

SCORES = np.array(
    [
        [0.7, 0.2, 0.1, 0.0],
        [0.1, 0.6, 0.3, 0.0],
        [0.5, 0.4, 0.1, 0.0],
        [0.2, 0.3, 0.4, 0.1],
        [0.0, 0.1, 0.2, 0.7],
    ]
)
LABELS = np.array([0, 1, 1, 2, 0])


def test_top_k_counts_the_label_among_the_k_highest():
    ranks = np.array([0, 0, 1, 0, 3])
    for k in range(1, 5):
        np.testing.assert_array_equal(metrics.top_k_hits(SCORES, LABELS, k), ranks < k)


def test_ties_count_against_the_label():
    scores = np.array([[0.4, 0.4, 0.2], [0.4, 0.2, 0.4], [0.3, 0.3, 0.3]])
    labels = np.array([0, 1, 2])
    np.testing.assert_array_equal(metrics.top_k_hits(scores, labels, 1), [False, False, False])
    np.testing.assert_array_equal(metrics.top_k_hits(scores, labels, 2), [True, False, False])
    np.testing.assert_array_equal(metrics.top_k_hits(scores, labels, 3), [True, True, True])


def test_a_constant_answer_earns_nothing():
    result = metrics.accuracy(np.full((6, 7), 1 / 7), np.arange(6))
    assert result.top1 == 0 and result.top5 == 0 and result.mean_class == 0


def test_nan_scores_are_no_hits():
    scores = np.array([[np.nan, 0.1, 0.2], [np.nan, np.nan, np.nan]])
    assert not metrics.top_k_hits(scores, np.array([0, 1]), 3).any()


def test_accuracy_by_hand():
    result = metrics.accuracy(SCORES, LABELS)
    assert result.count == 5
    assert result.top1 == pytest.approx(3 / 5)
    assert result.top5 == 1.0
    # Class 3 does not occur: the mean is over the other three.
    assert result.mean_class == pytest.approx((1 / 2 + 1 / 2 + 1) / 3)
    assert result.top1_error == pytest.approx(np.sqrt(0.6 * 0.4 / 5))


def test_confusion_counts_label_by_answer():
    expected = [[1, 0, 0, 1], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    np.testing.assert_array_equal(metrics.accuracy(SCORES, LABELS).confusion, expected)


def test_fewer_than_five_classes_are_all_top_5():
    assert metrics.accuracy(SCORES[:, :2], np.array([0, 1, 1, 0, 1])).top5 == 1.0


def test_any_monotone_scale_gives_the_same_accuracies():
    plain, scaled = (metrics.accuracy(scores, LABELS) for scores in (SCORES, 30 * SCORES - 7))
    assert (plain.top1, plain.mean_class) == (scaled.top1, scaled.mean_class)


def test_the_confusions_diagonal_is_what_top_1_counts():
    rng = np.random.default_rng(0)
    # Few levels, so that most rows have ties; some scores that are no numbers.
    scores = rng.integers(0, 3, (200, 4)).astype(float)
    scores[rng.random(scores.shape) < 0.1] = np.nan
    scores[0] = np.nan
    labels = rng.integers(0, 4, 200)
    result = metrics.accuracy(scores, labels)
    assert np.trace(result.confusion) == metrics.top_k_hits(scores, labels, 1).sum() > 0
    assert result.top1 == np.trace(result.confusion) / 200
    right = metrics.answers(scores, labels) == labels
    np.testing.assert_array_equal(right, metrics.top_k_hits(scores, labels, 1))


def test_answers_are_the_highest_scores():
    np.testing.assert_array_equal(metrics.answers(SCORES, LABELS), [0, 1, 0, 2, 3])


def average_precision_by_loop(scores, targets):
    """The definition: at each threshold, precision times the gain in recall."""
    total, recall = 0.0, 0.0
    for threshold in sorted(set(scores.tolist()), reverse=True):
        chosen = [t for s, t in zip(scores, targets, strict=True) if s >= threshold]
        gain = sum(chosen) / sum(targets) - recall
        total += gain * sum(chosen) / len(chosen)
        recall += gain
    return total


@pytest.mark.parametrize("levels", [3, 1000])
def test_average_precision_is_its_definition(levels):
    rng = np.random.default_rng(levels)
    scores = rng.integers(0, levels, (40, 5)) / levels
    targets = rng.integers(0, 2, (40, 5))
    each = [average_precision_by_loop(scores[:, c], targets[:, c].tolist()) for c in range(5)]
    for number, expected in enumerate(each):
        ours = metrics.average_precision(scores[:, number], targets[:, number])
        assert ours == pytest.approx(expected)
    assert metrics.mean_average_precision(scores, targets) == pytest.approx(np.mean(each))


def test_average_precision_by_hand():
    # Found at ranks 1 and 3: (1/1 + 2/3) / 2.
    scores, targets = np.array([0.9, 0.8, 0.7, 0.1]), np.array([1, 0, 1, 0])
    assert metrics.average_precision(scores, targets) == pytest.approx(5 / 6)
    assert metrics.average_precision(np.zeros(4), targets) == 0.5
    # Without a number: last, and together.
    assert metrics.average_precision(np.array([np.nan, np.nan, 0, 0]), targets) == 0.5


def test_classes_in_no_video_are_left_out_of_the_mean():
    scores = np.array([[0.9, 0.5], [0.1, 0.4]])
    assert metrics.mean_average_precision(scores, np.array([[1, 0], [0, 0]])) == 1
    assert np.isnan(metrics.mean_average_precision(scores, np.zeros((2, 2))))


def test_videos_with_several_labels_by_hand():
    targets = np.array([[1, 1, 0, 0], [0, 1, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0]])
    result = metrics.measure(SCORES, targets)
    # Class 0: at ranks 1 and 5 of 5; class 1: 1, 2 and 4; class 2: 2; class 3 does not occur.
    expected = [(1 + 2 / 5) / 2, (1 + 1 + 3 / 4) / 3, 1 / 2]
    np.testing.assert_allclose(result.average_precisions[:3], expected)
    assert np.isnan(result.average_precisions[3])
    assert result.main == result.mean_ap == pytest.approx(np.mean(expected))
    assert (result.count, result.hit1) == (5, 2 / 5)
    # The classes of the videos are at ranks 1 and 2, 1 and 2, 2, none, and 4.
    assert result.video_ap == pytest.approx((1 + 1 + 1 / 2 + 1 / 4) / 4)
    assert str(result) == "5 videos, mAP 70.56 %, over videos 68.75 %, hit@1 40.00 %"


def test_a_best_answer_that_is_shared_must_be_right_in_all():
    scores = np.array([[0.5, 0.5, 0.1], [0.5, 0.5, 0.1], [np.nan, 0.5, 0.1]])
    targets = np.array([[1, 0, 1], [1, 1, 0], [0, 1, 0]])
    assert metrics.best_hits(scores, targets).tolist() == [False, True, False]


def test_labels_of_either_kind_are_measured_as_theirs():
    assert isinstance(metrics.measure(SCORES, LABELS), metrics.Accuracy)
    single = metrics.measure(SCORES, LABELS)
    several = metrics.measure(SCORES, np.eye(4, dtype=np.uint8)[LABELS])
    assert several.mean_ap == single.mean_ap and several.hit1 == single.top1


def test_what_is_not_known_is_not_measured():
    scores = np.array([[0.9, 0.2, 0.8], [0.6, 0.7, 0.9], [0.1, 0.4, 0.3]])
    targets = np.array([[1, 0, UNKNOWN], [0, 1, UNKNOWN], [UNKNOWN, UNKNOWN, 1]], np.uint8)
    result = metrics.multi_label(scores, targets, ("action", "action", "scene"))
    assert result.average_precisions.tolist() == [1, 1, 1] and result.hit1 == 1
    assert result.categories == {"action": 1, "scene": 1} and result.mean_ap == 1
    targets[2] = [1, 0, UNKNOWN]
    result = metrics.multi_label(scores, targets, ("action", "action", "scene"))
    # The third video has the first class, at the lowest of three scores.
    expected = ((1 + 2 / 3) / 2 + 1) / 2
    assert result.categories["action"] == pytest.approx(expected)
    assert np.isnan(result.categories["scene"]) and result.mean_ap == pytest.approx(expected)
    # Its best known answer is the second.
    assert result.hit1 == pytest.approx(2 / 3)
    assert result.video_ap == pytest.approx((1 + 1 + 1 / 2) / 3)
    assert "mAP 91.67 % (action 91.67 %, scene nan %)" in str(result)
