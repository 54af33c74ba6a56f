"""The residual trunk: shapes, names, and the places where families hook in."""

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvid.layers.resnet import (
    BasicBlock,
    Bottleneck,
    ConvNorm,
    Place,
    ResNet,
    resnet_names,
)

VIDEO = jax.ShapeDtypeStruct((2, 8, 32, 48, 3), jnp.float32)


def shapes(trunk, video=VIDEO):
    """Variables, features and intermediates of a trunk, as shapes: nothing is computed."""
    (features, out), variables = jax.eval_shape(
        lambda x: trunk.init_with_output(jax.random.key(0), x), video
    )
    flat = flax.traverse_util.flatten_dict(variables, sep="/")
    return (
        features.shape,
        {k: v.shape for k, v in out.items()},
        {k: v.shape for k, v in flat.items()},
    )


def test_shapes_of_a_bottleneck_trunk():
    features, out, variables = shapes(ResNet((1, 2, 1, 1), width=8))
    assert out == {
        "stem": (2, 8, 8, 12, 8),
        "stage1": (2, 8, 8, 12, 32),
        "stage2": (2, 8, 4, 6, 64),
        "stage3": (2, 8, 2, 3, 128),
        "stage4": (2, 8, 1, 2, 256),
    }
    assert features == out["stage4"]
    assert variables["params/conv1/conv/kernel"] == (1, 7, 7, 3, 8)
    assert variables["params/layer2_1/conv2/conv/kernel"] == (1, 3, 3, 16, 16)
    assert variables["batch_stats/layer4_0/downsample/bn/var"] == (256,)
    assert "params/layer2_1/downsample/conv/kernel" not in variables
    assert not any(name.endswith("conv/bias") for name in variables)


def test_shapes_of_a_basic_trunk():
    features, out, variables = shapes(ResNet((2, 1, 1, 1), BasicBlock, width=8))
    assert features == (2, 8, 1, 2, 64) and out["stage1"] == (2, 8, 8, 12, 8)
    assert variables["params/layer2_0/downsample/conv/kernel"] == (1, 1, 1, 8, 16)
    assert "params/layer1_0/downsample/conv/kernel" not in variables
    assert not any("conv3" in name for name in variables)


def test_inflation_strides_and_pooling_in_time():
    trunk = ResNet(
        (2, 1, 1, 1),
        width=8,
        stem_kernel=(5, 7, 7),
        stem_stride=(2, 2, 2),
        inflate=((3, 1), (1,), (3,), (3,)),
        temporal_strides=(1, 1, 2, 1),
        spatial_strides=(1, 1, 2, 2),
        pool2=True,
    )
    features, out, variables = shapes(trunk)
    frames = {name: shape[1] for name, shape in out.items()}
    assert frames == {"stem": 4, "stage1": 4, "stage2": 2, "stage3": 1, "stage4": 1}
    assert out["stage2"][2:4] == (8, 12) and features[2:4] == (2, 3)
    assert variables["params/conv1/conv/kernel"] == (5, 7, 7, 3, 8)
    kernels = {
        name: variables[f"params/{name}/conv1/conv/kernel"][0]
        for name in ("layer1_0", "layer1_1", "layer2_0", "layer3_0")
    }
    assert kernels == {"layer1_0": 3, "layer1_1": 1, "layer2_0": 1, "layer3_0": 3}
    assert variables["params/layer3_0/conv2/conv/kernel"][0] == 1


def test_a_trunk_without_stem_pool():
    assert shapes(ResNet((1, 1, 1, 1), width=8, stem_pool=None))[1]["stem"] == (2, 8, 16, 24, 8)


@pytest.mark.parametrize(
    "block, points",
    [
        (Bottleneck, ["block_in", "conv1_in", "conv1_out", "conv2_out", "block_out"]),
        (BasicBlock, ["block_in", "conv1_in", "conv1_out", "block_out"]),
    ],
)
def test_hooks_are_called_at_every_place_in_order(block, points):
    called = []

    def hook(place, x, train):
        called.append((place, x.shape[-1], train))
        return x

    depths = (1, 2, 1, 1)
    trunk = ResNet(depths, block, width=8, hook=hook)
    variables = jax.eval_shape(lambda x: trunk.init(jax.random.key(0), x), VIDEO)
    called.clear()
    jax.eval_shape(lambda v, x: trunk.apply(v, x, True, mutable=["batch_stats"]), variables, VIDEO)
    expected = [
        Place(stage, block, blocks, point)
        for stage, blocks in enumerate(depths, 1)
        for block in range(blocks)
        for point in points
    ]
    assert [place for place, _, _ in called] == expected
    assert all(train is True for _, _, train in called)
    first = {place.point: channels for place, channels, _ in called[: len(points)]}
    assert first["block_in"] == first["conv1_in"] == first["conv1_out"] == 8
    assert first["block_out"] == 8 * block.expansion


def change(point):
    """A hook that doubles what passes one place of the first block."""

    def hook(place, x, train):
        return 2 * x if place == Place(1, 0, 1, point) else x

    return hook


