"""Charts of datasets: they are drawn whatever the dataset holds, and show what it is."""

import io

import numpy as np
import pytest
from PIL import Image

from jaxvid.reports import charts


def drawn(draw, *what, **how):
    file = io.BytesIO()
    draw(*what, file, **how)
    return np.asarray(Image.open(file).convert("RGB")).astype(int)


def share_of(picture, color):
    """The share of pixels near a colour."""
    wanted = [int(color[at : at + 2], 16) for at in (1, 3, 5)]
    return (np.abs(picture - wanted).max(-1) < 12).mean()


def test_bars_are_as_long_as_classes_are_large():
    names = ["wave", "$x_1$ " + "very " * 20, "é"]
    few = drawn(charts.classes, names, {"train": np.array([1, 1, 10])})
    many = drawn(charts.classes, names, {"train": np.array([10, 10, 10])})
    blue = "#2b6cb0"
    assert share_of(many, blue) / share_of(few, blue) == pytest.approx(30 / 12, rel=0.1)
    both = drawn(charts.classes, names, {"a": np.array([9, 9, 9]), "b": np.array([0, 0, 0])})
    assert share_of(both, blue) > 20 * share_of(both, "#dd6b20")


def test_many_classes_are_a_curve():
    counts = {"train": np.arange(400), "test": np.zeros(400)}
    picture = drawn(charts.classes, [str(n) for n in range(400)], counts)
    assert picture.shape[0] < 600 and 0 < share_of(picture, "#2b6cb0") < 0.05


@pytest.mark.parametrize(
    "values", [[3.0], [np.nan], [np.nan, 30.0, 29.97], [0.5, 0.6, 1e6] * 100, []]
)
def test_any_values_are_drawn(values):
    picture = drawn(charts.histogram, {"train": np.array(values)}, "seconds")
    assert picture.shape[1] == 704


def test_what_a_clip_spans_is_marked():
    values = {"train": np.array([10.0, 20.0])}
    plain, marked = (drawn(charts.histogram, values, "frames", mark=mark) for mark in (0, 61))
    dark = [(picture[60:300].max(-1) < 60).sum(0).max() for picture in (plain, marked)]
    assert dark[1] >= 100
