"""UniFormer: which positions a block relates, and the sizes of its maps."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvid.layers.conv import use_lowering
from jaxvid.layers.drop import DropPath
from jaxvid.models import uniformer


@pytest.fixture(autouse=True)
def quick_to_compile():
    """XLA's own convolution: it is slow to run and quick to compile."""
    with use_lowering("native"):
        yield


def reach_of_the_middle(block: nn.Module) -> np.ndarray:
    """Which positions of a map of side 9 the middle of the block's answer depends on."""
    x = jax.random.normal(jax.random.key(0), (1, 9, 9, 9, 4))

    def middle(x, variables):
        return block.apply(variables, x, train=False)[0, 4, 4, 4].sum()

    @jax.jit
    def slope(x):
        return jax.grad(middle)(x, block.init(jax.random.key(1), x, train=False))

    return np.abs(np.asarray(slope(x)))[0].max(-1) > 0


def test_a_local_block_relates_neighbours():
    # One step by the convolution for positions, two by the affinities.
    expected = np.zeros((9, 9, 9), bool)
    expected[1:8, 1:8, 1:8] = True
    reach = reach_of_the_middle(uniformer.LocalBlock(mlp_ratio=2, drop_path=0.0))
    np.testing.assert_array_equal(reach, expected)


def test_a_global_block_relates_all_positions():
    assert reach_of_the_middle(uniformer.GlobalBlock(2, mlp_ratio=2, drop_path=0.0)).all()


def test_stages_cut_space_and_only_the_stem_cuts_time():
    model = uniformer.Model(**uniformer.VARIANTS["uniformer_test"])
    video = jax.ShapeDtypeStruct((2, 5, 70, 100, 3), jnp.float32)
    (_, out), _ = jax.eval_shape(model.init_with_output, jax.random.key(0), video)
    sizes = [out[f"stage{n}"].shape[1:4] for n in (1, 2, 3, 4)]
    assert sizes == [(3, 17, 25), (3, 8, 12), (3, 4, 6), (3, 2, 3)]


def test_blocks_drop_out_the_more_the_deeper_they_are():
    settings = uniformer.VARIANTS["uniformer_test"]
    model = uniformer.Model(**{**settings, "depths": (1, 1, 2, 1), "drop_path": 0.4})
    rates = []

    def note(call, args, kwargs, context):
        if isinstance(context.module, DropPath):
            rates.append(context.module.rate)
        return call(*args, **kwargs)

    with nn.intercept_methods(note):
        video = jax.ShapeDtypeStruct((1, 2, 32, 32, 3), jnp.float32)
        jax.eval_shape(model.init, jax.random.key(0), video)
    np.testing.assert_allclose(rates, np.repeat([0, 0.1, 0.2, 0.3, 0.4], 2))
