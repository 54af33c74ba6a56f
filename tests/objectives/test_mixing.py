"""Mixup and CutMix against numpy, from the blends that they leave."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxvid import config as configs
from jaxvid.base.errors import JaxvidError
from jaxvid.objectives import mixing
from jaxvid.objectives.mixing import Mixing
from jaxvid.rows import UNKNOWN
from jaxvid.training import step
from jaxvid.training.state import TrainState
from tests import handed

CLASSES = 50
CLIPS = 48


def batch(clips=CLIPS, size=(12, 10), seed=0):
    rng = np.random.default_rng(seed)
    video = rng.integers(0, 256, (clips, 3, *size, 3), np.uint8)
    return video, np.arange(clips) % CLASSES


def mixed(how, key=0, **settings):
    video, labels = batch(**settings)
    run = jax.jit(mixing.mix, static_argnums=(0, 4))
    blended, soft = run(how, jax.random.key(key), video, labels, CLASSES)
    assert blended.shape == video.shape and blended.dtype == jnp.float32
    assert soft.shape == (len(labels), CLASSES)
    np.testing.assert_allclose(soft.sum(1), 1, atol=1e-6)
    return video.astype(np.float64), labels, np.asarray(blended), np.asarray(soft)


def kept_shares(labels, soft, repeats=1):
    """The weights of own labels; checks that the rest is that of the video before."""
    own = soft[np.arange(len(labels)), labels]
    other = soft[np.arange(len(labels)), np.roll(labels, repeats)]
    np.testing.assert_allclose(own + other, 1, atol=1e-6)
    return own


@pytest.mark.parametrize("repeats", [1, 2])
def test_mixup_is_a_weighted_mean_of_clips_and_labels(repeats):
    video, labels, blended, soft = mixed(Mixing(mixup=0.8, repeats=repeats))
    own = kept_shares(labels, soft, repeats)
    assert own.std() > 0.2  # each clip has its own
    own = own[:, None, None, None, None]
    want = own * video + (1 - own) * np.roll(video, repeats, axis=0)
    np.testing.assert_allclose(blended, want, atol=1e-3)


def test_mixup_weights_are_of_the_beta_distribution():
    for alpha in (0.2, 0.8, 1.0):
        runs = [mixed(Mixing(mixup=alpha), key, clips=CLASSES, size=(1, 1)) for key in range(40)]
        draws = np.concatenate([kept_shares(labels, soft) for _, labels, _, soft in runs])
        assert abs(draws.mean() - 0.5) < 0.04
        assert abs(draws.var() - 1 / (4 * (2 * alpha + 1))) < 0.015


def test_cutmix_puts_one_box_of_the_other_clip_into_all_frames():
    video, labels, blended, soft = mixed(Mixing(cutmix=1.0))
    own, other = kept_shares(labels, soft), np.roll(video, 1, axis=0)
    areas = []
    for i in range(CLIPS):
        is_own, is_other = blended[i] == video[i], blended[i] == other[i]
        assert (is_own | is_other).all()
        inside = ~is_own.all((0, -1))  # [H, W]
        areas.append(inside.mean())
        if inside.any():
            rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
            box = inside[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            assert box.all()  # a full rectangle
            assert is_other[:, inside].all()
        assert own[i] == pytest.approx(1 - areas[-1], abs=1e-6)
    assert min(areas) < 0.1 and max(areas) > 0.5


def test_boxes_lie_anywhere_and_are_cut_at_the_rim():
    places = np.zeros((12, 10))
    for key in range(20):
        video, _, blended, _ = mixed(Mixing(cutmix=1.0), key)
        places += (blended != video).any((1, 4)).mean(0)
    assert (places > 0).all()
    assert places[6, 5] > places[0, 0] > 0


def test_the_switch_says_how_many_clips_get_cutmix():
    video, _, blended, _ = mixed(Mixing(mixup=1.0, cutmix=1.0, switch=0.25), clips=400)
    other = np.roll(video, 1, axis=0)
    is_cut = ((blended == video) | (blended == other)).all((1, 2, 3, 4))
    assert 0.17 < is_cut.mean() < 0.33
    for switch, share in ((0.0, 0.0), (1.0, 1.0)):
        video, _, blended, _ = mixed(Mixing(mixup=1.0, cutmix=1.0, switch=switch))
        other = np.roll(video, 1, axis=0)
        assert ((blended == video) | (blended == other)).all((1, 2, 3, 4)).mean() == share


def test_the_key_decides():
    how = Mixing(mixup=0.8, cutmix=1.0)
    first, again, other = (mixed(how, key)[2] for key in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_clips_of_one_video_are_never_blended():
    video, labels = batch()
    labels = labels // 2  # two clips of each video, one after the other
    how = Mixing(mixup=1.0, cutmix=1.0, repeats=2)
    _, soft = mixing.mix(how, jax.random.key(0), video, labels, CLASSES)
    assert ((np.asarray(soft) > 0).sum(1) == 2).mean() > 0.8
    np.testing.assert_array_equal(soft[:, 49], 0)


def test_settings():
    assert not Mixing() and Mixing(mixup=0.1) and Mixing(cutmix=0.1)
    with pytest.raises(JaxvidError, match="config.train.mixup is -1"):
        Mixing(mixup=-1.0)
    with pytest.raises(JaxvidError, match="config.train.cutmix is -2"):
        Mixing(cutmix=-2.0)
    with pytest.raises(JaxvidError, match="mixup_switch_prob is 1.5"):
        Mixing(switch=1.5)


# ---- in the step


class Line(nn.Module):
    """The smallest network: the mean picture, and one matrix."""

    num_classes: int = 4

    @nn.compact
    def __call__(self, video, train=False):
        return nn.Dense(self.num_classes, name="head")(video.mean((1, 2, 3))), {}


def step_config(**settings):
    config = configs.from_row("tsm_test")
    config.seed = 7
    config.data.update({"mean": (120.0, 110.0, 100.0), "std": (60.0, 50.0, 40.0), "repeats": 2})
    config.train.update({"label_smoothing": 0.1, "freeze_norm": "", "norm_group": 0})
    config.train.update(settings)
    return handed.frozen(config)


def run_step(config, number=5, **how):
    rng = np.random.default_rng(0)
    video = rng.integers(0, 256, (8, 2, 6, 6, 3), np.uint8)
    labels = np.array([0, 0, 1, 1, 3, 3, 2, 2], np.int32)
    kernel = rng.normal(0, 1, (3, 4)).astype(np.float32)
    params = {"head": {"kernel": jnp.asarray(kernel), "bias": jnp.zeros(4)}}
    optimizer = optax.sgd(0.1)
    state = TrainState(jnp.int32(number), params, {}, optimizer.init(params))
    run = jax.jit(step.make_train_step(Line(), optimizer, config, **how))
    _, measured = run(state, {"video": video, "label": labels})
    return video, labels, kernel, jax.device_get(measured)


def expected(video, soft, kernel):
    """Loss and accuracy in numpy, with labels smoothed by 0.1."""
    pixels = (np.asarray(video, np.float64) - (120, 110, 100)) / (60, 50, 40)
    logits = pixels.mean((1, 2, 3)) @ kernel
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    loss = -((0.9 * soft + 0.1 / 4) * log_p).sum(-1).mean()
    return loss, (logits.argmax(-1) == soft.argmax(-1)).mean()


def test_the_step_trains_on_the_blends_of_its_own_number():
    config = step_config(mixup=0.8, cutmix=1.0)
    video, labels, kernel, measured = run_step(config)
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(7), 5), 1)
    blended, soft = mixing.mix(Mixing(0.8, 1.0, 0.5, 2), key, video, labels, 4)
    loss, top1 = expected(blended, np.asarray(soft), kernel)
    assert measured["loss"] == pytest.approx(loss, rel=1e-5)
    assert measured["top1"] == pytest.approx(top1)
    assert run_step(config, number=6)[-1]["loss"] != measured["loss"]


def test_the_step_without_mixing_takes_the_labels_as_they_are():
    video, labels, kernel, measured = run_step(step_config())
    loss, top1 = expected(video, np.eye(4)[labels], kernel)
    assert measured["loss"] == pytest.approx(loss, rel=1e-5)
    assert measured["top1"] == pytest.approx(top1)


def test_the_step_weighs_classes():
    weights = (1.0, 2.0, 0.5, 0.0)
    video, labels, kernel, measured = run_step(step_config(), class_weights=weights)
    each = [expected(video[i : i + 1], np.eye(4)[labels[i : i + 1]], kernel)[0] for i in range(8)]
    loss = (np.take(weights, labels) * each).mean()
    assert measured["loss"] == pytest.approx(loss, rel=1e-5)


def test_the_step_refuses_settings_that_make_no_sense():
    with pytest.raises(JaxvidError, match="config.train.mixup is -0.5"):
        step.make_train_step(Line(), optax.sgd(0.1), step_config(mixup=-0.5))


def test_a_blend_knows_what_both_of_its_labels_know():
    video = jnp.zeros((3, 1, 2, 2, 3))
    labels = jnp.array([[1, 0, UNKNOWN], [0, 1, 1], [1, UNKNOWN, 0]], jnp.uint8)
    _, found = mixing.mix(Mixing(mixup=1.0), jax.random.key(0), video, labels, 3)
    expected = [[0, 1, 1], [0, 0, 1], [0, 1, 0]]  # each with the one before it
    np.testing.assert_array_equal(np.isnan(found), expected)
