"""Image classifiers as the start of video networks: inflation, what is new, what is refused."""

import jax
import numpy as np
import pytest

import converters
from converters import images, networks
from converters.__main__ import main
from converters.names import NameMap
from jaxvid import checkpoint, zoo
from jaxvid.base.errors import JaxvidError
from jaxvid.layers.resnet import ResNet
from tests.converters import pth

TRUNK = (1, 1, 1, 1)
# Families on the shared trunk, and what in them an image classifier does not know.
FAMILIES = {
    "c2d_test": ["head"],
    "i3d_test": ["head"],
    "i3d_nl_test": ["head", "non_local"],
    "slowonly_test": ["head"],
    "tanet_test": ["head", "tam"],
    "tin_test": ["head", "interlace"],
    "trn_test": ["head", "frame", "relation"],
    "tsm_test": ["head"],
    "tsm_nl_test": ["head", "non_local"],
    "tsn_test": ["head"],
    "tsn_resnext_test": ["head"],
}


def classifier(variant: str, style: str = "ResNet", **overrides) -> dict[str, np.ndarray]:
    """An image classifier whose trunk is that of `variant`, by PyTorch's keys."""
    row = zoo.starting_row(variant)
    names, rng = NameMap(images.STYLES[style]), np.random.default_rng(0)
    arrays = {}
    for path, leaf in networks.leaves_of(variant, row, 400, overrides).items():
        if names.key_of(path):
            shape = leaf.shape
            if len(shape) == 5:
                shape = (1, *shape[1:3], 3 if shape[3] == 10 else shape[3], shape[4])
            if path.endswith("position_bias"):
                shape = (25, shape[1])
            arrays[path] = rng.uniform(0.5, 1.5, shape).astype(np.float32)
    tensors = names.to_torch(arrays)
    return {key: np.ascontiguousarray(tensor) for key, tensor in tensors.items()}


def head(key: str, width: int) -> dict[str, np.ndarray]:
    return {f"{key}.weight": np.zeros((1000, width)), f"{key}.bias": np.zeros(1000)}


def test_a_clip_that_stands_still_has_the_features_of_its_picture():
    """But near the ends of the clip, where the temporal kernels meet padding."""
    tensors = classifier("slowonly_test")
    plain = ResNet(TRUNK, width=8)
    deep = ResNet(TRUNK, width=8, inflate=((1,), (1,), (3,), (3,)))
    picture = np.random.default_rng(1).normal(size=(1, 1, 16, 16, 3)).astype(np.float32)
    features = {}
    for name, trunk, frames in (("tsn_test", plain, 1), ("slowonly_test", deep, 5)):
        variables = converters.inflate(name, tensors)
        part = {kind: tree["backbone"] for kind, tree in variables.items()}
        clip = picture.repeat(frames, 1)
        features[name] = jax.jit(lambda v, x, trunk=trunk: trunk.apply(v, x)[0])(part, clip)
    kernel = variables["params"]["backbone"]["layer4_0"]["conv1"]["conv"]["kernel"]
    assert kernel.shape[0] == 3
    wanted = features["tsn_test"][:, 0]
    np.testing.assert_allclose(features["slowonly_test"][:, 2], wanted, rtol=1e-4)
    assert np.abs(features["slowonly_test"][:, 0] / wanted - 1).max() > 0.01


@pytest.mark.parametrize("variant", FAMILIES)
def test_only_what_images_do_not_teach_is_new(variant):
    variables, meta, lines = images.inflate_and_tell(variant, classifier(variant))
    assert {part for path in meta["new"] for part in FAMILIES[variant] if part in path} == set(
        FAMILIES[variant]
    )
    assert all(any(part in path for part in FAMILIES[variant]) for path in meta["new"])
    assert all(any(f"new: {path}" in line for line in lines) for path in meta["new"])
    leaves = networks.leaves_of(variant, zoo.starting_row(variant), 400, {})
    assert len(jax.tree.leaves(variables)) + len(meta["new"]) == len(leaves)


def test_a_stem_of_other_channels_gets_the_mean_of_three():
    overrides = {"blocks": TRUNK, "width": 8}
    tensors = classifier("tsn_r50_flow", **overrides)
    variables, _, lines = images.inflate_and_tell("tsn_r50_flow", tensors, overrides=overrides)
    kernel = variables["params"]["backbone"]["conv1"]["conv"]["kernel"]
    mean = tensors["conv1.weight"].mean(1).transpose(1, 2, 0)
    assert kernel.shape == (1, 7, 7, 10, 8)
    np.testing.assert_allclose(kernel, np.broadcast_to(mean[:, :, None], kernel.shape[1:])[None])
    assert any("1 kernels of 3 channels averaged" in line for line in lines)


