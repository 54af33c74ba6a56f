"""TimeSformer: what each kind of attention can see, and its tables on other clips."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvid import zoo
from jaxvid.base.errors import JaxvidError
from jaxvid.layers.position import nearest_rows, resize_grid
from jaxvid.training import parts

CLIP = (4, 24, 24, 3)
KINDS = ["timesformer_test", "timesformer_joint_test", "timesformer_space_test"]


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@functools.cache
def variables(name):
    shapes = jax.eval_shape(zoo.create_model(name, 5).init, jax.random.key(0), draw(1, *CLIP))
    leaves, structure = jax.tree.flatten(shapes)
    return structure.unflatten([draw(*leaf.shape, seed=i + 1) for i, leaf in enumerate(leaves)])


@functools.cache
def forward(name, **overrides):
    return jax.jit(zoo.create_model(name, 5, **overrides).apply)


@pytest.mark.parametrize("name", KINDS)
def test_what_a_patch_sees_in_one_block(name):
    """Patch (0, 0, 0) answers to its place in other frames, to its frame, or to every patch."""
    run, variant = forward(name, depth=1), variables(name)
    params = {key: value for key, value in variant["params"].items() if key != "block1"}

    def seen(clip):
        return np.asarray(run({"params": params}, clip[None])[1]["stage1"][0, 0, 0, 0])

    clip = draw(*CLIP)
    plain = seen(clip)
    changed = {}
    for what, frame, side in (("frame", 0, 8), ("place", 2, 0), ("elsewhere", 2, 8)):
        other = clip.copy()
        other[frame, side : side + 8, side : side + 8] += 1
        changed[what] = np.abs(seen(other) - plain).max() > 1e-4
    assert (
        changed
        == {
            "timesformer_test": {"frame": True, "place": True, "elsewhere": False},
            "timesformer_joint_test": {"frame": True, "place": True, "elsewhere": True},
            "timesformer_space_test": {"frame": True, "place": False, "elsewhere": False},
        }[name]
    )


@pytest.mark.parametrize("name", KINDS)
def test_only_space_attention_is_blind_to_the_order_of_frames(name):
    clip = draw(1, *CLIP)
    logits, turned = (forward(name)(variables(name), x)[0] for x in (clip, clip[:, ::-1]))
    assert (np.abs(logits - turned).max() < 1e-3) == (name == "timesformer_space_test")


def test_tables_fit_other_clips_and_crops():
    name = KINDS[0]
    params = dict(variables(name)["params"])
    places = jnp.asarray(params["pos_embed"][0, 1:]).reshape(3, 3, 8)
    other = zoo.create_model(name, 5, img_size=32, num_frames=6)
    resized = params | {
        "pos_embed": jnp.concatenate(
            [params["pos_embed"][:, :1], resize_grid(places, (4, 4)).reshape(1, 16, 8)], axis=1
        ),
        "time_embed": nearest_rows(params["time_embed"][0], 6)[None],
    }
    video = draw(1, 6, 32, 32, 3)
    expected = jax.jit(other.apply)({"params": resized}, video)[0]
    np.testing.assert_allclose(
        forward(name)({"params": params}, video)[0], expected, rtol=1e-4, atol=1e-4
    )


def test_attention_over_time_adds_nothing_at_first():
    model = zoo.create_model(KINDS[0], 5, depth=1)
    start = jax.jit(model.init)(jax.random.key(0), draw(1, *CLIP))
    kernel = start["params"]["block0"]["attn_time"]["qkv"]["kernel"]
    other = jax.tree.map(lambda a: 2 * a + 1 if a is kernel else a, start)
    logits, same = (forward(KINDS[0], depth=1)(v, draw(1, *CLIP))[0] for v in (start, other))
    np.testing.assert_array_equal(logits, same)
    assert np.abs(logits).max() > 0


def test_layers_are_tables_blocks_and_head():
    layers = parts.layers(parts.find(zoo.create_model(KINDS[0], 5), CLIP).params)
    assert {path.split("/")[0]: layer for path, layer in layers.items()} == {
        "patch_embed": 0,
        "cls_token": 0,
        "pos_embed": 0,
        "time_embed": 0,
        "block0": 1,
        "block1": 2,
        "norm": 3,
        "head": 3,
    }


def test_an_unknown_attention_is_refused():
    model = zoo.create_model(KINDS[0], 5, attention="time")
    with pytest.raises(JaxvidError, match="'time' is unknown: take divided, joint or space"):
        jax.eval_shape(model.init, jax.random.key(0), draw(1, *CLIP))
