"""The 2-D trunks beside the ResNet: what sets each apart."""

import functools

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvid import zoo
from jaxvid.base.errors import JaxvidError
from jaxvid.layers.densenet import DenseNet
from jaxvid.layers.mobilenet import MobileNetV2
from jaxvid.layers.mobileone import MobileOne, deploy
from jaxvid.layers.pool import avg_pool
from jaxvid.layers.resnet import Place
from jaxvid.layers.temporal import temporal_shift
from jaxvid.models.tsm import shift_hook
from tests.models.test_families import network

VIDEO = np.random.default_rng(0).normal(size=(1, 4, 16, 16, 3)).astype(np.float32)


def shapes(trunk, size=64):
    """Shapes of all intermediates and of the features of one frame."""
    frame = jax.ShapeDtypeStruct((1, 1, size, size, 3), jnp.float32)
    (x, out), _ = jax.eval_shape(lambda x: trunk.init_with_output(jax.random.key(0), x), frame)
    return {name: value.shape[2:] for name, value in out.items()} | {"features": x.shape[2:]}


def test_every_stage_has_its_size():
    assert shapes(DenseNet()) == {
        "stem": (16, 16, 96),
        "stage1": (16, 16, 384),
        "stage2": (8, 8, 768),
        "stage3": (4, 4, 2112),
        "stage4": (2, 2, 2208),
        "features": (2, 2, 2208),
    }
    one = shapes(MobileOne())
    assert one["stem"] == (32, 32, 64)
    widths = [one[f"stage{i}"][::2] for i in range(1, 5)]
    assert widths == [(16, 192), (8, 448), (4, 896), (2, 2048)]
    two = shapes(MobileNetV2())
    assert [two[f"stage{i}"][1:] for i in (1, 2, 3, 4, 5, 6, 7)] == [
        (32, 16), (16, 24), (8, 32), (4, 64), (4, 96), (2, 160), (2, 320)
    ]  # fmt: skip
    assert two["features"] == (2, 2, 1280)


def test_avg_pool_leaves_the_odd_border_out():
    x = jnp.arange(25.0).reshape(1, 1, 5, 5, 1)
    assert avg_pool(x, 2)[0, 0, :, :, 0].tolist() == [[3, 5], [13, 15]]


def test_a_densenet_ends_with_a_norm_and_no_relu():
    model, variables = network("tsn_densenet_test")
    trunk = model.trunk()
    part = {kind: tree["backbone"] for kind, tree in variables.items()}
    x, _ = jax.jit(trunk.apply)(part, VIDEO)
    assert (x < 0).any()


def test_mobilenet_calls_its_hook_where_a_shortcut_keeps_what_comes_in():
    places = []

    def hook(place, x, train):
        places.append((place.stage, place.block))
        return x

    shapes(MobileNetV2(hook=hook))
    assert places == [
        (2, 1), (3, 1), (3, 2), (4, 1), (4, 2), (4, 3), (5, 1), (5, 2), (6, 1), (6, 2)
    ]  # fmt: skip


def test_a_shift_in_groups_of_frames_does_not_leave_them():
    place, x = Place(1, 0, 2, "block_in"), jnp.arange(32.0).reshape(1, 4, 1, 1, 8)
    shifted = shift_hook(1, 4, "block_in", frames=2)(place, x, False)
    for group in (slice(0, 2), slice(2, 4)):
        np.testing.assert_array_equal(shifted[:, group], temporal_shift(x[:, group], 4))
    assert (shifted != temporal_shift(x, 4)).any()
    with pytest.raises(JaxvidError, match="groups of 2 frames: give it a multiple of 2, not 3"):
        shift_hook(1, 4, "block_in", frames=2)(place, x[:, :3], False)


def test_the_deployed_form_answers_the_same():
    model, variables = network("tsn_mobileone_test")
    deployed = zoo.create_model("tsn_mobileone_test_deploy", 5, dropout=0.0)
    small = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    with jax.enable_x64(True):
        video = jnp.asarray(VIDEO, jnp.float64)
        variables = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables)
        fused = deploy(variables)
        wanted = small(model.apply)(variables, video)[0]
        logits = small(deployed.apply)(fused, video)[0]
        abstract = jax.eval_shape(deployed.init, jax.random.key(0), video)
    assert wanted.dtype == jnp.float64
    np.testing.assert_allclose(logits, wanted, rtol=0, atol=1e-10 * float(np.abs(wanted).max()))
    flat = flax.traverse_util.flatten_dict(fused["params"], sep="/")
    expected = flax.traverse_util.flatten_dict(abstract["params"], sep="/")
    assert {p: v.shape for p, v in flat.items()} == {p: v.shape for p, v in expected.items()}
    assert not jax.tree.leaves(fused["batch_stats"])