@pytest.mark.parametrize(
    "style, key",
    [
        ("mmpretrain's MobileNetV2", "layer7.0.conv.2.conv.weight"),
        ("torchvision's MobileNetV2", "features.17.conv.2.weight"),
        ("timm's MobileNetV2", "blocks.6.0.conv_pwl.weight"),
    ],
)
def test_every_style_of_a_mobilenet_fills_the_same_trunk(style, key):
    tensors = classifier("tsm_mobilenetv2", style)
    assert tensors[key].shape == (320, 960, 1, 1) and len(tensors) == 5 * 52
    variables, meta, lines = images.inflate_and_tell("tsm_mobilenetv2", tensors)
    assert lines[0] == f"{style}: 260 tensors for 260 of 262 arrays"
    kernel = variables["params"]["backbone"]["layer7_0"]["project"]["conv"]["kernel"]
    np.testing.assert_array_equal(kernel[0, 0, 0].T, tensors[key][:, :, 0, 0])


def test_torchvisions_keys_are_spelt_as_in_its_files():
    keys = NameMap(images.STYLES["torchvision's MobileNetV2"])
    for key, path in {
        "features.0.0.weight": "params/backbone/conv1/conv/kernel",
        "features.1.conv.0.1.bias": "params/backbone/layer1_0/depthwise/bn/bias",
        "features.1.conv.1.weight": "params/backbone/layer1_0/project/conv/kernel",
        "features.3.conv.0.0.weight": "params/backbone/layer2_1/expand/conv/kernel",
        "features.4.conv.3.running_var": "batch_stats/backbone/layer3_0/project/bn/var",
        "features.18.1.weight": "params/backbone/conv2/bn/scale",
    }.items():
        assert keys.key_of(path) == key
    keys = NameMap(images.STYLES["DenseNet of torchvision's files"])
    path = "params/backbone/block4_24/unit2/conv/kernel"
    assert keys.key_of(path) == "features.denseblock4.denselayer24.conv.2.weight"


@pytest.mark.parametrize(
    "variant, style",
    [
        ("tsn_densenet_test", "DenseNet"),
        ("tsn_densenet_test", "DenseNet of torchvision's files"),
        ("tsn_mobileone_test", "mmpretrain's MobileOne"),
        ("tsm_mobileone_test", "mmpretrain's MobileOne"),
    ],
)
def test_other_trunks_are_filled_too(variant, style):
    _, meta, lines = images.inflate_and_tell(variant, classifier(variant, style))
    assert lines[0].startswith(f"{style}: ")
    assert meta["new"] == ["params/head/fc/bias", "params/head/fc/kernel"]


def test_a_still_clip_has_the_features_of_its_picture_in_windows_over_time_too():
    """Copies of a token share its attention, and where they stand in time changes nothing."""
    overrides = {"patch": (2, 4, 4), "depths": (2, 1)}
    tensors = classifier("swin_test", "Swin", **overrides)
    assert tensors["layers.0.blocks.1.attn.relative_position_bias_table"].shape == (25, 1)
    beside = {"layers.0.blocks.1.attn_mask": np.zeros(3), **head("head", 16)}
    picture = np.random.default_rng(1).normal(size=(1, 1, 24, 32, 3)).astype(np.float32)
    features = []
    for name, frames, changed in (("tsn_swin_test", 1, {}), ("swin_test", 8, overrides)):
        variables, meta, lines = images.inflate_and_tell(name, tensors | beside, overrides=changed)
        assert meta["new"] == ["params/head/fc/bias", "params/head/fc/kernel"]
        trunk = zoo.create_model(name, 400, **changed)
        filled = {"head": {"fc": {"kernel": np.zeros((16, 400)), "bias": np.zeros(400)}}}
        apply = jax.jit(lambda p, x, trunk=trunk: trunk.apply({"params": p}, x)[1]["stage2"])
        features.append(apply(variables["params"] | filled, picture.repeat(frames, 1)))
    assert "3 tables of positions repeated for every distance in time" in lines
    assert features[1].shape == (1, 4, 3, 4, 16)
    np.testing.assert_allclose(*np.broadcast_arrays(features[1], features[0]), atol=1e-4)


@pytest.mark.parametrize("style, merge", [("Swin", 0), ("timm's Swin", 1)])
def test_both_places_of_patch_merging_are_known(style, merge):
    overrides = {"depths": (1, 1, 1, 1), "heads": (1, 1, 1, 1)}
    tensors = classifier("swin_test", style, **overrides)
    assert f"layers.{merge}.downsample.reduction.weight" in tensors
    _, meta, lines = images.inflate_and_tell("swin_test", tensors, overrides=overrides)
    assert lines[0].startswith(f"{style}: ")
    assert meta["new"] == ["params/head/fc/bias", "params/head/fc/kernel"]


