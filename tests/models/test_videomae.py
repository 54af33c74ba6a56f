"""VideoMAE: its fixed positions, its blocks as a loop, and the layers that rates go by."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import converters
from jaxvid import parts, zoo
from jaxvid.errors import JaxvidError
from jaxvid.layers.position import resize_grid, sinusoids
from jaxvid.models import videomae

CLIP = (4, 24, 24, 3)


def build(**overrides):
    return videomae.Model(**{**videomae.VARIANTS["videomae_test"], "num_classes": 5, **overrides})


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@functools.cache
def variables():
    shapes = jax.eval_shape(build().init, jax.random.key(0), draw(1, *CLIP))
    leaves, structure = jax.tree.flatten(shapes)
    return structure.unflatten([draw(*leaf.shape, seed=i + 1) for i, leaf in enumerate(leaves)])


def test_positions_count_on_in_longer_clips_and_are_interpolated_in_other_crops():
    model = build()
    expected = sinusoids(4 * 9, 8).reshape(4, 3, 3, 8)
    np.testing.assert_array_equal(model.positions((2, 3, 3)), expected[:2])
    np.testing.assert_array_equal(model.positions((4, 3, 3)), expected)
    for moment, table in zip(model.positions((4, 5, 2)), expected, strict=True):
        np.testing.assert_allclose(moment, resize_grid(jnp.asarray(table), (5, 2)), atol=1e-6)


def test_place_and_time_count():
    """Without positions, clips of the same cubes in another order would score alike."""
    clip = np.broadcast_to(draw(1, 2, 24, 24, 3), (2, 2, 24, 24, 3))
    clip = np.concatenate([clip[:1], clip[1:, :, ::-1]])[None]
    clips = np.concatenate([clip, clip[:, ::-1]]).reshape(2, 4, 24, 24, 3)
    logits = jax.jit(build().apply)(variables(), clips)[0]
    assert np.abs(logits[0] - logits[1]).max() > 1e-2


def test_the_loop_starts_as_the_blocks_do_and_drops_samples_by_the_rate_of_each():
    clip = jnp.broadcast_to(draw(1, *CLIP), (32, *CLIP))
    looped = build(scan_blocks=True, drop_path=1.0)
    assert jax.tree.map(jnp.shape, variables()) == jax.tree.map(
        jnp.shape, jax.eval_shape(looped.init, jax.random.key(0), clip[:1])
    )
    # The first block drops nothing and the last one everything.
    _, out = jax.jit(functools.partial(looped.apply, train=True))(
        variables(), clip, rngs={"dropout": jax.random.key(0)}
    )
    first = {name: value for name, value in variables()["params"].items() if name != "block1"}
    _, expected = jax.jit(build(depth=1).apply)({"params": first}, clip[:1])
    expected = jnp.broadcast_to(expected["stage1"], out["stage1"].shape)
    np.testing.assert_allclose(out["stage1"], expected, rtol=1e-4, atol=1e-4)
    rates = jax.jit(functools.partial(build(scan_blocks=True, drop_path=0.5).apply, train=True))
    scores = rates(variables(), clip, rngs={"dropout": jax.random.key(0)})[0]
    assert len(np.unique(np.round(scores[:, 0], 3))) == 4


def test_layers_are_the_published_ones():
    layers = parts.layers(parts.find(build(depth=3), CLIP).params)
    expected = {"patch_embed": 0, "block0": 1, "block1": 2, "block2": 3, "fc_norm": 4, "head": 4}
    assert {path.split("/")[0]: layer for path, layer in layers.items()} == expected


@pytest.mark.parametrize(
    ("variant", "millions"), [("videomaev2_vit_h", 633), ("videomaev2_vit_g", 1013)]
)
def test_the_sizes_without_row_have_the_papers_parameters(variant, millions):
    model = zoo.create_model(variant)
    one, two = (
        jax.eval_shape(
            model.clone(depth=depth).init, jax.random.key(0), jnp.zeros((1, 16, 224, 224, 3))
        )
        for depth in (1, 2)
    )
    one, two = (sum(leaf.size for leaf in jax.tree.leaves(shapes)) for shapes in (one, two))
    assert one + (model.depth - 1) * (two - one) == pytest.approx(millions * 1e6, rel=2e-3)


def test_other_positions_than_ours_are_refused():
    tensors = converters.to_torch("videomae_test", variables())
    for positions in (sinusoids(18, 8)[None], sinusoids(36, 8)[None].astype(np.float16)):
        tensors["backbone.pos_embed"] = positions
        converters.convert("videomae_test", tensors)
    for positions in (sinusoids(18, 8)[None] + 0.01, sinusoids(20, 8)[None], sinusoids(18, 8)):
        tensors["backbone.pos_embed"] = positions
        with pytest.raises(JaxvidError, match="'backbone.pos_embed' does not hold what"):
            converters.convert("videomae_test", tensors)
