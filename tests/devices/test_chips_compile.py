"""Steps compiled for TPUs that are not here, by libtpu: what they send each other, and memory."""

import importlib.util
import json

import pytest

from tests import accelerators
from tests.devices.test_spread import compiled, first_of_each_family

pytestmark = [
    pytest.mark.slow("chips"),
    pytest.mark.skipif(
        importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed: the extra tpu"
    ),
]
CHIPS = "v5e:2x4"
KEPT = ["tsm_r50_1x1x8_k400", "x3d_m_16x5_k400", "videomae_vit_b_16x4_k400", "swin_t_32x2_k400"]


@pytest.mark.parametrize("variant", first_of_each_family())
def test_only_parameters_are_gathered(variant):
    answer = compiled("data:2,fsdp:4", [variant], CHIPS)[variant]
    assert answer["faults"] == []
    assert answer["collectives"]["all-gather"]["count"] > 0


@pytest.mark.parametrize("variant", ["tsm_test", "videomae_test"])
def test_gradients_are_added_up_in_float32_where_asked(variant):
    narrow, wide = (
        compiled("data:8", [variant], CHIPS, *changes)[variant]["summed"]
        for changes in ([], ["reduce_dtype=float32"])
    )
    assert narrow["bf16"] > 1000
    # What is left are biases that stand beside no kernel.
    assert wide.get("bf16", 0) < 100 < 1000 < wide["f32"]


@pytest.mark.parametrize("row", KEPT)
def test_a_step_takes_the_memory_that_the_page_says(row):
    asked = next(asked for asked in accelerators.FAMILIES if asked.row == row)
    before = json.loads(accelerators.KEPT.read_text("utf-8"))[asked.key]
    now = accelerators.ask(asked)
    assert now["fits"] and now["test"]["needed_bytes"] < now["hbm_bytes"]
    assert now["needed_bytes"] < 1.05 * before["needed_bytes"]
    assert now["bytes"] < 1.05 * before["bytes"]
