"""Narrow videos in wide lanes: the same values and gradients as without."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvid.layers import lanes
from jaxvid.layers.backend import noting, tracing_for
from jaxvid.layers.conv import conv, use_lowering
from jaxvid.layers.norm import BatchNorm
from jaxvid.layers.pool import max_pool
from jaxvid.layers.resnet import ResNet

COLUMNS = 16


def video(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def test_rows_have_as_many_blocks_at_every_resolution():
    with tracing_for("tpu"), lanes.packing(8, 56):
        assert [lanes.pixels(columns) for columns in (224, 112, 56, 28, 14, 7)] == [
            32,
            16,
            8,
            4,
            2,
            1,
        ]
        assert lanes.packed(video(1, 2, 3, 56, 8)).shape == (1, 2, 3, 7, 64)
        assert lanes.pixels(30) == 1
    with tracing_for("tpu"), lanes.packing(64, 56):
        assert lanes.pixels(56) == 2 and lanes.pixels(7) == 1


@pytest.mark.parametrize(
    "platform, channels, columns", [("cpu", 8, 56), ("tpu", 128, 56), ("tpu", 8, 7)]
)
def test_elsewhere_and_where_nothing_is_narrow_nothing_is_packed(platform, channels, columns):
    with tracing_for(platform), lanes.packing(channels, columns):
        assert lanes.pixels(columns) == 1 and not lanes.fits(columns, 3, 1, 1)
    with tracing_for("tpu"):
        assert lanes.pixels(columns) == 1


def both_ways(run, x, weight):
    """What was picked, and answers with gradients: packed, and by XLA's own convolution."""
    with use_lowering("native"):
        wanted, backward = jax.vjp(run, x, weight)
    dy = video(*wanted.shape, seed=2)
    with tracing_for("tpu"), lanes.packing(32, COLUMNS), noting() as notes:
        found, ours = jax.vjp(run, x, weight)
        gradients = ours(dy)
    return notes, (found, gradients), (wanted, backward(dy))


@pytest.mark.parametrize(
    "kernel, stride, padding",
    [
        ((1, 1, 1), (1, 1, 1), (0, 0, 0)),
        ((1, 1, 1), (1, 2, 2), (0, 0, 0)),
        ((1, 3, 3), (1, 1, 1), (0, 1, 1)),
        ((1, 3, 3), (1, 2, 2), (0, 1, 1)),
        ((3, 1, 1), (2, 1, 1), (1, 0, 0)),
        ((5, 7, 7), (1, 2, 2), (2, 3, 3)),
        ((1, 2, 2), (1, 2, 2), (0, 0, 0)),
        ((1, 11, 11), (1, 1, 1), (0, 5, 5)),
    ],
)
def test_convolutions_are_the_same(kernel, stride, padding):
    x, weight = video(2, 5, 12, COLUMNS, 3), video(*kernel, 3, 4, seed=1)

    def run(x, weight):
        return conv(x, weight, stride=stride, padding=padding)

    notes, (found, gradients), (wanted, native) = both_ways(run, x, weight)
    assert [way for _, way in notes] == ["lanes"]
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)
    for ours, xlas in zip(gradients, native, strict=True):
        np.testing.assert_allclose(ours, xlas, rtol=1e-4, atol=2e-4)


@pytest.mark.parametrize("groups, outputs, way", [(3, 3, "lanes"), (3, 6, "native")])
def test_depthwise_convolutions_along_time_are_the_same(groups, outputs, way):
    x, weight = video(2, 5, 4, COLUMNS, 3), video(5, 1, 1, 1, outputs, seed=1)

    def run(x, weight):
        return conv(x, weight, padding=(2, 0, 0), groups=groups)

    notes, (found, gradients), (wanted, native) = both_ways(run, x, weight)
    assert list(notes) == [("depthwise convolution", way)]
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
    for ours, xlas in zip(gradients, native, strict=True):
        np.testing.assert_allclose(ours, xlas, rtol=1e-4, atol=1e-4)


def test_a_lowering_that_is_asked_for_counts():
    with tracing_for("tpu"), lanes.packing(32, COLUMNS), noting() as notes:
        with use_lowering("planes"):
            conv(video(1, 2, 4, COLUMNS, 3), video(1, 3, 3, 3, 4), padding=(0, 1, 1))
        # Windows that do not meet whole blocks.
        conv(video(1, 2, 4, COLUMNS, 3), video(1, 3, 3, 3, 4))
    assert list(notes) == [("spatial convolution", "planes"), ("spatial convolution", "native")]


@pytest.mark.parametrize(
    "window, stride, padding",
    [
        ((1, 3, 3), (1, 2, 2), (0, 1, 1)),
        ((1, 2, 2), (1, 2, 2), (0, 0, 0)),
        ((3, 3, 3), (2, 1, 1), (1, 1, 1)),
        ((2, 1, 1), (2, 1, 1), (0, 0, 0)),
    ],
)
def test_maxima_and_whom_their_gradients_reach_are_the_same(window, stride, padding):
    # Few values, so that most windows hold several of the largest.
    x = jnp.asarray(np.random.default_rng(0).integers(-3, 1, (2, 5, 8, COLUMNS, 3)), jnp.float32)
    wanted, backward = jax.vjp(lambda x: max_pool(x, window, stride, padding), x)
    dy = video(*wanted.shape)
    with tracing_for("tpu"), lanes.packing(32, COLUMNS):
        assert lanes.fits(COLUMNS, window[2], stride[2], padding[2])
        found, ours = jax.vjp(lambda x: max_pool(x, window, stride, padding), x)
        dx = ours(dy)[0]
    np.testing.assert_array_equal(found, wanted)
    np.testing.assert_allclose(dx, backward(dy)[0], atol=1e-6)


@pytest.mark.parametrize("train", [False, True])
def test_norms_are_those_of_channels(train):
    x = video(2, 3, 4, COLUMNS, 3) * jnp.arange(1.0, 4) + 2
    variables = {
        "params": {"scale": jnp.arange(1.0, 4), "bias": jnp.arange(3.0)},
        "batch_stats": {"mean": jnp.full(3, 1.5), "var": jnp.full(3, 2.0)},
    }
    weight = video(*x.shape, seed=1)

    def loss(params, x):
        every = variables | {"params": params}
        y, updated = BatchNorm().apply(every, x, train=train, mutable=["batch_stats"])
        return (y * weight).sum(), (y, updated)

    def run():
        return jax.value_and_grad(loss, (0, 1), has_aux=True)(variables["params"], x)

    wanted = run()
    with tracing_for("tpu"), lanes.packing(32, COLUMNS):
        assert lanes.pixels(COLUMNS) == 4
        found = run()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-3), found, wanted)


def test_a_trunk_computes_the_same_without_leaving_the_lanes():
    trunk = ResNet((1, 1), width=8, stem_kernel=(5, 7, 7), inflate=((3,), (3,)), packs=True)
    x = video(2, 4, 64, 64, 3)
    variables = trunk.init(jax.random.key(0), x, True)

    def loss(params):
        (y, _), updated = trunk.apply(
            variables | {"params": params}, x, True, mutable=["batch_stats"]
        )
        return (y * video(*y.shape)).sum(), updated

    wanted = jax.value_and_grad(loss, has_aux=True)(variables["params"])
    with tracing_for("tpu"), noting() as notes:
        found = jax.value_and_grad(loss, has_aux=True)(variables["params"])
    assert {way for _, way in notes} == {"lanes"}
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3 * np.abs(b).max()),
        found,
        wanted,
    )
