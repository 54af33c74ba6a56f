"""Grad-CAM against gradients found in other ways, and the cut at values that are arranged."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvid import zoo
from jaxvid.base.errors import JaxvidError
from jaxvid.inference import explain


def make_network(name, frames, size, **overrides):
    model = zoo.create_model(name, 5, **overrides)
    clip = jax.random.normal(jax.random.key(1), (1, frames, size, size, 3))
    variables = jax.jit(model.init)(jax.random.key(0), clip)
    leaves, tree = jax.tree.flatten(variables)
    rng = np.random.default_rng(0)
    # Away from the zeros that some layers begin with.
    leaves = [leaf + 0.1 * rng.standard_normal(leaf.shape, np.float32) ** 2 for leaf in leaves]
    return model, jax.tree.unflatten(tree, leaves), clip


def test_of_a_mean_and_a_linear_layer_the_classifier_says_it():
    model, variables, clip = make_network("tsm_test", 4, 64)

    def apply(variables, clip):
        return model.apply(variables, clip, train=False)

    heat, name = explain.grad_cam(apply, variables, clip, 2)
    stage = jax.jit(apply)(variables, clip)[1]["stage4"][0]
    expected = np.maximum(stage @ variables["params"]["head"]["fc"]["kernel"][:, 2], 0)
    assert name == "stage4" and expected.max() > 0 and heat.dtype == np.float32
    np.testing.assert_allclose(heat, expected / expected.max(), atol=1e-5)


@pytest.mark.slow("answers")
def test_of_a_transformer_it_is_the_gradient_at_the_block_before():
    # The last of two stages holds the last block, of which only the class token answers.
    model, variables, clip = make_network("mvit_test", 4, 32, depth=2, downscale=(1,))
    size = (2, 8, 8)

    def logit(delta):
        def add(call, args, kwargs, context):
            x = call(*args, **kwargs)
            return x + delta if context.module.name == "block0" else x

        with nn.intercept_methods(add):
            logits, out = model.apply(variables, clip, train=False)
        return logits[0, 3], out["stage1"][0]

    tokens = jnp.zeros((1, 1 + np.prod(size), 8))
    slope, stage = jax.jit(jax.grad(logit, has_aux=True))(tokens)
    weight = slope[0, 1:].reshape(*size, 8).mean((1, 2), keepdims=True)
    expected = np.maximum((weight * stage).sum(-1), 0)
    heat, name = explain.grad_cam(lambda v, x: model.apply(v, x, train=False), variables, clip, 3)
    assert name == "stage1" and expected.max() > 0
    np.testing.assert_allclose(heat, expected / expected.max(), atol=1e-4)


def toy(variables, clip):
    """Tokens with one that answers: the last map is a dead end, the one before is not."""
    tokens = jnp.tanh(clip.reshape(1, -1, 3) * variables)
    first = tokens[:, 1:].reshape(1, 1, 2, 2, 3)
    mixed = tokens.sum(1, keepdims=True) ** 2 + tokens
    last = mixed[:, 1:].reshape(1, 1, 2, 2, 3)
    return mixed[:, 0], {"a_last": last, "first": first, "pooled": mixed[:, 0]}


CLIP = jnp.linspace(-1, 2, 15).reshape(1, 1, 1, 5, 3)


def test_the_last_map_that_the_answer_depends_on_is_taken():
    heat, name = explain.grad_cam(toy, jnp.float32(0.5), CLIP, 1)
    assert name == "first" and heat.shape == (1, 2, 2) and heat.max() == 1
    tokens = np.tanh(np.asarray(CLIP).reshape(5, 3) * 0.5)
    # The slope of a square of a sum: the same for every token.
    expected = np.maximum(2 * tokens.sum(0)[1] * tokens[1:, 1], 0)
    np.testing.assert_allclose(heat.ravel(), expected / expected.max(), rtol=1e-5)


@pytest.mark.parametrize("at", ["a_last", "pooled", "nothing"])
def test_where_there_is_no_gradient_it_is_said(at):
    with pytest.raises(JaxvidError, match=f"depends on no {at} with a spatial map"):
        explain.grad_cam(toy, jnp.float32(0.5), CLIP, 1, at)


def test_a_map_that_is_a_constant_is_passed_over():
    def with_constant(variables, clip):
        logits, out = toy(variables, clip)
        return logits, out | {"a_last": jax.lax.reshape(np.float32(2), (1, 1, 1, 1, 1))}

    assert explain.grad_cam(with_constant, jnp.float32(0.5), CLIP, 1)[1] == "first"


def test_heat_is_enlarged_around_its_place():
    heat = np.zeros((2, 3, 3), np.float32)
    heat[1, 2, 0] = 1
    large = explain.enlarge(heat, (4, 30, 60))
    assert large.shape == (4, 30, 60)
    frame, row, column = np.unravel_index(large.argmax(), large.shape)
    assert frame == 3 and row > 20 and column < 20
