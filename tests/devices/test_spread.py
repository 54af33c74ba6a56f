"""What devices send each other in a step: parameters and sums, never activations or the batch."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from jaxvid import zoo

ROOT = pathlib.Path(__file__).parents[2]
MIXED, SPLIT, ALIKE = "data:2,fsdp:2,model:2", "fsdp:8", "data:8"


def first_of_each_family():
    """The tiny variant of each family that stands first, and those that pretrain."""
    tiny = {}
    for variant in zoo.variants():
        if variant.endswith("_test"):
            tiny.setdefault(zoo.family(variant).__name__, variant)
    return [*tiny.values(), "hiera_pretrain_test", "videomae_pretrain_test"]


def compiled(axes, variants, topology="cpu:8", *changes):
    """What the steps of variants do on a mesh of a topology's devices, by variant."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    asked = [topology, axes, *changes, *variants]
    words = [sys.executable, "-m", "tests.devices.spread_steps", *asked]
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    answers = map(json.loads, done.stdout.splitlines())
    return {answer["variant"]: answer for answer in answers}


@pytest.fixture(scope="module")
def mixed(request):
    """Steps of the variants that this run asks for: all, or with `-k` those of a family alone."""
    test = test_only_parameters_are_gathered
    asked = [item for item in request.session.items if getattr(item, "obj", None) is test]
    return compiled(MIXED, [item.callspec.params["variant"] for item in asked])


@pytest.mark.parametrize("variant", first_of_each_family())
def test_only_parameters_are_gathered(mixed, variant):
    assert mixed[variant]["faults"] == []
    assert mixed[variant]["collectives"]["all-gather"]["count"] > 0


def test_frozen_trunks_gather_no_activations():
    """Nothing learns their kernels, so that only `from_heads` says how their products are made."""
    frozen = compiled(MIXED, ["videomae_test", "swin_test"], "cpu:8", "freeze=trunk")
    assert {variant: answer["faults"] for variant, answer in frozen.items()} == {
        "videomae_test": [],
        "swin_test": [],
    }


@pytest.mark.slow("devices")
@pytest.mark.parametrize("axes", [SPLIT, "data:4,model:2", "fsdp:4,model:2"])
def test_only_parameters_are_gathered_on_any_mesh(axes):
    answers = compiled(axes, first_of_each_family())
    assert {variant: answer["faults"] for variant, answer in answers.items()} == dict.fromkeys(
        answers, []
    )


def test_a_norm_exchanges_its_sums_once_in_each_direction():
    answers = compiled(ALIKE, ["tsm_test", "x3d_test"])
    for answer in answers.values():
        assert answer["norms"] > 10
        # The rest are gradients and what is measured, which the compiler puts together as it can.
        assert answer["collectives"]["all-reduce"]["count"] <= 2 * answer["norms"] + 4
        assert answer["in_test"] == {}


def test_flash_kernels_are_called_on_every_device():
    """Lowered for chips that are not here: what a step on many of them would call."""
    code = """
import jax, jax.numpy as jnp
from jaxvid.devices import placement
from jaxvid.layers.attention import attend, which
from jaxvid.layers.backend import tracing_for

mesh = placement.make_mesh(axes="data:2,fsdp:2,model:2")
x = jax.ShapeDtypeStruct((8, 256, 4, 64), jnp.bfloat16, sharding=placement.split_batch(mesh))
odd = jax.ShapeDtypeStruct((1, 256, 4, 64), jnp.bfloat16)

def loss(q, k, v):
    with tracing_for("tpu", mesh):
        return attend(q, k, v).astype(jnp.float32).sum()

with tracing_for("tpu", mesh):
    print(which(x, x, x).implementation, which(odd, odd, odd).implementation)
with tracing_for("tpu"):
    print(which(x, x, x).implementation)
lowered = jax.jit(jax.grad(loss, (0, 1, 2))).trace(x, x, x).lower(lowering_platforms=("tpu",))
text = lowered.as_text()
print(text.count("@tpu_custom_call"), "2x256x2x64" in text)
"""
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        "PYTHONPATH": str(ROOT),
    }
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    # One kernel forth and two back, each given the clips and the heads of its own device.
    assert done.stdout.splitlines()[:3] == ["splash xla", "xla", "3 True"]