def test_other_windows_than_the_networks_are_refused():
    tensors = classifier("swin_test", "Swin")
    key = "layers.0.blocks.0.attn.relative_position_bias_table"
    tensors[key] = np.zeros((49, 1), np.float32)
    with pytest.raises(JaxvidError, match="layer1_0/attn/position_bias is for windows of 4 x 4"):
        converters.inflate("swin_test", tensors)


@pytest.mark.parametrize(
    "style, beside",
    [
        (
            "OpenAI's CLIP",
            ["visual.proj", "positional_embedding", "transformer.resblocks.11.mlp.c_fc.bias"],
        ),
        ("the image half of CLIP", ["proj", "ln_post.weight"]),
    ],
)
def test_clip_fills_the_image_blocks_and_its_text_is_left_out(style, beside):
    tensors = classifier("uniformerv2_test", style)
    first = "visual." if style == "OpenAI's CLIP" else ""
    assert tensors[f"{first}conv1.weight"].shape == (16, 3, 8, 8)
    _, meta, lines = images.inflate_and_tell(
        "uniformerv2_test", tensors | dict.fromkeys(beside, np.zeros(3))
    )
    assert lines[0].startswith(f"{style}: {len(tensors) + len(beside)} tensors")
    assert [line for line in lines if line.startswith("left out")] == [
        f"left out: {key}" for key in sorted(beside)
    ]
    new = {path.split("/")[1] for path in meta["new"]}
    assert new == {"video_token", "global0", "global1", "balance", "norm", "head"}


def test_clip_is_read_from_the_archive_that_openai_gives(tmp_path):
    tensors = classifier("uniformerv2_test", "OpenAI's CLIP")
    tensors |= {"transformer.resblocks.0.attn_mask": np.zeros((7, 7), np.float32)}
    file, tree = pth.File(), {}
    for key, tensor in tensors.items():
        *places, last = key.split(".")
        node = tree
        for place in places:
            node = node.setdefault(place, {})
        node[last] = file.tensor(np.ascontiguousarray(tensor, np.float16))

    def module(node):
        parts = {k: module(v) if isinstance(v, dict) else v for k, v in node.items()}
        return pth.Call(pth.Named("__torch__.multimodal.model", "Part"), (), parts)

    path = file.write(tmp_path / "ViT-B-16.pt", module(tree))
    variables, meta, lines = images.inflate_and_tell("uniformerv2_test", path)
    assert lines[0].startswith(f"OpenAI's CLIP: {len(tensors)} tensors")
    kernel = variables["params"]["patch_embed"]["kernel"]
    wanted = tensors["visual.conv1.weight"].astype(np.float16).transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(kernel.sum(0), wanted.astype(np.float32))


@pytest.mark.parametrize(
    "prefix, fc", [("", "fc"), ("backbone.", "head.fc"), ("module.backbone.", "module.head.fc")]
)
def test_the_command_fills_a_trunk_and_says_what_is_new(tmp_path, capsys, prefix, fc):
    tensors = {f"{prefix}{key}": tensor for key, tensor in classifier("tsn_test").items()}
    tensors[f"{prefix}bn1.num_batches_tracked"] = np.array(7)
    file = pth.File()
    content = {key: file.tensor(value) for key, value in (tensors | head(fc, 256)).items()}
    path = file.write(tmp_path / "resnet.pth", content)
    out = tmp_path / "out"
    main(["--model=tsn_test", f"--checkpoint={path}", "--image-weights", f"--out={out}"])
    said = capsys.readouterr().out
    assert (
        f"left out: {fc.removeprefix('module.')}.weight" in said
        and "new: params/head/fc/kernel" in said
    )
    kernel = checkpoint.load(out)["params"]["backbone"]["layer1_0"]["conv2"]["conv"]["kernel"]
    wanted = tensors[f"{prefix}layer1.0.conv2.weight"].transpose(2, 3, 1, 0)[None]
    np.testing.assert_array_equal(kernel, wanted)
    assert checkpoint.load_meta(out)["new"] == ["params/head/fc/bias", "params/head/fc/kernel"]


def test_what_does_not_fit_is_refused():
    tensors = classifier("tsn_test")
    with pytest.raises(JaxvidError, match="not the weights of an image classifier.*ResNet"):
        converters.inflate("tsn_test", {"encoder.weight": np.zeros(3)})
    with pytest.raises(JaxvidError, match="'layer9.0.conv1.weight' has no place"):
        converters.inflate("tsn_test", {**tensors, "layer9.0.conv1.weight": np.zeros((8, 8, 1, 1))})
    tensors.pop("layer3.0.conv2.weight")
    with pytest.raises(JaxvidError, match="layer3_0/conv2/conv/kernel"):
        converters.inflate("tsn_test", tensors)
    with pytest.raises(JaxvidError, match="problems"):
        converters.inflate("tsn_densenet_test", classifier("tsn_test"))
