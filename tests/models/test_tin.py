"""TIN: how channels move between frames."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvid.layers.temporal import temporal_conv_per_sample
from jaxvid.models.tin import TemporalInterlace, shift_kernel

X = np.random.default_rng(0).normal(size=(1, 8, 2, 3, 16)).astype(np.float32)


def at(video, frame):
    """A frame [H, W, C], zeros beyond both ends."""
    return video[0, frame] if 0 <= frame < video.shape[1] else np.zeros_like(video[0, 0])


@pytest.mark.parametrize("distance", [0.0, 1.0, -2.0, 0.3, -0.3, 1.75, -1.25, 2.0])
def test_a_frame_moves_by_its_distance_and_is_interpolated(distance):
    kernel = shift_kernel(jnp.full((1, 16), distance))
    moved = np.asarray(temporal_conv_per_sample(jnp.asarray(X), kernel))[0]
    whole = int(np.floor(distance))
    part = distance - whole
    wanted = [(1 - part) * at(X, t - whole) + part * at(X, t - whole - 1) for t in range(8)]
    np.testing.assert_allclose(moved, wanted, rtol=1e-5, atol=1e-6)


@functools.cache
def compiled():
    return jax.jit(TemporalInterlace().apply)


def interlace(bias, weights_bias=(0.0, 0.0)):
    """The module whose distances and weights do not look at the video."""
    shapes = jax.eval_shape(TemporalInterlace().init, jax.random.key(0), X)
    variables = jax.tree.map(lambda a: np.zeros(a.shape, a.dtype), shapes)
    variables["params"]["distances_fc2"]["bias"] = np.asarray(bias, np.float32)
    variables["params"]["weights_conv"]["bias"] = np.asarray(weights_bias, np.float32)
    return np.asarray(compiled()(variables, X))[0]


def test_two_groups_move_forth_and_two_back_the_rest_stays():
    half_frame = 0.5108
    moved = interlace([half_frame, 100.0])
    np.testing.assert_array_equal(moved[..., 4:], X[0, ..., 4:])
    for channel, distance in enumerate([0.5, 2.0, -0.5, -2.0]):
        alone = temporal_conv_per_sample(
            X[..., channel : channel + 1], shift_kernel(jnp.full((1, 1), distance))
        )
        np.testing.assert_allclose(moved[..., channel : channel + 1], alone[0], atol=1e-4)


def test_weights_alternate_between_the_groups():
    still, weighed = interlace([0.0, 0.0]), interlace([0.0, 0.0], [100.0, -100.0])
    for channel, weight in enumerate([2.0, 0.0, 2.0, 0.0]):
        np.testing.assert_allclose(weighed[..., channel], weight * still[..., channel], atol=1e-6)
