"""MViTv2: its parts against their definitions, and its full-size shapes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvid.layers.conv import use_lowering
from jaxvid.models import mvit

SHALLOW = {"depth": 2, "downscale": (1,)}


def build(**overrides):
    return mvit.Model(**{**mvit.VARIANTS["mvit_test"], "num_classes": 5, **overrides})


def draw_video(*shape):
    return jnp.asarray(np.random.default_rng(0).normal(size=(*shape, 3)), jnp.float32)


def draw_variables(model):
    """Random variables, each parameter away from its initial constant."""
    shapes = jax.eval_shape(model.init, jax.random.key(0), draw_video(1, 4, 32, 32))
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda a: jnp.asarray(rng.normal(0.1, 0.2, a.shape), a.dtype), shapes)


@pytest.fixture(scope="module", autouse=True)
def quick_to_compile():
    """XLA's own convolution: it is slow to run and quick to compile."""
    with use_lowering("native"):
        yield


@pytest.fixture(scope="module")
def shallow():
    """Variables of the test variant cut to two blocks."""
    return draw_variables(build(**SHALLOW))


@pytest.fixture(scope="module")
def exact(shallow):
    """Logits of the shallow network, in testing."""
    return jax.jit(build(**SHALLOW).apply)(shallow, draw_video(2, 4, 32, 32))[0]


@pytest.mark.parametrize(
    ("variant", "parameters"),
    [
        ("mvitv2_s", 34_537_744),
        ("mvitv2_s_maskfeat", 36_475_120),
        ("mvitv2_b", 51_230_128),
        ("mvitv2_l", 213_390_112),
    ],
)
def test_full_size_has_the_published_parameters(variant, parameters):
    model = mvit.Model(**mvit.VARIANTS[variant])
    # The clip may be small: the tables of positions are sized by the fields, not by the clip.
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 4, 32, 32, 3)))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == parameters


def test_tables_are_sized_by_floor_division():
    plans = mvit.Model(**mvit.VARIANTS["mvitv2_l"]).plans()
    sides = [plan.table_size[1] // min(plan.stride_q[1], plan.stride_kv[1]) for plan in plans]
    # The grids are 78, 39, 20 and 10 wide, the tables for 78, 39, 19 and 9; a block that opens a
    # stage still has the tables of its queries' old grid over the keys' stride.
    assert [sides[i] for i in (0, 2, 3, 8, 9, 44, 45)] == [78, 39, 39, 19, 19, 19, 9]
    assert [plan.stride_kv[1] for plan in plans if plan.stride_q[1] == 2] == [4, 2, 1]


@pytest.mark.parametrize("grow_in_attention", [True, False])
def test_shapes_of_every_stage(grow_in_attention):
    model = build(grow_in_attention=grow_in_attention)
    video = draw_video(2, 4, 64, 48)
    logits, out = jax.eval_shape(
        lambda: model.init_with_output(jax.random.key(0), video)[0],
    )
    assert logits.shape == (2, 5)
    widths = (8, 16, 32, 64) if grow_in_attention else (16, 32, 64, 64)
    assert {name: value.shape for name, value in out.items()} == {
        "stem": (2, 2, 16, 12, 8),
        "stage1": (2, 2, 16, 12, widths[0]),
        "stage2": (2, 2, 8, 6, widths[1]),
        "stage3": (2, 2, 4, 3, widths[2]),
        "stage4": (2, 2, 2, 2, widths[3]),
        "pre_logits": (2, 64),
    }


@pytest.mark.parametrize("reach", [(2, 4, 3), (2, 3, 5)])
def test_positional_channels_make_the_bias_of_their_definition(reach):
    q_size, k_size = (2, 4, 3), (2, 2, 3)
    q = jnp.asarray(np.random.default_rng(0).normal(size=(2, 24, 2, 4)), jnp.float32)
    module = mvit.RelativePositions(reach)
    variables = module.init(jax.random.key(0), q, q_size, k_size)
    terms, places = module.apply(variables, q, q_size, k_size)
    bias = jnp.einsum("bqnc,kc->bnqk", terms, places)
    assert not bias[:, :, 0].any()
    assert not bias[:, :, :, 0].any()

    embeddings = [
        np.asarray(mvit.relative_embeddings(variables["params"][f"rel_pos_{axis}"], queries, keys))
        for axis, queries, keys in zip("thw", q_size, k_size, strict=True)
    ]
    pairs = [
        sum(e[a, b] for e, a, b in zip(embeddings, query, key, strict=True))
        for query in np.ndindex(q_size)
        for key in np.ndindex(k_size)
    ]
    pairs = np.reshape(pairs, (24, 12, 4))
    np.testing.assert_allclose(bias[:, :, 1:, 1:], np.einsum("bqnd,qkd->bnqk", q, pairs), atol=1e-6)


def test_pooling_shares_one_kernel_between_heads_and_spares_the_class_token():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 1 + 2 * 4 * 4, 15)), jnp.float32)
    pool = mvit.HeadPool(3, (1, 2, 2))
    variables = pool.init(jax.random.key(0), x, (2, 4, 4))
    y = pool.apply(variables, x, (2, 4, 4))
    assert y.shape == (1, 1 + 2 * 2 * 2, 15)
    np.testing.assert_array_equal(y[:, 0], x[:, 0])
    alone = mvit.HeadPool(1, (1, 2, 2)).apply(variables, x[:, :, 5:10], (2, 4, 4))
    np.testing.assert_allclose(y[:, :, 5:10], alone, atol=1e-6)


