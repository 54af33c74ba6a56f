"""Resizing and cropping in numpy, bit for bit as TensorFlow does it."""

import subprocess
import sys

import numpy as np
import pytest

from jaxvid.data import augment, resize
from jaxvid.data.cpu_tf import tf
from jaxvid.rows import CROP_COUNTS, Protocol, Sampling


@pytest.mark.parametrize("channels", [2, 3])
def test_every_pixel_is_that_of_tensorflow(channels):
    rng = np.random.default_rng(channels)
    sizes = [*rng.integers(1, 90, (40, 4)).tolist(), [31, 47, 31, 47], [30, 40, 60, 80]]
    for height, width, new_height, new_width in sizes:
        frames = rng.integers(0, 256, (2, height, width, channels)).astype(np.uint8)
        new = (new_height, new_width)
        theirs = tf.image.resize(frames, new, method="bilinear", antialias=False)
        np.testing.assert_array_equal(
            resize.bilinear(frames, new), tf.cast(tf.round(theirs), tf.uint8)
        )


@pytest.mark.parametrize("crops", CROP_COUNTS)
@pytest.mark.parametrize("size", [(40, 57), (61, 44)])
@pytest.mark.parametrize("sampling", [Sampling(), Sampling("stacks", clip_len=2)])
def test_views_in_numpy_are_those_of_the_pipeline(crops, size, sampling):
    rng = np.random.default_rng(0)
    channels = 3 if sampling.channels == 3 else 2
    frames = rng.integers(0, 256, (5, *size, channels)).astype(np.uint8)
    clips = rng.integers(0, 5, (3, 4))
    protocol = Protocol(sampling, 36, crops, 32)
    ours = augment.make_views(frames, clips, protocol, np)
    np.testing.assert_array_equal(ours, augment.make_views(frames, clips, protocol))


def test_what_predicts_does_not_load_tensorflow():
    code = """
import sys
import numpy as np
from jaxvid.inference import predictor
from jaxvid.data import pipeline
from jaxvid.rows import Protocol, Sampling
frames = np.zeros((2, 40, 50, 3), np.uint8)
pipeline.make_views(frames, np.array([[0, 1]]), Protocol(Sampling(), 36, "three", 32))
assert "jax" in sys.modules and "tensorflow" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
