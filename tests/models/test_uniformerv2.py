"""UniFormerV2: what looks at one frame and what at all, where it starts from, other sizes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvid.layers.conv import use_lowering
from jaxvid.layers.position import resize_grid
from jaxvid.models import uniformerv2


def build(**overrides):
    return uniformerv2.Model(
        **{**uniformerv2.VARIANTS["uniformerv2_test"], "num_classes": 5, **overrides}
    )


def draw_video(*shape):
    return jnp.asarray(np.random.default_rng(0).normal(size=(*shape, 3)), jnp.float32)


VIDEO = draw_video(1, 4, 32, 32)


@pytest.fixture(scope="module")
def start():
    """Variables as training starts with them."""
    return jax.jit(build().init)(jax.random.key(0), VIDEO)


@pytest.fixture(scope="module")
def trained(start):
    """Variables away from where they start."""
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda a: jnp.asarray(rng.normal(0.1, 0.2, a.shape), a.dtype), start)


@pytest.fixture(scope="module")
def run():
    with use_lowering("native"):
        yield jax.jit(build().apply)


def test_image_blocks_look_at_one_frame_and_global_blocks_at_all(run, trained):
    logits, out = run(trained, VIDEO)
    changed_logits, changed = run(trained, VIDEO.at[:, 2].add(1.0))
    for stage in ("stage1", "stage2"):
        moved = jnp.abs(changed[stage] - out[stage]).max((0, 2, 3, 4)) > 1e-3
        assert moved.tolist() == [False, False, True, False]
    assert jnp.abs(changed_logits - logits).max() > 1e-3


def test_order_counts_once_trained_and_not_at_the_start(run, start, trained):
    # Global blocks start by answering zero: what is left is the mean of an image network's frames.
    backwards = VIDEO[:, ::-1]
    np.testing.assert_allclose(run(start, VIDEO)[0], run(start, backwards)[0], atol=1e-6)
    assert np.abs(run(start, VIDEO)[0]).max() > 1e-3
    assert jnp.abs(run(trained, VIDEO)[0] - run(trained, backwards)[0]).max() > 1e-5


def test_the_balance_chooses_between_the_video_and_its_frames(run, trained):
    def logits(balance, token):
        params = {**trained["params"], "balance": jnp.full(16, balance)}
        params["video_token"] = jnp.full((1, 1, 16), token) * jnp.arange(16)
        return run({"params": params}, VIDEO)[0]

    np.testing.assert_allclose(logits(50.0, 0.0), logits(50.0, 1.0), rtol=1e-6)
    assert jnp.abs(logits(-50.0, 0.0) - logits(-50.0, 1.0)).max() > 1e-3


def test_positions_are_interpolated_for_frames_of_another_size(trained):
    video = draw_video(1, 3, 64, 64)
    table = trained["params"]["positional_embedding"]
    patches = resize_grid(table[1:].reshape(4, 4, 16), (8, 8)).reshape(64, 16)
    resized = {"params": {**trained["params"]}}
    resized["params"]["positional_embedding"] = jnp.concatenate([table[:1], patches])
    with use_lowering("native"):
        shallow = {"depth": 1, "global_at": (0,)}
        interpolated = jax.jit(build(**shallow).apply)(trained, video)[0]
        larger = build(**shallow, input_resolution=64)
        expected = jax.jit(larger.apply)(resized, video)[0]
    np.testing.assert_allclose(interpolated, expected, rtol=1e-5, atol=1e-6)


def test_frames_need_not_be_square(trained):
    _, out = jax.eval_shape(build().apply, trained, draw_video(2, 3, 40, 24))
    assert out["stem"].shape == out["stage2"].shape == (2, 3, 5, 3, 16)


def test_the_activation_is_clips():
    # The exact GELU is 0.8413 at 1, the usual approximation 0.8412.
    assert uniformerv2.quick_gelu(jnp.float32(1)) == pytest.approx(0.845796, abs=1e-6)
