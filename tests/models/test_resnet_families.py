"""TSN, TSM and SlowOnly at their test sizes: shapes, gradients, and what each sees of time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.test_families import forward, network

NAMES = ["tsn_test", "tsm_test", "slowonly_test"]
VIDEO = np.random.default_rng(0).normal(size=(2, 4, 32, 32, 3)).astype(np.float32)


@pytest.mark.parametrize("name", NAMES)
def test_intermediates_have_their_names_and_keep_the_frames(name):
    _, out = forward(name)(VIDEO)
    assert out.keys() == {"stem", "stage1", "stage2", "stage3", "stage4", "pre_logits"}
    assert all(value.shape[:2] == (2, 4) for key, value in out.items() if key != "pre_logits")
    assert out["pre_logits"].shape == (2, out["stage4"].shape[-1])


@pytest.mark.parametrize(
    "name, sees", [("tsn_test", False), ("tsm_test", True), ("slowonly_test", True)]
)
def test_the_order_of_frames_matters_only_to_those_that_see_time(name, sees):
    logits = forward(name)(VIDEO)[0]
    permuted = forward(name)(VIDEO[:, [2, 0, 3, 1]])[0]
    difference = np.abs(logits - permuted).max() / np.std(logits)
    assert difference > 1e-2 if sees else difference < 1e-5


@pytest.mark.parametrize("name", NAMES)
def test_any_number_of_frames_enters(name):
    model, variables = network(name)
    for frames in (1, 7):
        logits, _ = jax.eval_shape(model.apply, variables, VIDEO[:, :1].repeat(frames, 1))
        assert logits.shape == (2, 5)


def test_tsm_shifts_every_second_block_of_deep_trunks_only():
    from jaxvid.layers.resnet import Place
    from jaxvid.models.tsm import shift_hook

    x = jnp.ones((1, 3, 1, 1, 8))
    shifted = {
        every: [
            bool((shift_hook(every, 8)(Place(1, block, 4, "conv1_in"), x, False) != x).any())
            for block in range(4)
        ]
        for every in (1, 2)
    }
    assert shifted == {1: [True] * 4, 2: [True, False, True, False]}
    for point in ("block_in", "conv1_out", "conv2_out", "block_out"):
        assert shift_hook(1, 8)(Place(1, 0, 4, point), x, False) is x
