"""DualFormer: its two kinds of attention against their definitions, its sizes and its rates."""

import fnmatch
import math

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvid import config as configs
from jaxvid import zoo
from jaxvid.base.errors import JaxvidError
from jaxvid.layers.conv import use_lowering
from jaxvid.models import dualformer
from jaxvid.training import optim


def draw(*shape):
    return jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)


def variables_of(module, *arguments):
    """Random variables, each parameter away from its initial constant."""
    shapes = jax.eval_shape(module.init, jax.random.key(0), *arguments)
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda a: jnp.asarray(rng.uniform(0.1, 0.6, a.shape), a.dtype), shapes)


@pytest.fixture(scope="module", autouse=True)
def quick_to_compile():
    """XLA's own convolution: it is slow to run and quick to compile."""
    with use_lowering("native"):
        yield


def test_tokens_see_their_own_window_only():
    local = dualformer.LocalAttention(2, (2, 2, 2))
    x = draw(1, 4, 4, 4, 8)
    variables = variables_of(local, x)
    before, after = (local.apply(variables, clip) for clip in (x, x.at[0, 1, 2, 3].add(1.0)))
    changed = np.abs(before - after).max(-1)[0] > 1e-6
    assert changed[:2, 2:, 2:].all() and changed.sum() == 8


def test_a_window_at_the_edge_is_as_if_it_were_alone():
    local = dualformer.LocalAttention(2, (2, 3, 2))
    x = draw(2, 2, 5, 3, 8)
    variables = variables_of(local, x)
    whole = local.apply(variables, x)
    np.testing.assert_allclose(
        whole[:, :, 3:, 2:], local.apply(variables, x[:, :, 3:, 2:]), rtol=1e-5, atol=1e-6
    )


def test_every_token_sees_fine_and_coarse_contexts_of_the_whole_grid():
    x = draw(2, 4, 8, 8, 8)
    both = dualformer.GlobalAttention(2, (2, 4, 4), ((1, 4, 4), (2, 1, 1)))
    variables = variables_of(both, x)
    params = variables["params"]
    assert jax.tree.map(jnp.shape, {k: params[k] for k in ("fine", "coarse1", "coarse2")}) == {
        "fine": {"kernel": (2, 4, 4, 1, 8), "bias": (8,)},
        "coarse1": {"kernel": (1, 4, 4, 1, 8), "bias": (8,)},
        "coarse2": {"kernel": (2, 1, 1, 1, 8), "bias": (8,)},
    }
    logits = []

    def count(q, k, v):
        logits.append((q.shape[1], k.shape[1]))
        return q

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dualformer, "attend", count)
        both.apply(variables, x)
        dualformer.GlobalAttention(2, (2, 4, 4), None).apply(variables, x)
    # 2 x 2 x 2 fine contexts and as many coarse ones for 4 x 8 x 8 tokens.
    assert logits == [(256, 16), (256, 8)]


@pytest.mark.parametrize(
    ("frames", "fine", "coarse"),
    [
        (32, [(2, 8, 8), (2, 4, 4), (2, 2, 2)], [(4, 2, 2), (4, 1, 1)]),
        (16, [(1, 8, 8), (1, 4, 4), (1, 2, 2)], [(2, 2, 2), (2, 1, 1)]),
    ],
)
def test_kernels_are_sized_by_the_clips_trained_on(frames, fine, coarse):
    model = zoo.create_model("dualformer_t", temporal_size=frames)
    cells = [model.cells(stage) for stage in range(4)]
    assert [cell for cell, _ in cells] == [*fine, (1, 1, 1)]
    assert [pair for _, pair in cells] == [*(((1, 7, 7), cell) for cell in coarse), None, None]


@pytest.mark.parametrize("view", [(16, 224, 224), (64, 256, 320)])
def test_other_lengths_and_sizes_enter_by_the_same_parameters(view):
    model = zoo.create_model("dualformer_t", 5)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 224, 224, 3)))
    logits, out = jax.eval_shape(model.apply, shapes, jnp.zeros((1, *view, 3)))
    assert logits.shape == (1, 5)
    assert out["stage4"].shape == (1, view[0] // 2, view[1] // 32, view[2] // 32, 512)


def test_too_small_a_clip_is_refused():
    model = zoo.create_model("dualformer_t", 5)
    with pytest.raises(JaxvidError, match="use a longer or larger clip"):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 4, 224, 224, 3)))


def test_the_trunk_learns_at_a_tenth_of_the_rate_but_for_its_positions():
    config = configs.from_row("dualformer_t_32x2_k400")
    model = zoo.create_model("dualformer_test", token_labels=True)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 4, 32, 32, 3)))["params"]
    decays = optim.decay_mask(shapes, config.optim.no_decay)
    for path, decay in flax.traverse_util.flatten_dict(decays, sep="/").items():
        scales = [s for pattern, s in config.optim.lr_scales if fnmatch.fnmatch(path, pattern)]
        new = path.startswith(("head/", "token_head/", "position"))
        assert config.optim.lr * math.prod(scales) == pytest.approx(1e-3 if new else 1e-4), path
        assert decay == (not path.startswith("position")), path
