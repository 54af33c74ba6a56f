"""X3D and VoV3D: what their heads answer at larger crops, and how training begins."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvid import zoo
from jaxvid.layers.conv import use_lowering
from jaxvid.layers.expanded import ExpandedHead
from jaxvid.models import vov3d, x3d


def draw(shapes, rng):
    """Weights that let signals through."""

    def fill(leaf):
        if len(leaf.shape) < 2:
            return rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32)
        return rng.normal(0, np.prod(leaf.shape[:-1]) ** -0.5, leaf.shape).astype(np.float32)

    return jax.tree.map(fill, shapes)


def test_a_larger_crop_is_answered_window_by_window():
    """Each window as a crop of its own: probabilities, not logits, are averaged."""
    rng = np.random.default_rng(1)
    x = rng.normal(0, 5, size=(2, 3, 3, 4, 5)).astype(np.float32)
    head = ExpandedHead(num_classes=6, width=7, hidden=8, window=2)
    variables = draw(jax.eval_shape(head.init, jax.random.key(0), x), rng)
    apply = jax.jit(lambda x: head.apply(variables, x)[0])
    answer = jax.nn.softmax(apply(x))
    windows = [x[:, :, i : i + 2, j : j + 2] for i in range(2) for j in range(3)]
    logits = jnp.stack([apply(window) for window in windows])
    np.testing.assert_allclose(answer, jax.nn.softmax(logits).mean(0), atol=1e-5)
    assert np.abs(answer - jax.nn.softmax(logits.mean(0))).max() > 1e-3


def test_windows_are_those_of_the_training_crop():
    for row in [*x3d.ROWS, *vov3d.ROWS]:
        window = zoo.create_model(row.name).window
        assert window == (None if row.variant in ("x3d_s", "x3d_m") else -(-row.train_crop // 32))


@pytest.mark.parametrize(
    "model",
    [x3d.Model(5, (1, 1, 1, 1), 8, 16), vov3d.Model(5, (1, 1, 1, 1), 1, 8, 16)],
    ids=["x3d", "vov3d"],
)
def test_the_last_map_of_64_pixels_has_four_positions_of_all_frames(model):
    # XLA's own convolution and no optimisation: slow to run and quick to compile.
    @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    def answers(variables, video):
        with use_lowering("native"):
            logits = [model.clone(window=window).apply(variables, video) for window in (1, 2, 7)]
        return [jax.nn.softmax(logits) for logits, _ in logits], logits[0][1]

    video = np.random.default_rng(0).normal(size=(1, 3, 64, 64, 3)).astype(np.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), video)
    (each, whole, larger), out = answers(draw(shapes, np.random.default_rng(1)), video)
    assert out["stage4"].shape[1:4] == (3, 2, 2)
    np.testing.assert_array_equal(whole, larger)
    assert np.abs(each - whole).max() > 1e-5


@pytest.mark.parametrize(
    "block", [x3d.Block(4, 6), vov3d.Aggregation(4, 8, 1)], ids=["x3d", "vov3d"]
)
def test_training_begins_with_blocks_that_add_nothing(block):
    x = np.random.default_rng(0).normal(size=(1, 2, 3, 3, 4)).astype(np.float32)
    answer, _ = block.init_with_output(jax.random.key(0), x)
    np.testing.assert_array_equal(answer, np.maximum(x, 0))
