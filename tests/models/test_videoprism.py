"""VideoPrism: caps of attention, scales from 1, tables, and files of Flax."""

import functools
import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import converters
from converters import checkpoints, stacks
from jaxvid import config, zoo
from jaxvid.base.errors import JaxvidError
from jaxvid.config import fields
from jaxvid.layers import position
from jaxvid.layers.attention import attend, which
from jaxvid.layers.norm import LayerNorm
from jaxvid.models import videoprism

CLIP = (4, 24, 24, 3)


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@functools.cache
def network():
    model = zoo.create_model("videoprism_test", 5)
    shapes = jax.eval_shape(model.init, jax.random.key(0), draw(1, *CLIP))
    leaves, structure = jax.tree.flatten(shapes)
    leaves = [draw(*leaf.shape, seed=i + 1) * 0.3 for i, leaf in enumerate(leaves)]
    return model, structure.unflatten(leaves)


def test_logits_of_attention_are_capped():
    q, k, v = (draw(2, 5, 3, 4, seed=i) * 6 for i in range(3))
    logits = 2.0 * np.tanh(np.einsum("bqnd,bknd->bnqk", q, k) / 2 / 2.0)
    expected = np.einsum("bnqk,bknd->bqnd", jax.nn.softmax(logits), v)
    np.testing.assert_allclose(attend(q, k, v, cap=2.0), expected, rtol=1e-4, atol=1e-4)
    assert np.abs(attend(q, k, v) - expected).max() > 0.1


def test_of_the_kernels_only_splash_caps():
    x = jax.ShapeDtypeStruct((1, 256, 2, 64), jnp.bfloat16)
    for backend, plain, capped in (("cuda", "cudnn", "xla"), ("tpu", "splash", "splash")):
        found = [which(x, x, x, capped=c, backend=backend, devices=1)[0] for c in (False, True)]
        assert found == [plain, capped]


def test_blocks_cap_and_the_query_scales_by_what_it_learnt(monkeypatch):
    caps = []

    def note(*args, cap=None):
        caps.append(cap)
        return attend(*args, cap=cap)

    model, variables = network()
    monkeypatch.setattr(videoprism, "attend", note)
    jax.eval_shape(model.apply, variables, draw(1, *CLIP))
    assert caps == [50.0, 50.0, 50.0, None]
    pool = videoprism.Attention(2, learnt_scale=True)
    tokens = draw(1, 5, 8)
    start = pool.init(jax.random.key(0), tokens, tokens)["params"]
    assert not start["scale"].any()
    plain = pool.clone(learnt_scale=False).apply(
        {"params": {k: v for k, v in start.items() if k != "scale"}}, tokens, tokens
    )
    np.testing.assert_allclose(pool.apply({"params": start}, tokens, tokens), plain, atol=1e-5)


def test_norms_add_1e_6_and_their_scales_count_from_1():
    found = []

    def note(call, args, kwargs, context):
        if isinstance(context.module, LayerNorm):
            found.append((context.module.epsilon, context.module.from_one))
        return call(*args, **kwargs)

    model, variables = network()
    with nn.intercept_methods(note):
        jax.eval_shape(lambda v, x: model.apply(v, x), variables, draw(1, *CLIP))
    assert found == [(1e-6, True)] * 9
    x, given = draw(3, 8), {"scale": draw(8), "bias": draw(8, seed=1)}
    offset = LayerNorm(from_one=True).apply({"params": given}, x)
    given["scale"] = given["scale"] + 1
    np.testing.assert_array_equal(offset, LayerNorm().apply({"params": given}, x))


def test_tables_are_smoothed_where_they_shrink():
    table = draw(6, 1)
    np.testing.assert_array_equal(position.resize_smoothly(table, (6,)), table)
    # A triangle over twice the distance of two cells, cut off at the borders.
    weights = np.array([3, 3, 1]) / 7
    shrunk = position.resize_smoothly(jnp.asarray(table), (3,))
    np.testing.assert_allclose(shrunk[0, 0], weights @ table[:3, 0], rtol=1e-5)


