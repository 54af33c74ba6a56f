"""Networks that carry a state: what they answer frame by frame is what they answer for the clip."""

import jax
import numpy as np
import pytest

from jaxvid import zoo
from jaxvid.base.errors import JaxvidError
from jaxvid.layers import streaming
from tests.models.test_families import NAMES, forward, network, video

CAUSAL = [name for name in NAMES if streaming.can_stream(zoo.create_model(name))]


def test_who_can_stream():
    assert CAUSAL == ["movinet_stream_test", "tsm_online_test"]


@pytest.mark.parametrize("name", CAUSAL)
@pytest.mark.parametrize("sizes", [(1, 1, 1, 1), (1, 3), (2, 1, 1)])
def test_a_clip_in_parts_is_the_clip_so_far(name, sizes):
    model, variables = network(name)
    clip = video(name)
    state = streaming.begin(model, variables, clip)
    assert all(leaf.shape[0] == 2 and not leaf.any() for leaf in jax.tree.leaves(state))
    step = jax.jit(lambda state, frames: streaming.step(model, variables, state, frames))
    seen, answers = 0, []
    for size in sizes:
        (logits, out), state = step(state, clip[:, seen : seen + size])
        seen += size
        wanted, intermediates = forward(name)(clip[:, :seen])
        np.testing.assert_allclose(logits, wanted, rtol=0, atol=1e-5)
        np.testing.assert_allclose(out["pre_logits"], intermediates["pre_logits"], atol=1e-5)
        answers.append(logits)
    assert np.abs(answers[-1] - answers[0]).max() > 1e-3


@pytest.mark.parametrize("name", CAUSAL)
def test_streams_of_a_batch_do_not_mix_and_begin_anew_alone(name):
    model, variables = network(name)
    clip = video(name)
    step = jax.jit(lambda state, frames: streaming.step(model, variables, state, frames))
    (first, _), state = step(streaming.begin(model, variables, clip), clip[:, :1])
    state = jax.tree.map(lambda leaf: leaf.at[1].set(0), state)
    (logits, _), _ = step(state, np.stack([clip[0, 1:2], clip[1, :1]]))
    np.testing.assert_allclose(logits[1], first[1], rtol=0, atol=1e-5)
    wanted = forward(name)(clip[:1, :2])[0]
    np.testing.assert_allclose(logits[0], wanted[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", CAUSAL)
def test_the_future_changes_no_frame(name):
    before = forward(name)(video(name))[1]["stage1"]
    changed = video(name).copy()
    changed[:, 2:] += 1
    after = forward(name)(changed)[1]["stage1"]
    np.testing.assert_array_equal(before[:, :2], after[:, :2])
    assert np.abs(before[:, 2:] - after[:, 2:]).max() > 1e-3


def test_variables_hold_no_state():
    model = zoo.create_model("movinet_stream_test", 5)
    made = jax.eval_shape(model.init, jax.random.key(0), video("movinet_stream_test"))
    assert set(made) == {"params", "batch_stats"}


def test_what_sees_the_future_carries_no_state():
    model, variables = network("tsm_test")
    with pytest.raises(JaxvidError, match="TSM sees frames that are still to come"):
        streaming.begin(model, variables, video("tsm_test"))
    for fields in ({"shift_frames": 8}, {"non_local": "gaussian"}):
        with pytest.raises(JaxvidError, match="shifts from the past alone"):
            model.clone(causal=True, **fields).init(jax.random.key(0), video("tsm_test"))
