"""Swin: how far a token sees, what may enter, and how its parts are named to training."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvid import config, zoo
from jaxvid.layers import swin
from jaxvid.training import optim, parts
from tests.models.test_families import network, video


def draw(shapes):
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda a: jnp.asarray(rng.normal(0, 0.5, a.shape), a.dtype), shapes)


@pytest.mark.parametrize("shifted, seen", [(False, (2, 4, 3, 6, 0, 3)), (True, (1, 3, 4, 7, 1, 4))])
def test_a_token_sees_its_window_and_no_further(shifted, seen):
    """A grid that windows do not fill: 4 x 8 x 7 in windows of 2 x 3 x 3."""
    module = swin.WindowAttention(heads=1, window=(2, 3, 3), shifted=shifted)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 4, 8, 7, 2)), jnp.float32)
    variables = draw(jax.eval_shape(module.init, jax.random.key(0), x))
    place = (0, 2, 5, 2)
    changes = module.apply(variables, x) - module.apply(variables, x.at[place].add(1.0))
    changed = np.abs(changes[0]).max(-1) > 1e-6
    expected = np.zeros((4, 8, 7), bool)
    expected[seen[0] : seen[1], seen[2] : seen[3], seen[4] : seen[5]] = True
    np.testing.assert_array_equal(changed, expected)


def test_a_frame_net_sees_each_frame_alone():
    model, variables = network("tsn_swin_test")
    features = jax.jit(lambda x: model.apply(variables, x)[1]["stage2"])
    clip = video("tsn_swin_test")
    other = clip.copy()
    other[:, 1] += 1
    changed = np.abs(features(other) - features(clip)).max((0, 2, 3, 4)) > 1e-5
    assert changed.tolist() == [False, True, False, False]


@pytest.mark.parametrize("name", ["swin_t", "tsn_swin_b"])
@pytest.mark.parametrize("size", [(1, 224, 224), (5, 180, 321), (7, 16, 9)])
def test_clips_of_any_size_enter(name, size):
    model = zoo.create_model(name)
    clip = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)
    (logits, out), _ = jax.eval_shape(lambda x: model.init_with_output(jax.random.key(0), x), clip)
    assert logits.shape == (1, 400)
    patch = (2, 4, 4) if name == "swin_t" else (1, 4, 4)
    grid = [-(-n // p) for n, p in zip(size, patch, strict=True)]
    assert out["stem"].shape[1:4] == tuple(grid)
    assert out["stage4"].shape[1:4] == (grid[0], -(-grid[1] // 8), -(-grid[2] // 8))


def test_every_block_is_a_layer_and_merging_belongs_to_the_next():
    found = parts.find(zoo.create_model("swin_test"), (4, 32, 32, 3))
    layer_of = parts.layers(found.params)
    names = [path.removeprefix("backbone/").split("/")[0] for path in layer_of]
    assert dict(zip(names, layer_of.values(), strict=True)) == {
        "patch_embed": 0, "patch_norm": 0, "layer1_0": 1, "layer1_1": 2, "merge2": 3,
        "layer2_0": 3, "norm": 4, "head": 4,
    }  # fmt: skip
    assert len(parts.blocks(found.params)) == 3


def test_the_recipe_spares_norms_and_tables_and_slows_the_trunk():
    settings = config.from_row("swin_t_32x2_k400").optim
    params = network("swin_test")[1]["params"]
    decays = optim.decay_mask(params, settings.no_decay)
    spared = {
        optim.path_of(path)
        for path, kept in jax.tree_util.tree_leaves_with_path(decays)
        if not kept
    }
    paths = {optim.path_of(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)}
    assert spared == {p for p in paths if "norm" in p or p.endswith("position_bias")}
    assert "backbone/layer1_0/mlp/fc1/bias" in paths - spared
    assert settings.lr == pytest.approx(1e-4) and ("head/*", 10.0) in settings.lr_scales
