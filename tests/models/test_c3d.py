"""C3D: its poolings, its flattened map, and the one size of clip that it takes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvid import zoo
from jaxvid.base.errors import JaxvidError


def test_maps_of_the_published_clip():
    clip = jax.ShapeDtypeStruct((1, 16, 112, 112, 3), jnp.float32)
    model = zoo.create_model("c3d")
    (_, out), variables = jax.eval_shape(model.init_with_output, jax.random.key(0), clip)
    assert {name: x.shape[1:] for name, x in out.items()} == {
        "stem": (16, 56, 56, 64),
        "stage1": (8, 28, 28, 128),
        "stage2": (4, 14, 14, 256),
        "stage3": (2, 7, 7, 512),
        "stage4": (1, 4, 4, 512),
        "pre_logits": (4096,),
    }
    assert variables["params"]["fc6"]["kernel"].shape == (8192, 4096)


def test_the_map_is_flattened_channels_first():
    video = np.random.default_rng(0).normal(size=(1, 8, 16, 32, 3)).astype(np.float32)
    model = zoo.create_model("c3d_test", 5)
    variables = jax.tree.map(np.array, model.init(jax.random.key(0), video))
    params = variables["params"]
    shape = (8, 2, 3, 5)  # channels, frames, height, width
    places = [(7, 0, 1, 2), (0, 1, 2, 4), (3, 1, 0, 3)]
    params["conv3b"]["bias"][:] = 9.0
    params["fc6"]["kernel"][:] = 0
    params["fc7"]["kernel"][:] = np.eye(16)
    for unit, place in enumerate(places):
        params["fc6"]["kernel"][np.ravel_multi_index(place, shape), unit] = 1
    _, out = model.apply(variables, video)
    assert out["stage2"].shape == (1, 2, 3, 5, 8)
    wanted = [out["stage2"][0, t, h, w, c] for c, t, h, w in places]
    assert len(set(map(float, wanted))) == 3
    np.testing.assert_allclose(out["pre_logits"][0, :3], wanted, rtol=1e-6)


def test_clips_of_another_size_do_not_enter():
    model = zoo.create_model("c3d_test")
    variables = model.init(jax.random.key(0), jnp.zeros((1, 4, 32, 32, 3)))
    with pytest.raises(JaxvidError, match="has 200 inputs, but a clip of size 4x48x32 makes 280"):
        model.apply(variables, jnp.zeros((1, 4, 48, 32, 3)))


def test_the_small_form_sees_what_moves_in_clips_of_any_size():
    rng = np.random.default_rng(0)
    video = rng.normal(size=(2, 9, 32, 48, 3)).astype(np.float32)
    background = rng.normal(size=(2, 1, 32, 48, 3)).astype(np.float32)
    model = zoo.create_model("c3d_small", 5)
    variables = jax.jit(model.init)(jax.random.key(0), video[:, :, :16, :16])
    see = jax.jit(lambda x: model.apply(variables, x)[0])
    np.testing.assert_allclose(see(video + background), see(video), rtol=1e-4, atol=1e-4)
    assert np.abs(see(video[:, ::-1].copy()) - see(video)).max() > 1e-3