def filled(module, x, rng):
    """Variables of a module with positive numbers everywhere, without running it."""
    return jax.tree.map(
        lambda leaf: rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32),
        jax.eval_shape(module.init, jax.random.key(0), x),
    )


def run_hooked(last_scale):
    """The output of one block without a hook and with one at each place, in one compilation."""
    points = ("block_in", "conv1_in", "conv1_out", "conv2_out", "block_out")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1, 1, 6, 6, 3)).astype(np.float32)
    blocks = {point: Bottleneck(4, 1, 0, 1, hook=change(point)) for point in points}
    blocks["none"] = Bottleneck(4, 1, 0, 1)
    variables = filled(blocks["none"], x, rng)
    variables["params"]["conv3"]["bn"]["scale"] *= last_scale
    return jax.jit(lambda x: {point: b.apply(variables, x) for point, b in blocks.items()})(x)


def test_what_a_hook_returns_is_used():
    outputs = run_hooked(1)
    for point in outputs.keys() - {"none"}:
        assert np.abs(outputs[point] - outputs["none"]).max() > 1e-3, point


def test_only_block_in_and_block_out_change_the_shortcut():
    # With the last convolution's scale at zero only the shortcut is left.
    outputs = run_hooked(0)
    changed = {point for point in outputs if np.abs(outputs[point] - outputs["none"]).max() > 1e-3}
    assert changed == {"block_in", "block_out"}


def test_a_hooks_modules_are_the_blocks_children():
    def hook(place, x, train):
        if place.point != "conv1_out" or place.stage != 2:
            return x
        return ConvNorm(x.shape[-1], (3, 1, 1), padding=(1, 0, 0), name="extra")(x, train)

    variables = shapes(ResNet((1, 2, 1, 1), width=8, hook=hook))[2]
    extra = sorted(name for name in variables if name.endswith("extra/conv/kernel"))
    assert extra == [f"params/layer2_{block}/extra/conv/kernel" for block in (0, 1)]


def test_a_block_by_hand():
    """Bottleneck of one pixel: three matrix products, norms and a shortcut."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1, 1, 1, 1, 8)).astype(np.float32)
    block = Bottleneck(2, 1, 0, 1, epsilon=1e-3)
    variables = filled(block, x, rng)
    params, stats = variables["params"], variables["batch_stats"]
    assert params.keys() == {"conv1", "conv2", "conv3"}, "8 channels in and out: no downsample"

    def unit(name, y):
        kernel = np.asarray(params[name]["conv"]["kernel"])
        kernel = kernel[0, kernel.shape[1] // 2, kernel.shape[2] // 2]
        mean, var = stats[name]["bn"]["mean"], stats[name]["bn"]["var"]
        normal = (y @ kernel - mean) / np.sqrt(var + 1e-3)
        return normal * params[name]["bn"]["scale"] + params[name]["bn"]["bias"]

    y = np.maximum(unit("conv1", x.reshape(8)), 0)
    y = unit("conv3", np.maximum(unit("conv2", y), 0))
    expected = np.maximum(x.reshape(8) + y, 0)
    output = jax.jit(block.apply)(variables, x)
    np.testing.assert_allclose(output.reshape(8), expected, rtol=1e-5)


@pytest.mark.parametrize("block, last", [(BasicBlock, "conv2"), (Bottleneck, "conv3")])
def test_zero_init_is_of_a_blocks_last_norm_alone(block, last):
    module = block(4, 1, 0, 1, zero_init=True)

    @jax.jit
    def scales(x):
        params = module.init(jax.random.key(0), x)["params"]
        return {name: unit["bn"]["scale"] for name, unit in params.items()}

    found = scales(jnp.zeros((1, 1, 4, 4, 3)))
    assert {name for name, scale in found.items() if not scale.any()} == {last}
    assert "downsample" in found


def test_momentum_reaches_every_norm():
    def moved(momentum):
        trunk = ResNet((1,), width=4, momentum=momentum)
        x = np.random.default_rng(0).normal(size=(1, 1, 16, 16, 3)).astype(np.float32)
        variables = filled(trunk, x, np.random.default_rng(1))
        _, new = trunk.apply(variables, x, True, mutable=["batch_stats"])
        old = variables["batch_stats"]
        return jax.tree.leaves(jax.tree.map(lambda a, b: a != b, old, new["batch_stats"]))

    moves = jax.jit(lambda: {momentum: moved(momentum) for momentum in (0.0, 0.01)})()
    assert not any(leaf.any() for leaf in moves[0.0])
    assert len(moves[0.01]) == 10 and all(leaf.all() for leaf in moves[0.01])


def test_names_cover_the_trunk_both_ways():
    rules = resnet_names("conv3d", conv1="conv.net")
    keys = [key for key, _, _ in rules]
    assert len(set(keys)) == len(keys)
    assert (
        "backbone.layer{s}.{b}.conv1.conv.net.weight",
        "params/backbone/layer{s}_{b}/conv1/conv/kernel",
        "conv3d",
    ) in rules
    assert ("backbone.conv1.bn.running_var", "batch_stats/backbone/conv1/bn/var", "same") in rules
    assert [rule for rule in rules if rule[1] is None] == [
        (key, None, "drop") for key in keys if key.endswith("num_batches_tracked")
    ]
