"""Whose turn it is: as the videos are, balanced over classes, and anything between."""

import itertools

import numpy as np
import pytest

from jaxvid.data import order
from tests import handed
from tests.data.test_pipeline import make_config, split, take  # noqa: F401

# Ten videos of one class, three of another, one of a third; the fourth class has none.
LABELS = [(0,)] * 10 + [(1,)] * 3 + [(3,)]
TAGS = [(0, 1), (0,), (0,), (0,), (0, 2), (0,)]


def drawn(labels, balance, count, seed=3):
    turn = order.Order(labels, balance, seed)
    return [turn(number) for number in range(count)]


def test_without_balance_every_epoch_has_every_video():
    videos = drawn(LABELS, 0.0, 28)
    assert videos[:14] == order.epoch_order(3, 0, 14).tolist()
    assert videos[14:] == order.epoch_order(3, 1, 14).tolist()


def test_balanced_classes_come_equally_often_and_their_videos_in_turn():
    videos = drawn(LABELS, 1.0, 90)
    classes = [LABELS[video][0] for video in videos]
    rounds = [classes[at : at + 3] for at in range(0, 90, 3)]
    assert all(sorted(each) == [0, 1, 3] for each in rounds)
    assert len(set(map(tuple, rounds))) > 3, "classes have one order in all rounds"
    common = [video for video in videos if video < 10]
    passes = [common[at : at + 10] for at in range(0, 30, 10)]
    assert all(sorted(each) == list(range(10)) for each in passes)
    assert passes[0] != passes[1]
    assert drawn(LABELS, 1.0, 90, seed=4) != videos


@pytest.mark.parametrize("balance", [0.25, 0.5, 0.7])
@pytest.mark.parametrize("labels", [LABELS, TAGS])
def test_a_share_of_the_turns_is_balanced(labels, balance):
    count = 600 * len(labels)
    often = np.bincount(drawn(labels, balance, count), minlength=len(labels)) / 600
    np.testing.assert_allclose(often, order.turns(labels, balance), atol=0.02)
    assert often.sum() == pytest.approx(len(labels))
    # The turns as they are still have every video once before any comes again.
    turn = order.Order(labels, balance, 3)
    plain = [turn(n) for n in range(count) if int((n + 1) * balance) == int(n * balance)]
    assert sorted(plain[: len(labels)]) == list(range(len(labels)))


def test_what_a_class_gets():
    half = order.clips_of_classes(LABELS, 4, 0.5)
    np.testing.assert_allclose(half, [5 + 7 / 3, 1.5 + 7 / 3, 0, 0.5 + 7 / 3])
    np.testing.assert_allclose(order.clips_of_classes(LABELS, 4, 0.0), [10, 3, 0, 1])
    # A video of two classes comes in the turns of both.
    np.testing.assert_allclose(order.turns(TAGS, 1.0)[0], 2 / 6 + 2)


def test_batches_are_the_same_wherever_and_whenever(split):  # noqa: F811
    config = make_config(balance=0.6)
    whole = take(handed.train_batches(split, config), 6)
    later = take(handed.train_batches(split, config, start_step=4), 2)
    parts = [take(handed.train_batches(split, config, process=n, processes=2), 6) for n in range(2)]
    for number, batch in enumerate(whole):
        joined = np.concatenate([part[number]["index"] for part in parts])
        np.testing.assert_array_equal(batch["index"], joined)
        if number >= 4:
            np.testing.assert_array_equal(batch["video"], later[number - 4]["video"])
    turn = order.Order(split.source.labels, 0.6, 1)
    seen = itertools.chain.from_iterable(batch["index"] for batch in whole)
    assert list(seen) == [turn(number) for number in range(24)]
