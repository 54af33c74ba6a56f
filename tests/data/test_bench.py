"""The measurement of the input pipeline."""

import time

import numpy as np
import pytest

from jaxvid.data import bench
from jaxvid.errors import JaxvidError


def slow_batches(count):
    for _ in range(count):
        time.sleep(0.02)
        yield {"video": np.zeros((2, 3, 5, 4, 4, 3), np.uint8)}


def test_rates():
    speed = bench.measure(slow_batches(6), 4)
    assert 0 < speed.clips <= 6 / 0.02
    assert speed.frames == pytest.approx(5 * speed.clips)
    assert speed.megabytes == pytest.approx(speed.frames * 48 / 1e6)
    assert speed.first_batch >= 0.02


def test_one_batch_is_not_enough():
    with pytest.raises(JaxvidError, match="only one batch"):
        bench.measure(slow_batches(1), 4)


def test_missing_config(capsys):
    with pytest.raises(SystemExit, match="1"):
        bench.main(["--config=nowhere.py"])
    assert capsys.readouterr().err == (
        "error: there is no config file nowhere.py: give one of configs/*.py\n"
    )
