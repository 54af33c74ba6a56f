"""R(2+1)D: what stands between the halves of its convolutions, and its two epsilons."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from jaxvid import zoo
from jaxvid.layers.norm import BatchNorm
from jaxvid.models.r2plus1d import middle_channels


@pytest.mark.parametrize(
    "inputs, outputs, side, middle",
    [(3, 64, 7, 83), (64, 64, 3, 144), (64, 128, 3, 230), (64, 128, 1, 54), (256, 512, 1, 219)],
)
def test_channels_in_the_middle_are_the_published_ones(inputs, outputs, side, middle):
    assert middle_channels(inputs, outputs, side, side) == middle
    factored = middle * (inputs * side**2 + 3 * outputs)
    assert 0.98 < factored / (3 * side**2 * inputs * outputs) <= 1


def test_every_convolution_is_two_and_inner_norms_have_their_own_epsilon():
    epsilons = {}

    def note(call, args, kwargs, context):
        *_, name = context.module.path or [""]
        if isinstance(context.module, BatchNorm):
            epsilons.setdefault(name, set()).add(context.module.epsilon)
        return call(*args, **kwargs)

    clip = jax.ShapeDtypeStruct((1, 8, 32, 32, 3), jnp.float32)
    with nn.intercept_methods(note):
        variables = jax.eval_shape(zoo.create_model("r2plus1d_test").init, jax.random.key(0), clip)
    assert epsilons == {"middle": {1e-5}, "bn": {1e-3}}
    kernels = [x.shape[:3] for x in jax.tree.leaves(variables["params"]) if x.ndim == 5]
    assert set(kernels) == {(1, 7, 7), (1, 3, 3), (1, 1, 1), (3, 1, 1)}
    assert kernels.count((1, 1, 1)) == 2  # both halves of the one shortcut


def test_stages_halve_time_and_pixels():
    clip = jax.ShapeDtypeStruct((1, 8, 64, 64, 3), jnp.float32)
    model = zoo.create_model("r2plus1d_r34_8f")
    out = jax.eval_shape(lambda x: model.init_with_output(jax.random.key(0), x)[0][1], clip)
    assert [out[name].shape[1:4] for name in ("stem", "stage1", "stage2", "stage3", "stage4")] == [
        (8, 16, 16),
        (8, 16, 16),
        (4, 8, 8),
        (2, 4, 4),
        (1, 2, 2),
    ]
