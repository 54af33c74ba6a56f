"""Testing needs no more memory than training does, by what the compiler says of both."""

import jax
import numpy as np

from jaxvid import config, zoo
from jaxvid.training import optim, step
from jaxvid.training.state import make_state
from tests import handed


def peak(lowered):
    """Bytes that a compiled function needs beside what it is given."""
    return lowered.compile().memory_analysis().temp_size_in_bytes


def test_a_test_needs_less_memory_than_training():
    c = config.from_row("tsm_test", runlocal=True)
    model = zoo.create_model("tsm_test", 8)
    optimizer = optim.make_optimizer(c.optim, optim.make_schedule(c.optim, 10, 1.0))

    def init():
        clip = np.zeros((1, 8, 64, 64, 3), np.float32)
        return make_state(model.init(jax.random.key(0), clip, train=False), optimizer)

    state = jax.eval_shape(init)
    batch = {
        "video": jax.ShapeDtypeStruct((8, 8, 64, 64, 3), np.uint8),
        "label": jax.ShapeDtypeStruct((8,), np.int32),
    }
    views = jax.ShapeDtypeStruct((8, 10, 8, 64, 64, 3), np.uint8)
    train_step = step.make_train_step(model, optimizer, handed.frozen(c))
    in_training = peak(jax.jit(train_step, donate_argnums=0).lower(state, batch))
    in_test = peak(handed.make_scorer(model, c).lower(state.variables, views))
    assert in_test < in_training
    c.test.views_per_step = 10  # all views at once, which the chunks are there to avoid
    at_once = peak(handed.make_scorer(model, c).lower(state.variables, views))
    print(f"training {in_training}, test {in_test}, all views at once {at_once} bytes")
    assert at_once > 3 * in_test
