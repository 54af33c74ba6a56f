"""The parts of networks: layers counted as MMAction2 counts them, and what is frozen."""

import pytest

from jaxvid import zoo
from jaxvid.base.errors import JaxvidError
from jaxvid.training import parts

CLIP = (4, 32, 32, 3)


@pytest.fixture(scope="module")
def tsm():
    return parts.find(zoo.create_model("tsm_test", 5), CLIP)


def test_parts_stand_in_the_order_of_their_use(tsm):
    assert tsm.params[0] == "backbone/conv1/conv/kernel" and tsm.params[-2].startswith("head/fc/")
    blocks = [parts.block_of(path) for path in tsm.params]
    assert list(dict.fromkeys(blocks)) == [
        None,
        *(f"backbone/layer{stage}_0" for stage in (1, 2, 3, 4)),
    ]
    assert blocks[-1] is None
    assert tsm.norms[:2] == ("backbone/conv1/bn", "backbone/layer1_0/conv1/bn")
    assert len(tsm.norms) == sum(path.endswith("bn/scale") for path in tsm.params)


def test_layers_of_a_transformer_are_those_of_the_published_constructor():
    """Tokens, patches and positions are 0, block i is i + 1, all after it is the top."""
    found = parts.find(zoo.create_model("mvit_test", 5), CLIP)
    layer_of = parts.layers(found.params)
    assert set(layer_of) == set(found.params)
    for path, layer in layer_of.items():
        top = path.split("/")[0]
        expected = {"cls_token": 0, "patch_embed": 0, "norm": 5, "head": 5}.get(top)
        assert layer == (int(top[5:]) + 1 if expected is None else expected), path


@pytest.mark.parametrize(
    "expected",
    [
        # A residual network, with more than ten blocks in a stage and a module between stages.
        {
            "backbone/conv1/conv/kernel": 0,
            "backbone/layer1_0/conv1/conv/kernel": 1,
            "backbone/layer1_2/conv1/conv/kernel": 2,
            "backbone/layer1_10/conv1/conv/kernel": 3,
            "backbone/lateral1/conv/kernel": 4,
            "backbone/layer2_0/conv1/conv/kernel": 4,
            "backbone/layer2_0/non_local_block/theta/kernel": 4,
            "neck/conv/kernel": 5,
            "head/fc/kernel": 5,
        },
        # Two pathways: their equal blocks are one layer, and each has its stem.
        {
            "slow/conv1/kernel": 0,
            "slow/layer1_0/kernel": 1,
            "slow/layer2_0/kernel": 2,
            "fast/conv1/kernel": 0,
            "fast/layer1_0/kernel": 1,
            "fast/layer2_0/kernel": 2,
            "head/kernel": 3,
        },
        # Blocks that hold numbered layers.
        {"stem/kernel": 0, "stage1_0/layer0/kernel": 1, "stage1_0/layer1/kernel": 1, "fc/bias": 2},
        # Stages that hold blocks, each closed by what leads to the next.
        {
            "patch_embed/kernel": 0,
            "pos_embed": 0,
            "stage1/block0/mlp/kernel": 1,
            "stage1/block1/mlp/kernel": 2,
            "stage1/downsample/kernel": 3,
            "stage2/block0/mlp/kernel": 3,
            "stage2/norm/scale": 4,
            "norm/scale": 4,
            "head/kernel": 4,
        },
    ],
)
def test_layers_of_other_trunks(expected):
    assert parts.layers(list(expected)) == expected


def test_a_network_without_numbered_blocks_has_no_layers():
    with pytest.raises(JaxvidError, match="config.optim.layer_decay needs .* numbered blocks"):
        parts.layers(["conv1a/kernel", "fc6/kernel"])


def test_groups_are_said_with_their_rates(tsm):
    said = parts.describe_layers(parts.layers(tsm.params), 0.5)
    assert said.startswith("rates of 6 layers: backbone/conv1 x0.0312, backbone/layer1_0 x0.0625, ")
    assert said.endswith("backbone/layer4_0 x0.5, head/fc x1")
    many = {"cls_token": 0, **{f"block{i}/kernel": i + 1 for i in range(20)}, "head/kernel": 21}
    assert parts.describe_layers(many, 0.9).count(",") == 7


def test_frozen_by_pattern(tsm):
    trunk = parts.frozen(tsm, ("trunk",), "")
    assert set(tsm.params) - trunk == {"head/fc/kernel", "head/fc/bias"}
    assert trunk == parts.frozen(tsm, ("backbone/*",), "")
    some = parts.frozen(tsm, ("backbone/conv1/*", "*/layer1_0/*/kernel"), "")
    assert some >= {"backbone/conv1/bn/bias", "backbone/layer1_0/conv2/conv/kernel"}
    assert "backbone/layer1_0/conv2/bn/bias" not in some
    assert parts.frozen(tsm, (), "") == frozenset()


def test_frozen_norms(tsm):
    whole = parts.frozen(tsm, (), "all")
    assert whole == {path for path in tsm.params if "/bn/" in path}
    first = {"backbone/conv1/bn/scale", "backbone/conv1/bn/bias"}
    assert whole - parts.frozen(tsm, (), "partial") == first


@pytest.mark.parametrize(
    "patterns, norms, words",
    [
        (("backbon/*",), "", "freeze: 'backbon/*' matches no parameter: give trunk, or a pattern"),
        (("*",), "", "config.optim.freeze leaves nothing to train"),
        ((), "some", "config.train.freeze_norm='some' is unknown: take all, partial, st"),
    ],
)
def test_freezing_that_makes_no_sense_is_refused(tsm, patterns, norms, words):
    with pytest.raises(JaxvidError) as caught:
        parts.frozen(tsm, patterns, norms)
    assert words in str(caught.value)
