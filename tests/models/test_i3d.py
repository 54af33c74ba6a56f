"""I3D: what each form does along time."""

import jax
import jax.numpy as jnp
import pytest

from jaxvid import zoo


def shapes(name, **overrides):
    """Parameters and intermediates of a full-size net for 32 small frames, as shapes."""
    model = zoo.create_model(name, **overrides)
    video = jax.ShapeDtypeStruct((1, 32, 64, 64, 3), jnp.float32)
    (_, out), variables = jax.eval_shape(model.init_with_output, jax.random.key(0), video)
    return variables["params"]["backbone"], out


@pytest.mark.parametrize("name, stem, later", [("i3d_r50", 8, 4), ("i3d_r50_heavy", 32, 16)])
def test_time_is_halved_by_stem_and_pooling_but_in_the_heavy_form(name, stem, later):
    out = shapes(name)[1]
    frames = {name: value.shape[1] for name, value in out.items() if name != "pre_logits"}
    assert frames == dict.fromkeys(["stem", "stage1"], stem) | dict.fromkeys(
        ["stage2", "stage3", "stage4"], later
    )


@pytest.mark.parametrize(
    "name, pattern",
    [("i3d_r50", "333 3131 313131 131"), ("i3d_r50_heavy", "3" * 3 + " 3333 " + "3" * 6 + " 333")],
)
def test_which_blocks_are_inflated(name, pattern):
    params = shapes(name)[0]
    found = [
        "".join(str(params[f"layer{s}_{b}"]["conv1"]["conv"]["kernel"].shape[0]) for b in range(n))
        for s, n in enumerate((3, 4, 6, 3), 1)
    ]
    assert " ".join(found) == pattern
    kernels = {
        unit["conv2"]["conv"]["kernel"].shape[0]
        for name, unit in params.items()
        if name.startswith("layer")
    }
    assert kernels == {1}


def test_non_local_blocks_follow_the_blocks_that_are_not_inflated():
    params = shapes("i3d_r50_nl_gauss")[0]
    places = [name for name, block in params.items() if "non_local" in block]
    assert sorted(places) == ["layer2_1", "layer2_3", "layer3_1", "layer3_3", "layer3_5"]
