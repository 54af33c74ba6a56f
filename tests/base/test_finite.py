"""Arrays that hold what is no number are named, and those that only sum to one are not."""

import numpy as np
import pytest

from jaxvid.base import finite
from jaxvid.base.errors import JaxvidError

LARGEST = np.finfo(np.float32).max


@pytest.mark.parametrize(
    "values, bad",
    [
        ([1.0, -2.0], 0),
        ([np.nan, 1.0, np.inf, -np.inf], 3),
        ([np.inf, -np.inf], 2),  # their sum is no number either
        ([LARGEST, LARGEST], 0),  # their sum is infinite, they are not
        ([], 0),
    ],
)
@pytest.mark.parametrize("shape", [(-1,), (1, -1)])
def test_values_that_are_no_numbers_are_counted(values, bad, shape):
    assert finite.count(np.array(values, np.float32).reshape(shape)) == bad


def test_half_precision_is_summed_in_single():
    """The sum of 4096 times its largest number fits float32 only."""
    array = np.full(4096, 65504, np.float16)
    assert finite.count(array) == 0
    array[7] = np.nan
    assert finite.count(array) == 1


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64])
def test_whole_numbers_are_numbers(dtype):
    assert finite.count(np.ones(3, dtype)) == 0


def test_arrays_with_bad_values_are_named_with_how_many():
    good, bad = np.ones((2, 3), np.float32), np.ones((2, 3), np.float32)
    bad[1] = np.nan
    finite.refuse("a.npz", [("x", good), ("y", good)])
    with pytest.raises(JaxvidError, match=r"^a.npz holds .* in y \(3 of 6\): take an earlier"):
        finite.refuse("a.npz", [("x", good), ("y", bad)])
