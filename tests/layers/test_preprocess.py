"""Pixels before the network: the same everywhere, in the order that it was taught."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvid import config as configs
from jaxvid import zoo
from jaxvid.base.errors import JaxvidError
from jaxvid.inference import features, predictor
from jaxvid.layers.preprocess import normalize, normalizer
from jaxvid.training import optim, step
from jaxvid.training.state import make_state
from tests import handed

PIXELS = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 4, 3), np.uint8)


class Channels(nn.Module):
    """Answers with the mean of each channel, in the order in which they enter."""

    @nn.compact
    def __call__(self, video, train=False):
        logits = video.mean((1, 2, 3)) + self.param("bias", nn.initializers.zeros, (3,))
        return logits, {"pre_logits": logits}


VARIABLES = {"params": {"bias": jnp.zeros(3)}}


def make_config(order):
    config = configs.from_row("tsm_test")
    config.data.channel_order = order
    return config


def means(order):
    config = make_config(order)
    each = normalize(PIXELS, config.data.mean, config.data.std).mean((1, 2, 3))
    return each[:, ::-1] if order == "bgr" else each


@pytest.mark.parametrize("order", ["rgb", "bgr"])
def test_mean_and_deviation_are_those_of_red_green_and_blue(order):
    pixels = normalizer(make_config(order).data)(PIXELS)
    np.testing.assert_allclose(pixels.mean((1, 2, 3)), means(order), atol=1e-5)
    assert np.abs(means("rgb") - means("bgr")).max() > 0.05


@pytest.mark.parametrize("order", ["rgb", "bgr"])
def test_a_test_and_features_see_the_order(order):
    config = make_config(order)
    scores = handed.make_scorer(Channels(), config)(VARIABLES, PIXELS[:, None])
    np.testing.assert_allclose(scores, jax.nn.softmax(means(order)), atol=1e-5)
    extract = features.make_extractor(
        Channels(), normalizer(config.data), 1, ["pre_logits"], True, VARIABLES, PIXELS.shape[1:]
    )
    found = extract(VARIABLES, PIXELS)["pre_logits"]
    np.testing.assert_allclose(found, means(order).mean(0), atol=1e-5)


@pytest.mark.parametrize("order", ["rgb", "bgr"])
def test_training_sees_the_order(order):
    config = make_config(order)
    optimizer = optim.make_optimizer(config.optim, lambda step: 0.1)
    state = make_state(VARIABLES, optimizer)
    train_step = jax.jit(step.make_train_step(Channels(), optimizer, handed.frozen(config)))
    labels = jnp.array([0, 2])
    _, measured = train_step(state, {"video": PIXELS, "label": labels})
    wanted = -jax.nn.log_softmax(means(order))[np.arange(2), labels].mean()
    np.testing.assert_allclose(measured["loss"], wanted, rtol=1e-5)


def test_other_orders_are_refused():
    with pytest.raises(JaxvidError, match="channel_order='grb' is unknown: take rgb or bgr"):
        normalizer(make_config("grb").data)


def test_prediction_takes_the_order_from_the_checkpoint_else_from_its_row():
    row = zoo.get_row("pyslowfast_x3d_l_u16_sthv1")
    assert row.channel_order == "bgr"
    config = predictor.make_config({"row": row.name}, None, "folder")
    assert config.data.channel_order == "bgr"
    config = predictor.make_config({"row": row.name, "channel_order": "rgb"}, None, "folder")
    assert config.data.channel_order == "rgb"
