"""Non-local blocks against their definition, and where they stand in a trunk."""

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvid.base.errors import JaxvidError
from jaxvid.layers.non_local import MODES, NonLocal, non_local_hook, non_local_names
from jaxvid.layers.resnet import ResNet

X = np.random.default_rng(0).normal(size=(2, 2, 4, 5, 6)).astype(np.float32)


def filled(module, x):
    """Variables of a module with random numbers everywhere, without running it."""
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(module.init, jax.random.key(0), x)
    return jax.tree.map(lambda leaf: rng.uniform(0.2, 1.2, leaf.shape).astype(np.float32), shapes)


def by_definition(variables, x, mode, scale):
    """A non-local block, position by position."""
    params, stats = variables["params"], variables["batch_stats"]["conv_out"]["bn"]

    def project(name):
        return x @ params[name]["kernel"][0, 0, 0] + params[name]["bias"]

    def halve(y):  # the last column of an odd width has no partner and is left out
        pairs = y[:, :, :4, :4].reshape(2, 2, 2, 2, 2, 2, -1)
        return pairs.max((3, 5)).reshape(2, 8, -1)

    queries = (x if mode == "gaussian" else project("theta")).reshape(2, 40, -1)
    keys = halve(x if mode == "gaussian" else project("phi"))
    weights = np.einsum("bqc,bkc->bqk", queries, keys)
    if mode == "dot_product":
        weights = weights / 8
    else:
        weights = weights / np.sqrt(3 if scale else 1)
        weights = np.exp(weights - weights.max(-1, keepdims=True))
        weights = weights / weights.sum(-1, keepdims=True)
    y = np.einsum("bqk,bkc->bqc", weights, halve(project("g")))
    y = y.reshape(2, 2, 4, 5, 3) @ params["conv_out"]["conv"]["kernel"][0, 0, 0]
    normal = (y - stats["mean"]) / np.sqrt(stats["var"] + 1e-5)
    return x + normal * params["conv_out"]["bn"]["scale"] + params["conv_out"]["bn"]["bias"]


@pytest.mark.parametrize("mode, scale", [*((mode, False) for mode in MODES), (MODES[1], True)])
def test_every_mode_is_its_definition(mode, scale):
    block = NonLocal(mode, scale)
    variables = filled(block, X)
    expected = by_definition(variables, X, mode, scale)
    np.testing.assert_allclose(jax.jit(block.apply)(variables, X), expected, rtol=1e-4, atol=1e-5)


def test_only_embedded_products_are_scaled_and_projected():
    parts = {mode: set(filled(NonLocal(mode), X)["params"]) for mode in MODES}
    assert parts["gaussian"] == {"g", "conv_out"}
    assert parts["embedded_gaussian"] == parts["dot_product"] == {"g", "theta", "phi", "conv_out"}


def test_a_new_block_changes_nothing():
    y, _ = jax.jit(NonLocal().init_with_output)(jax.random.key(0), X)
    np.testing.assert_array_equal(y, X)


def test_half_precision_is_kept():
    x = jnp.asarray(X, jnp.bfloat16)
    for mode in MODES:
        y, _ = jax.eval_shape(
            NonLocal(mode, dtype=jnp.bfloat16).init_with_output, jax.random.key(0), x
        )
        assert y.dtype == jnp.bfloat16


def test_an_unknown_mode_lists_the_known():
    with pytest.raises(JaxvidError, match="'dot' is unknown: .*gaussian.*dot_product"):
        NonLocal("dot").init(jax.random.key(0), X)


@pytest.mark.parametrize(
    "first, places",
    [(0, ["layer2_0", "layer2_2", "layer3_0"]), (1, ["layer2_1", "layer3_1"])],
)
def test_every_second_block_of_the_middle_stages_has_one(first, places):
    trunk = ResNet((2, 3, 2, 2), width=4, hook=non_local_hook("gaussian", first))
    video = jax.ShapeDtypeStruct((1, 2, 64, 64, 3), jnp.float32)
    params = jax.eval_shape(trunk.init, jax.random.key(0), video)["params"]
    assert sorted(name for name, block in params.items() if "non_local" in block) == places


def test_names_reach_every_part():
    paths = flax.traverse_util.flatten_dict(filled(NonLocal(), X), sep="/")
    named = {path for _, path, _ in non_local_names() if path}
    pairs = [path.split("{c:g|phi}") for path in named]
    named = {part.join(path) for path in pairs for part in ("g", "phi")}
    kinds = {
        kind: f"{kind}/backbone/layer{{s}}_{{b}}/non_local" for kind in ("params", "batch_stats")
    }
    assert named == {
        path.replace(kind, kinds[kind]) for path in paths for kind in kinds if path.startswith(kind)
    }
