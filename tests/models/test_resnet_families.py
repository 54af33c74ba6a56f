"""TSN, TSM and SlowOnly at their test sizes: shapes, gradients, and what each sees of time."""

import functools

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvid import losses, zoo

NAMES = ["tsn_test", "tsm_test", "slowonly_test"]
VIDEO = np.random.default_rng(0).normal(size=(2, 4, 32, 32, 3)).astype(np.float32)


@functools.cache
def network(name):
    """A network with weights that let signals through to every part, and its variables."""
    model = zoo.create_model(name, 5, dropout=0.0)
    shapes = jax.eval_shape(model.init, jax.random.key(0), VIDEO)
    rng = np.random.default_rng(1)

    def fill(key_path, leaf):
        path = jax.tree_util.keystr(key_path, simple=True, separator="/")
        if path.endswith("kernel"):
            return rng.normal(0, np.prod(leaf.shape[:-1]) ** -0.5, leaf.shape).astype(np.float32)
        return rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32)

    return model, jax.tree_util.tree_map_with_path(fill, shapes)


@functools.cache
def forward(name):
    model, variables = network(name)
    return jax.jit(lambda x: model.apply(variables, x, train=False))


@pytest.mark.parametrize("name", NAMES)
def test_logits_and_intermediates(name):
    logits, out = forward(name)(VIDEO)
    assert logits.shape == (2, 5) and logits.dtype == jnp.float32
    assert out.keys() == {"stem", "stage1", "stage2", "stage3", "stage4", "pre_logits"}
    assert all(value.shape[:2] == (2, 4) for key, value in out.items() if key != "pre_logits")
    assert out["pre_logits"].shape == (2, out["stage4"].shape[-1])
    assert np.isfinite(logits).all() and np.std(logits) > 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_gradients_reach_every_parameter(name):
    model, variables = network(name)

    # Compiling is nearly all the time that this takes.
    @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    def gradients(params):
        def loss(params):
            (logits, _), stats = model.apply(
                {**variables, "params": params}, VIDEO, train=True, mutable=["batch_stats"]
            )
            return losses.softmax_cross_entropy(logits, jnp.array([1, 3])), stats

        return jax.grad(loss, has_aux=True)(params)

    found, updated = gradients(variables["params"])
    for path, value in flax.traverse_util.flatten_dict(found, sep="/").items():
        assert np.isfinite(value).all(), path
        assert np.abs(value).max() > 0, path
    old = flax.traverse_util.flatten_dict(variables["batch_stats"], sep="/")
    for path, value in flax.traverse_util.flatten_dict(updated["batch_stats"], sep="/").items():
        assert np.abs(value - old[path]).max() > 0, path


@pytest.mark.parametrize(
    "name, sees", [("tsn_test", False), ("tsm_test", True), ("slowonly_test", True)]
)
def test_the_order_of_frames_matters_only_to_those_that_see_time(name, sees):
    logits = forward(name)(VIDEO)[0]
    permuted = forward(name)(VIDEO[:, [2, 0, 3, 1]])[0]
    difference = np.abs(logits - permuted).max() / np.std(logits)
    assert difference > 1e-2 if sees else difference < 1e-5


@pytest.mark.parametrize("name", NAMES)
def test_samples_do_not_mix(name):
    together = forward(name)(VIDEO)[0]
    apart = np.concatenate([forward(name)(VIDEO[i : i + 1])[0] for i in range(2)])
    np.testing.assert_allclose(together, apart, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_any_number_of_frames_enters(name):
    model, variables = network(name)
    for frames in (1, 7):
        logits, _ = jax.eval_shape(model.apply, variables, VIDEO[:, :1].repeat(frames, 1))
        assert logits.shape == (2, 5)


def test_tsm_shifts_every_second_block_of_deep_trunks_only():
    from jaxvid.layers.resnet import Place
    from jaxvid.models.tsm import shift_hook

    x = jnp.ones((1, 3, 1, 1, 8))
    shifted = {
        every: [
            bool((shift_hook(every, 8)(Place(1, block, 4, "conv1_in"), x, False) != x).any())
            for block in range(4)
        ]
        for every in (1, 2)
    }
    assert shifted == {1: [True] * 4, 2: [True, False, True, False]}
    for point in ("block_in", "conv1_out", "conv2_out", "block_out"):
        assert shift_hook(1, 8)(Place(1, 0, 4, point), x, False) is x


@pytest.mark.parametrize("name", NAMES)
def test_half_precision_computes_in_it_and_answers_in_float32(name):
    model = zoo.create_model(name, 5, jnp.bfloat16)
    variables = network(name)[1]
    logits, out = jax.eval_shape(model.apply, variables, jnp.asarray(VIDEO, jnp.bfloat16))
    assert logits.dtype == jnp.float32
    assert {out[f"stage{i}"].dtype for i in range(1, 5)} == {jnp.dtype(jnp.bfloat16)}


def test_motion_does_not_see_what_stands_still():
    model = zoo.create_model("slowonly_small", 5)
    variables = model.init(jax.random.key(0), VIDEO)
    background = np.random.default_rng(3).normal(size=(2, 1, 32, 32, 3)).astype(np.float32)
    logits = model.apply(variables, VIDEO)[0]
    np.testing.assert_allclose(model.apply(variables, VIDEO + background)[0], logits, atol=1e-4)
    assert np.abs(model.apply(variables, VIDEO[:, ::-1])[0] - logits).max() > 1e-3
