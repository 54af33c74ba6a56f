"""Operations counted in programs: as often as they are computed, whatever computes them."""

import jax
import jax.numpy as jnp
import pytest

from jaxvid.devices import costs


def count(function, *arguments):
    return costs.count(jax.jit(function).trace(*arguments).jaxpr)


def backward(function):
    return jax.grad(lambda *arguments: function(*arguments).sum(), (0, 1))


def test_a_matrix_product_is_two_operations_for_each_product():
    x, w = jnp.zeros((5, 6, 7)), jnp.zeros((5, 7, 8))
    counted = count(jnp.matmul, x, w)
    assert counted == costs.Counted(2 * 5 * 6 * 7 * 8)
    # Each gradient takes as many.
    assert count(backward(lambda x, w: jnp.tanh(x @ w)), x, w).flops == 3 * counted.flops


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("groups", [1, 4, 16])
def test_a_convolution_and_its_gradients(stride, groups):
    video, kernel = jnp.zeros((2, 8, 12, 12, 16)), jnp.zeros((3, 3, 3, 16 // groups, 32))

    def convolve(video, kernel):
        layout = ("NTHWC", "THWIO", "NTHWC")
        return jnp.tanh(
            jax.lax.conv_general_dilated(
                *(video, kernel, 3 * (stride,), "SAME"),
                dimension_numbers=layout,
                feature_group_count=groups,
            )
        )

    forward = count(convolve, video, kernel).flops
    assert forward == 2 * (2 * 8 * 12 * 12 // stride**3 * 32) * (27 * 16 // groups)
    assert count(backward(convolve), video, kernel).flops == 3 * forward


def test_a_loop_is_counted_as_often_as_it_goes_round():
    x = jnp.zeros((8, 8))

    def loop(length):
        return lambda x, w: jax.lax.scan(lambda c, _: (jnp.tanh(c @ w), 0), x, None, length)[0]

    assert count(loop(10), x, x) == costs.Counted(10 * 2 * 8**3, loops=True)
    assert count(loop(1), x, x) == costs.Counted(2 * 8**3)
    assert count(backward(loop(10)), x, x).flops == 3 * 10 * 2 * 8**3
    forever = count(lambda x: jax.lax.while_loop(lambda x: x.sum() < 1, lambda x: x @ x, x), x)
    assert forever == costs.Counted(2 * 8**3, loops=True)


def test_what_is_recomputed_is_counted_again_and_of_branches_the_costliest():
    x = jnp.zeros((8, 8))

    def layers(x, w):
        return jnp.tanh(jnp.tanh(x @ w) @ w)

    kept = count(backward(layers), x, x).flops
    assert count(backward(jax.checkpoint(layers)), x, x).flops > kept
    branches = count(lambda x: jax.lax.cond(x[0, 0] > 0, lambda x: x @ x @ x, lambda x: x, x), x)
    assert branches.flops == 2 * 2 * 8**3


def test_kernels_written_by_hand_are_said():
    from jax.experimental import pallas

    def double(x_ref, o_ref):
        o_ref[...] = x_ref[...] @ x_ref[...]

    x = jnp.zeros((8, 8))
    kernel = pallas.pallas_call(double, out_shape=jax.ShapeDtypeStruct(x.shape, x.dtype))
    assert count(kernel, x) == costs.Counted(kernels=True)
    assert count(lambda x: kernel(x) @ x, x) == costs.Counted(2 * 8**3, kernels=True)
