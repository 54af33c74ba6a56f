"""The weights of classes against what they are to make equal."""

import numpy as np
import pytest

from jaxvid import config as configs
from jaxvid.base.errors import JaxvidError
from jaxvid.data import datasets, order
from jaxvid.training import weights
from tests import handed

CLASSES = ("wave", "point", "a:b", "never")
LABELS = [(0,)] * 6 + [(1,)] * 3 + [(2,)]
TAGS = [(0,)] * 6 + [(0, 1)] * 3 + [(0, 2)]


def weigh(said, labels=LABELS, loss="softmax", balance=0.0):
    c = configs.from_row("tsm_test")
    c.train.update({"class_weights": said, "loss": loss})
    c.data.balance = balance
    source = Videos(labels)
    return np.array(weights.of_classes(handed.frozen(c), datasets.Split(source, CLASSES)))


class Videos(list):
    """A source that has nothing but labels."""

    @property
    def labels(self):
        return list(self)


@pytest.mark.parametrize("balance", [0.0, 0.5, 1.0])
def test_balanced_classes_weigh_the_same_in_all(balance):
    found = weigh("balanced", balance=balance)
    clips = order.clips_of_classes(LABELS, 4, balance)
    np.testing.assert_allclose((found * clips)[:3], 10 / 3)
    assert found[3] == 1
    if balance == 1:
        np.testing.assert_allclose(found, 1)


def test_given_weights_are_relative():
    found = weigh("wave:2|a:b:4")
    np.testing.assert_allclose(found[[0, 2]] / found[1], [2, 4])
    np.testing.assert_allclose(found @ [6, 3, 1, 0], 10)
    np.testing.assert_allclose(found, weigh("wave:1|point:0.5|a:b:2"))
    assert weigh("").size == 0


def test_of_several_labels_presence_weighs_against_absence():
    found = weigh("balanced", TAGS, "sigmoid")
    np.testing.assert_allclose(found, [1, 7 / 3, 9, 1])
    np.testing.assert_allclose(weigh("point:5", TAGS, "sigmoid"), [1, 5, 1, 1])


@pytest.mark.parametrize(
    "said, message",
    [
        ("wav:2", "class_weights: 'wav:2' names none of the 4 classes"),
        ("even", "names none of the 4 classes: write balanced, or NAME:NUMBER"),
        ("wave:-1", "'wave:-1' must end in a number from 0"),
        ("wave:nan", "must end in a number from 0"),
        ("wave:0|point:0|a:b:0", "leaves no clip a weight"),
    ],
)
def test_other_texts_are_refused(said, message):
    with pytest.raises(JaxvidError, match=message):
        weigh(said)
