"""Attention as one TPU kernel, interpreted: what it computes, and its gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvid.layers.attention import attend
from jaxvid.layers.fused import fused


def draw(
    batch,
    queries,
    keys,
    heads,
    width,
    value_width,
    paired=False,
    masks=0,
    places=0,
    dtype=np.float32,
):
    rng = np.random.default_rng(0)
    shapes = ((queries, heads, width), (keys, heads, width), (keys, heads, value_width))
    qkv = [jnp.asarray(rng.normal(size=(batch, *shape)), dtype) for shape in shapes]
    bias = jnp.asarray(rng.normal(size=(heads, queries, keys)), jnp.float32) if paired else None
    mask = None
    if masks:
        mask = rng.random((masks, queries, keys)) < 0.6
        mask[..., 0] = True
        mask = jnp.asarray(mask)
    positions = (None, None)
    if places:
        shapes = ((batch, queries, heads, places), (keys, places))
        positions = [jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes]
    return qkv, bias, mask, positions


def both_ways(qkv, bias, mask, positions):
    """Value and gradients, of the kernel and in plain operations."""

    learnt, places = {"qkv": qkv, "bias": bias, "positions": positions[0]}, positions[1]

    def value_and_gradients(call):
        def loss(learnt):
            return jnp.sin(call(**learnt).astype(jnp.float32)).sum()

        return jax.tree.leaves([call(**learnt), jax.grad(loss)(learnt)])

    def ours(qkv, bias, positions):
        return fused(*qkv, bias, mask, positions, places, scale=0.3, interpret=True)

    def plain(qkv, bias, positions):
        pairs = {
            "bias": None if bias is None else bias[None],
            "mask": None if mask is None else mask[:, None],
            "positions": None if places is None else (positions, places),
        }
        return attend(*qkv, scale=0.3, implementation="xla", **pairs)

    return value_and_gradients(ours), value_and_gradients(plain)


@pytest.mark.parametrize(
    "shape",
    [
        pytest.param((4, 20, 24, 3, 32, 32), id="all heads in one group"),
        pytest.param((2, 20, 20, 10, 32, 32, True, 2), id="a last group of two heads"),
        pytest.param((2, 20, 20, 8, 64, 32, True), id="values of other channels"),
        pytest.param((4, 7, 9, 2, 5, 6, True, 2), id="masks in turn and odd sizes"),
        pytest.param((2, 20, 24, 2, 32, 32, False, 1), id="one mask for all"),
        pytest.param((2, 20, 24, 3, 24, 24, False, 0, 5), id="positions"),
        pytest.param((2, 600, 40, 2, 16, 16, False, 0, 3), id="positions in blocks"),
        pytest.param((2, 600, 40, 2, 16, 16), id="a last block short of queries"),
    ],
)
def test_kernel_equals_plain_operations(shape):
    ours, plain = both_ways(*draw(*shape))
    assert [x.shape for x in ours] == [x.shape for x in plain]
    for x, y in zip(ours, plain, strict=True):
        np.testing.assert_allclose(x, y, atol=2e-5)


def test_kernel_takes_bfloat16_and_sums_in_float32():
    ours, plain = both_ways(*draw(2, 24, 600, 2, 32, 32, True, 1, dtype=jnp.bfloat16))
    assert [x.dtype for x in ours] == [x.dtype for x in plain]
    for x, y in zip(ours, plain, strict=True):
        np.testing.assert_allclose(np.asarray(x, np.float32), np.asarray(y, np.float32), atol=2e-2)
