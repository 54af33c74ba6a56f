"""CSN: which convolutions mix channels, which look around, and what the two forms share."""

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvid import zoo
from jaxvid.layers.norm import BatchNorm
from jaxvid.models.csn import SeparatedBottleneck

CLIP = jax.ShapeDtypeStruct((1, 8, 32, 32, 3), jnp.float32)


@pytest.mark.parametrize("name", ["csn_ir_r50", "csn_ip_r152"])
def test_a_kernel_looks_around_or_mixes_channels(name):
    variables = jax.eval_shape(zoo.create_model(name).init, jax.random.key(0), CLIP)
    for path, leaf in flax.traverse_util.flatten_dict(variables["params"], sep="/").items():
        if path.endswith("conv/kernel") and path != "backbone/conv1/conv/kernel":
            *around, inputs, _ = leaf.shape
            assert (around == [3, 3, 3]) == ("/conv2/" in path), path
            assert around in ([1, 1, 1], [3, 3, 3]) and (inputs == 1) == (around[0] == 3), path


def test_stages_halve_time_and_pixels():
    model = zoo.create_model("csn_ir_r50")
    out = jax.eval_shape(lambda x: model.init_with_output(jax.random.key(0), x)[0][1], CLIP)
    assert [out[f"stage{i}"].shape[1:4] for i in (1, 2, 3, 4)] == [
        (8, 8, 8),
        (4, 4, 4),
        (2, 2, 2),
        (1, 1, 1),
    ]


def test_every_norm_has_the_published_epsilon():
    seen = set()

    def note(call, args, kwargs, context):
        if isinstance(context.module, BatchNorm):
            seen.add(context.module.epsilon)
        return call(*args, **kwargs)

    with nn.intercept_methods(note):
        jax.eval_shape(zoo.create_model("csn_ip_test").init, jax.random.key(0), CLIP)
    assert seen == {1e-3}


def test_what_is_mixed_stays_linear():
    block = SeparatedBottleneck(4, 1, 0, 1, preserve=True)
    x = np.random.default_rng(0).normal(size=(1, 2, 3, 3, 16)).astype(np.float32)
    variables = block.init(jax.random.key(0), x)
    # Everything that leaves the 1x1x1 convolution is negative: a ReLU would let nothing through.
    variables["params"]["mix"]["bn"]["bias"] -= 50.0
    variables["params"]["conv2"]["bn"]["bias"] += 500.0
    _, caught = block.apply(variables, x, capture_intermediates=True, mutable=["intermediates"])
    assert np.std(caught["intermediates"]["conv2"]["__call__"][0]) > 0.1
