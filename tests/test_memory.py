"""Testing needs no more memory than training does, by what the compiler says of both."""

import jax
import numpy as np

from jaxvid import config
from jaxvid.devices import placement
from jaxvid.training import plan as plans
from tests import handed


def peak(lowered):
    """Bytes that a compiled function needs beside what it is given."""
    return lowered.compile().memory_analysis().temp_size_in_bytes


def test_a_test_needs_less_memory_than_training():
    c = config.from_row("tsm_test", runlocal=True)
    c.train.batch_size = 8
    mesh = placement.make_mesh(jax.devices()[:1])
    plan = plans.plan(handed.frozen(c), mesh, [str(number) for number in range(8)])
    views = jax.ShapeDtypeStruct((8, 10, 8, 64, 64, 3), np.uint8)
    in_training = peak(plan.step.lower(plan.state, plan.batch))
    in_test = peak(handed.make_scorer(plan.model, c).lower(plan.state.variables, views))
    assert in_test < in_training
    c.test.views_per_step = 10  # all views at once, which the chunks are there to avoid
    at_once = peak(handed.make_scorer(plan.model, c).lower(plan.state.variables, views))
    print(f"training {in_training}, test {in_test}, all views at once {at_once} bytes")
    assert at_once > 3 * in_test
