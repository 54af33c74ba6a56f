"""SlowFast: what each pathway sees, what the slow one is told, and how its two heads answer."""

import copy
import functools

import jax
import numpy as np
import pytest

from jaxvid import zoo
from jaxvid.base.errors import JaxvidError
from jaxvid.models.slowfast import slow_frames

RNG = np.random.default_rng(0)
VIDEO = RNG.normal(size=(1, 8, 32, 32, 3)).astype(np.float32)


@functools.cache
def network(name: str):
    model = zoo.create_model(name, 5, dropout=0.0)
    shapes = jax.eval_shape(model.init, jax.random.key(0), VIDEO)
    rng = np.random.default_rng(1)
    variables = jax.tree.map(lambda s: rng.normal(0.3, 0.3, s.shape).astype(np.float32), shapes)
    variables["batch_stats"] = jax.tree.map(
        lambda s: rng.uniform(0.5, 2, s.shape).astype(np.float32), shapes["batch_stats"]
    )
    # Compiling is nearly all the time that this takes.
    return variables, jax.jit(model.apply, compiler_options={"xla_backend_optimization_level": 0})


def laterals(variables):
    return [variables["params"]["slow"][f"layer{i}_0"]["lateral"] for i in (1, 2)]


def deaf(variables):
    """The variables of a network whose slow pathway is told nothing."""
    variables = copy.deepcopy(variables)
    for lateral in laterals(variables):
        lateral["conv"]["kernel"][:] = 0
    return variables


def test_frames_of_the_slow_pathway():
    np.testing.assert_array_equal(slow_frames(32, 8, to_last=False), [0, 8, 16, 24])
    np.testing.assert_array_equal(slow_frames(32, 4, to_last=True), [0, 4, 8, 13, 17, 22, 26, 31])
    np.testing.assert_array_equal(slow_frames(4, 4, to_last=True), [0])


def test_a_clip_is_a_multiple_of_alpha():
    model = zoo.create_model("slowfast_test")
    with pytest.raises(JaxvidError, match="one frame in 2, but the clip has 7 frames"):
        jax.eval_shape(model.init, jax.random.key(0), VIDEO[:, :7])


@pytest.mark.parametrize(
    "name, seen", [("slowfast_test", (0, 2, 4, 6)), ("pyslowfast_slowfast_test", (0, 2, 4, 7))]
)
def test_the_fast_pathway_sees_all_frames_and_tells_the_slow_one(name, seen):
    variables, forward = network(name)
    _, out = forward(variables, VIDEO)
    _, alone = forward(deaf(variables), VIDEO)
    for frame in range(8):
        changed = VIDEO.copy()
        changed[:, frame] += 1
        _, after = forward(variables, changed)
        assert np.abs(after["fast_stage2"] - out["fast_stage2"]).max() > 1e-4
        assert np.abs(after["stage1"] - out["stage1"]).max() > 1e-4
        _, after = forward(deaf(variables), changed)
        assert (np.abs(after["stage2"] - alone["stage2"]).max() > 1e-4) == (frame in seen)


def test_what_is_told_joins_behind_the_slow_channels():
    variables, forward = network("slowfast_test")
    variables = deaf(variables)
    stage2 = forward(variables, VIDEO)[1]["stage2"]
    variables = copy.deepcopy(variables)  # The call above may still be reading the old ones.
    for i, told in enumerate((4, 16), start=1):
        block = variables["params"]["slow"][f"layer{i}_0"]
        for unit in ("conv1", "downsample"):
            # Only zeros meet these weights.
            block[unit]["conv"]["kernel"][..., -told:, :] = 7
    np.testing.assert_array_equal(forward(variables, VIDEO)[1]["stage2"], stage2)


def test_laterals_are_normed_where_asked_for():
    plain, normed = network("slowfast_test")[0], network("pyslowfast_slowfast_test")[0]
    assert all(lateral.keys() == {"conv"} for lateral in laterals(plain))
    assert all(lateral.keys() == {"conv", "bn"} for lateral in laterals(normed))


def test_fast_features_come_first():
    variables, forward = network("slowfast_test")
    logits, out = forward(variables, VIDEO)
    means = [out[name].mean((1, 2, 3)) for name in ("fast_stage2", "stage2")]
    fc = variables["params"]["head"]["fc"]
    np.testing.assert_allclose(out["pre_logits"], np.concatenate(means, 1), rtol=1e-4)
    wanted = np.concatenate(means, 1) @ fc["kernel"] + fc["bias"]
    np.testing.assert_allclose(logits, wanted, rtol=1e-4)


def test_pyslowfast_averages_the_probabilities_of_windows():
    variables, forward = network("pyslowfast_slowfast_test")
    variables = copy.deepcopy(variables)
    fc = variables["params"]["head"]["fc"]
    fc["kernel"] -= fc["kernel"].mean(1, keepdims=True)
    logits, out = forward(variables, VIDEO)
    assert out["stage2"].shape[2:4] == (4, 4)
    places = np.concatenate([out[name].mean(1) for name in ("stage2", "fast_stage2")], -1)
    wanted = jax.nn.softmax(places @ fc["kernel"] + fc["bias"]).mean((1, 2))
    np.testing.assert_allclose(jax.nn.softmax(logits), wanted, atol=1e-5)
