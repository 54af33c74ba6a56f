"""The transformer block against its definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvid.layers.vit import Block, Mlp, SelfAttention


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def filled(module, x):
    """Random parameters of a module that maps x."""
    shapes = jax.eval_shape(module.init, jax.random.key(0), x)
    leaves, structure = jax.tree.flatten(shapes)
    return structure.unflatten([draw(*leaf.shape, seed=i + 1) for i, leaf in enumerate(leaves)])


def test_attention_splits_channels_by_query_key_value_then_head():
    x = draw(2, 5, 6)
    variables = filled(SelfAttention(3), x)
    params = variables["params"]
    q, k, v = np.split(x @ params["qkv"]["kernel"] + params["qkv"]["bias"], 3, axis=-1)
    heads = []
    for n in range(3):
        part = slice(2 * n, 2 * n + 2)
        weights = np.exp(q[..., part] @ k[..., part].swapaxes(1, 2) / 2**0.5)
        heads.append(weights / weights.sum(-1, keepdims=True) @ v[..., part])
    expected = np.concatenate(heads, -1) @ params["proj"]["kernel"] + params["proj"]["bias"]
    y = SelfAttention(3).apply(variables, x)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4)


def test_biases_of_queries_and_values_are_one_bias_with_any_for_keys():
    x = draw(2, 5, 6)
    variables = filled(SelfAttention(3, key_bias=False), x)
    params = variables["params"]
    assert params["qkv"].keys() == {"kernel"}
    bias = np.concatenate([params["q_bias"], draw(6, seed=9), params["v_bias"]])
    joint = {"qkv": params["qkv"] | {"bias": bias}, "proj": params["proj"]}
    np.testing.assert_allclose(
        SelfAttention(3).apply({"params": joint}, x),
        SelfAttention(3, key_bias=False).apply(variables, x),
        rtol=1e-4,
        atol=1e-4,
    )


def quick_gelu(x):
    return x * jax.nn.sigmoid(1.702 * x)


def test_gelu_is_exact_and_can_be_another():
    x = draw(2, 5, 6)
    variables = filled(Mlp(8), x)
    params = variables["params"]
    hidden = x @ params["fc1"]["kernel"] + params["fc1"]["bias"]
    for module, active in (
        (Mlp(8), hidden * jax.scipy.stats.norm.cdf(hidden)),
        (Mlp(8, quick_gelu), quick_gelu(hidden)),
    ):
        expected = active @ params["fc2"]["kernel"] + params["fc2"]["bias"]
        np.testing.assert_allclose(module.apply(variables, x), expected, rtol=1e-5, atol=1e-5)


def test_block_is_two_branches_behind_norms_and_takes_its_epsilon():
    x = 0.01 * draw(2, 5, 6)
    block = Block(3, 8, epsilon=1e-3)
    variables = filled(block, x)
    params = variables["params"]

    def norm(x, name):
        x = x - x.mean(-1, keepdims=True)
        x = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-3)
        return x * params[name]["scale"] + params[name]["bias"]

    y = x + SelfAttention(3).apply({"params": params["attn"]}, norm(x, "norm1"))
    y = y + Mlp(8).apply({"params": params["mlp"]}, norm(y, "norm2"))
    np.testing.assert_allclose(block.apply(variables, x), y, rtol=1e-4, atol=1e-4)


def test_samples_skip_both_branches_in_training():
    x = jnp.broadcast_to(draw(1, 5, 6), (64, 5, 6))
    block = Block(3, 8, drop_path=0.5)
    variables = filled(block, x)
    y = block.apply(variables, x, True, rngs={"dropout": jax.random.key(0)})
    unchanged = np.asarray((y == x).all((1, 2)))
    # Both branches are drawn, each by itself: a quarter skips both.
    assert unchanged.mean() == pytest.approx(0.25, abs=0.15)
    assert len(np.unique(np.round(y[:, 0, 0], 4))) == 4
