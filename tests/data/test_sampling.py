"""Frame numbers: against the reference's, and the laws any sampler must keep."""

import dataclasses
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxvid.base.errors import JaxvidError
from jaxvid.data import sampling
from jaxvid.rows import Sampling
from tests.data import golden_data

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "sampling.json"


def test_reference_indices():
    assert golden_data.check_sampling(GOLDEN) == 144


@settings(max_examples=200, deadline=None)
@given(
    st.builds(
        Sampling,
        sampler=st.sampled_from(["frames", "dense", "timed", "uniform", "untrimmed"]),
        clip_len=st.integers(1, 20),
        frame_interval=st.integers(1, 9),
        num_clips=st.integers(2, 6),
        twice_sample=st.booleans(),
        out_of_bound=st.sampled_from(["loop", "repeat_last"]),
        keep_tail_frames=st.booleans(),
        target_fps=st.sampled_from([None, 30.0]),
        num_sample_positions=st.integers(1, 4),
    ),
    st.integers(1, 400),
    st.sampled_from([None, 12.5, 60.0]),
    st.booleans(),
)
def test_frames_lie_inside_the_video(how, total, fps, test):
    rng = np.random.default_rng(0)
    frames = sampling.sample(how, total, fps, test=test, rng=rng)
    assert frames.dtype == np.int64
    assert frames.ndim == 2 and frames.shape[1] == how.clip_len and frames.shape[0] >= 1
    assert frames.min() >= 0 and frames.max() < total


def test_draws_follow_the_generator():
    how = Sampling(clip_len=1, num_clips=8)
    draws = [
        sampling.sample(how, 300, test=False, rng=np.random.default_rng(seed)) for seed in (3, 3, 4)
    ]
    np.testing.assert_array_equal(draws[0], draws[1])
    assert (draws[0] != draws[2]).any()


def test_timed_clips_span_the_same_time_at_any_rate():
    how = Sampling("timed", clip_len=4, frame_interval=5, num_clips=4, target_fps=30.0)
    # At 60 frames a second 20 frames of 30 are 40; 60 of 100 frames are left to start in.
    clips = sampling.sample(how, 100, 60.0, test=True)
    np.testing.assert_array_equal(
        clips, [[0, 13, 26, 39], [15, 28, 41, 54], [30, 43, 56, 69], [45, 58, 71, 84]]
    )
    np.testing.assert_array_equal(sampling.sample(how, 10, 30.0, test=True)[3], [0, 6, 9, 9])
    one = sampling.sample(dataclasses.replace(how, num_clips=1), 100, 60.0, test=True)
    np.testing.assert_array_equal(one, [[30, 43, 56, 69]])
    rng = np.random.default_rng(0)
    draws = np.concatenate(
        [sampling.sample(how, 100, 60.0, test=False, rng=rng)[:, 0] for _ in range(200)]
    )
    assert draws.min() == 0 and draws.max() == 59


def test_segments_of_a_frame_net_form_views():
    how = Sampling(clip_len=1, num_clips=4, twice_sample=True)
    views = sampling.sample_views(how, 100, test=True)
    np.testing.assert_array_equal(views, [[12, 37, 62, 87], [0, 25, 50, 75]])


def test_clips_are_views():
    how = Sampling(clip_len=4, frame_interval=2, num_clips=3)
    views = sampling.sample_views(how, 27, test=True)
    np.testing.assert_array_equal(views, [[0, 2, 4, 6], [10, 12, 14, 16], [20, 22, 24, 26]])


@pytest.mark.parametrize(
    "how, total, test, words",
    [
        (Sampling(), 0, True, "total_frames is 0"),
        (Sampling(sampler="tight"), 9, True, "'tight' is unknown"),
        (Sampling(), 9, False, "Generator"),
        (Sampling(out_of_bound="stop"), 9, True, "choose loop or repeat_last"),
        (Sampling(clip_len=4, twice_sample=True), 9, True, "num_clips of at least 2"),
    ],
)
def test_errors_say_the_way_out(how, total, test, words):
    with pytest.raises(JaxvidError, match=words):
        sampling.sample(how, total, test=test)


def test_sampling_does_not_load_tensorflow():
    code = "import sys, jaxvid.data.sampling; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