def test_the_loop_answers_as_the_blocks_do():
    model, variables = network()
    clips = draw(2, *CLIP)
    expected = jax.jit(model.apply)(variables, clips)[0]
    looped = jax.jit(model.clone(scan_blocks=True).apply)(variables, clips)[0]
    np.testing.assert_allclose(looped, expected, rtol=1e-4, atol=1e-5)


def test_pictures_that_are_not_whole_patches_are_refused():
    model, variables = network()
    with pytest.raises(JaxvidError, match="24 x 20 pixels are not whole patches of 8"):
        jax.eval_shape(model.apply, variables, draw(1, 4, 24, 20, 3))


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("videoprism_b", 114_365_184),
        ("videoprism_l", 353_965_056),
        ("videoprism_vc_b", 117_037_520),
        ("videoprism_vc_l", 358_576_592),
    ],
)
def test_networks_have_the_published_parameters(name, count):
    model = zoo.create_model(name, 400 if "vc" in name else None)
    clip = jax.ShapeDtypeStruct((1, 1, 18, 18, 3), jnp.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), clip)
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == count


def test_rows_train_the_classifier_alone_on_pixels_from_0_to_1():
    for row in videoprism.ROWS:
        c = config.from_row(row.name)
        fields.check(c)
        model = zoo.create_model(row.name)
        assert row.test.sampling.clip_len == model.num_frames and row.view[1] == model.img_size
        assert c.optim.freeze == ("trunk",) and (row.mean, row.std) == ((0,) * 3, (255,) * 3)


def test_a_file_of_flax_converts_and_returns(tmp_path):
    """Layers are one array there, and the encoder alone has no word before its keys."""
    _, variables = network()
    tensors = converters.to_torch("videoprism_test", variables)
    stack = "params/encoder/spatial_encoder/transformers_stack/x_layers/self_attention/post/w"
    assert tensors[stack].shape == (2, 16, 2, 8) and len(tensors) == 54
    kernel = variables["params"]["stage1_block1"]["attn"]["proj"]["kernel"]
    np.testing.assert_array_equal(tensors[stack][1], kernel.transpose(2, 0, 1))
    encoder = {
        key.replace("params/encoder/", "params/"): tensor
        for key, tensor in tensors.items()
        if key.startswith("params/encoder/")
    }
    assert len(encoder) == 40
    for name, held in (("whole", tensors), ("encoder", encoder)):
        np.savez(tmp_path / f"{name}.npz", **held)
        path = tmp_path / f"{name}.npz"
        converted, meta, _ = checkpoints.convert_and_tell("videoprism_test", path)
        back = converters.to_torch("videoprism_test", converted, json.loads(json.dumps(meta)))
        assert back.keys() == held.keys()
        assert all(back[key].tobytes() == held[key].tobytes() for key in held)
        new = {path.split("/")[1] for path in meta["new"]}
        assert new == (set() if name == "whole" else {"head"})
        for part, params in converted["params"].items():
            own = variables["params"][part]
            assert jax.tree.all(jax.tree.map(np.array_equal, params, own)), part


def test_layers_come_apart_as_views_and_together_again():
    tensors = {"a/x_layers/w": np.arange(12.0).reshape(3, 4), "b/w": np.ones(2), "x_layers": 1.0}
    parts = stacks.apart(tensors)
    assert list(parts) == [*(f"a/x_layers/w[{i}]" for i in range(3)), "b/w", "x_layers"]
    assert np.shares_memory(parts["a/x_layers/w[1]"], tensors["a/x_layers/w"])
    back = stacks.together(parts)
    assert back.keys() == tensors.keys()
    np.testing.assert_array_equal(back["a/x_layers/w"], tensors["a/x_layers/w"])
    assert stacks.together({"w[3]": 1.0}) == {"w[3]": 1.0}
