"""What moves along time, against loops over frames and channels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvid.layers.backend import tracing_for
from jaxvid.layers.temporal import temporal_conv_per_sample, temporal_shift


def shifted(x, divisor):
    fold = x.shape[-1] // divisor
    out = np.zeros_like(x)
    for t in range(x.shape[1]):
        for c in range(x.shape[-1]):
            source = t + 1 if c < fold else t - 1 if c < 2 * fold else t
            if 0 <= source < x.shape[1]:
                out[:, t, ..., c] = x[:, source, ..., c]
    return out


SIZES = [(8, 16, 8), (4, 12, 3), (3, 19, 4), (2, 4, 2), (5, 7, 8), (1, 8, 4)]


@pytest.mark.parametrize("frames, channels, divisor", SIZES)
def test_against_a_loop(frames, channels, divisor):
    x = np.random.default_rng(0).normal(size=(2, frames, 3, 2, channels)).astype(np.float32)
    np.testing.assert_array_equal(temporal_shift(jnp.asarray(x), divisor), shifted(x, divisor))


@pytest.mark.parametrize("frames, channels, divisor", SIZES)
def test_on_tpu_values_and_gradients_are_the_same(frames, channels, divisor):
    rng = np.random.default_rng(0)
    x, dy = rng.normal(size=(2, 2, frames, 3, 2, channels)).astype(np.float32)
    here = jax.vjp(lambda x: temporal_shift(x, divisor), x)
    with tracing_for("tpu"):
        there = jax.vjp(lambda x: temporal_shift(x, divisor), x)
        there_dx = there[1](dy)
    np.testing.assert_array_equal(there[0], here[0])
    np.testing.assert_array_equal(there_dx, here[1](dy))


def test_a_single_frame_keeps_only_the_channels_that_stay():
    x = np.ones((1, 1, 2, 2, 16), np.float32)
    y = np.asarray(temporal_shift(jnp.asarray(x)))
    assert (y[..., :4] == 0).all() and (y[..., 4:] == 1).all()


def test_the_type_is_kept():
    assert temporal_shift(jnp.ones((1, 2, 1, 1, 8), jnp.bfloat16)).dtype == jnp.bfloat16


@pytest.mark.parametrize("frames, taps", [(5, 3), (4, 5), (1, 3)])
def test_kernels_of_their_own_against_a_loop(frames, taps):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, frames, 3, 2, 4)).astype(np.float32)
    kernel = rng.normal(size=(2, taps, 4)).astype(np.float32)
    wanted = np.zeros_like(x)
    for b in range(2):
        for c in range(4):
            for t in range(frames):
                for tap in range(taps):
                    source = t + tap - taps // 2
                    if 0 <= source < frames:
                        wanted[b, t, ..., c] += kernel[b, tap, c] * x[b, source, ..., c]
    y = temporal_conv_per_sample(jnp.asarray(x), jnp.asarray(kernel))
    np.testing.assert_allclose(y, wanted, rtol=1e-5, atol=1e-6)