def test_attention_places_unscaled_queries_and_adds_all_but_the_class_token():
    size, stride_q, stride_kv = (2, 4, 4), (1, 2, 2), (1, 4, 4)
    q_size, k_size = (2, 2, 2), (2, 1, 1)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 33, 6)), jnp.float32)
    module = mvit.Attention(8, 2, stride_q, stride_kv, size)
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), x, size))
    rng = np.random.default_rng(1)
    variables = jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape), a.dtype), shapes)
    params = variables["params"]

    def project(name, part, stride):
        y = (x @ params["qkv"]["kernel"] + params["qkv"]["bias"])[..., part * 8 : part * 8 + 8]
        pool = mvit.HeadPool(2, stride)
        y = pool.apply({"params": params[f"pool_{name}"]}, y, size).reshape(1, -1, 2, 4)
        y = (y - y.mean(-1, keepdims=True)) / jnp.sqrt(y.var(-1, keepdims=True) + 1e-6)
        return y * params[f"norm_{name}"]["scale"] + params[f"norm_{name}"]["bias"]

    q, k, v = project("q", 0, stride_q), project("k", 1, stride_kv), project("v", 2, stride_kv)
    positions = mvit.RelativePositions((2, 2, 2))
    terms, places = positions.apply({"params": params["positions"]}, q[:, 1:], q_size, k_size)
    logits = jnp.einsum("bqnd,bknd->bnqk", q, k) / 2 + jnp.einsum("bqnc,kc->bnqk", terms, places)
    y = jnp.einsum("bnqk,bknd->bqnd", jax.nn.softmax(logits), v) + q.at[:, 0].set(0)
    expected = y.reshape(1, 9, 8) @ params["proj"]["kernel"] + params["proj"]["bias"]
    np.testing.assert_allclose(module.apply(variables, x, size), expected, atol=1e-4)


def test_training_without_drops_equals_testing(shallow, exact):
    train = jax.jit(lambda v, x: build(**SHALLOW).apply(v, x, train=True)[0])
    np.testing.assert_allclose(train(shallow, draw_video(2, 4, 32, 32)), exact, rtol=1e-5)


def test_paths_are_dropped_in_training_only(shallow, exact):
    model, video = build(**SHALLOW, drop_path=0.5), draw_video(2, 4, 32, 32)

    @jax.jit
    def train(seed):
        return model.apply(shallow, video, True, rngs={"dropout": jax.random.key(seed)})[0]

    assert len({float(train(seed)[0, 0]) for seed in range(8)}) > 1
    np.testing.assert_allclose(jax.jit(model.apply)(shallow, video)[0], exact, rtol=1e-5)


def test_half_precision_computes_close_and_answers_in_float32(shallow, exact):
    half = jax.jit(build(**SHALLOW, dtype=jnp.bfloat16).apply)
    logits, out = half(shallow, draw_video(2, 4, 32, 32))
    assert out["stage1"].dtype == jnp.bfloat16
    assert logits.dtype == jnp.float32
    np.testing.assert_allclose(logits, exact, atol=0.1 * np.std(exact))


def test_every_parameter_learns_that_can(shallow):
    video = draw_video(2, 4, 32, 32)
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda a: a.astype(jnp.float64), shallow)
        gradient = jax.jit(
            jax.grad(lambda v: jnp.square(build(**SHALLOW).apply(v, video)[0]).sum())
        )
        sizes = {
            "/".join(key.key for key in path[1:]): float(abs(leaf).max())
            for path, leaf in jax.tree_util.tree_leaves_with_path(gradient(wide))
        }
    assert all(np.isfinite(size) for size in sizes.values())
    # What adds the same to every key of a query cancels in the softmax; and of the last block only
    # the class token is read, whose query is neither pooled nor placed.
    still = {"block0/attn/norm_k/bias", "block1/attn/norm_k/bias", "block1/attn/pool_q/kernel"}
    still |= {f"block1/attn/positions/rel_pos_{axis}" for axis in "thw"}
    largest = max(sizes.values())
    assert {name for name, size in sizes.items() if size < 1e-12 * largest} == still
