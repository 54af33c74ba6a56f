"""What a run takes on chips by name: the command on simulated devices, and what it says."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys

import jax
import pytest

from jaxvid import config
from jaxvid.base.errors import JaxvidError
from jaxvid.devices import costs, placement, topologies
from jaxvid.devices.chips import by_name
from jaxvid.devices.topologies import Topology
from jaxvid.plan import measure, report
from tests import handed

ROOT = pathlib.Path(__file__).parents[2]


def run(*words):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("XLA_FLAGS", None)
    command = [sys.executable, "-m", "jaxvid.plan", *words]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def test_one_object_says_what_a_step_takes():
    done = run(
        "--config=configs/zoo_row.py:name=vit-base-p16_videomae-k400-pre_16x4x1_kinetics-400,runlocal",
        "--topology=cpu:8",
        "--clips=2",
        "--config.train.mesh=data:2,fsdp:2,model:2",
        "--json",
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["fits"] and found["devices"] == 8 and found["hbm_bytes"] is None
    assert found["mesh"] == {"data": 2, "fsdp": 2, "model": 2}
    assert found["argument_bytes"] > found["parameter_bytes"] > 0
    assert found["temporary_bytes"] > 0 and found["flops"] > 0 and found["bytes"] > 0
    assert found["collectives"]["all-reduce"]["count"] > 0
    assert found["attention"] == {"xla": 2} and found["compile_seconds"] > 0
    assert found["test"]["fits"] and found["ways_out"] == []


def test_networks_that_are_tested_together_are_planned_each():
    done = run(
        "--config=configs/zoo_row.py:name=tsn_r50_1x1x8_k400_twostream,runlocal",
        "--topology=cpu:1",
        "--clips=1",
        "--notest",
        "--json",
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["fits"] and len(found["members"]) == 2
    rgb, flow = (member["flops"] for member in found["members"].values())
    assert 1.01 < flow / rgb < 2  # The stem sees ten channels, not three.


@pytest.mark.parametrize(
    "name, message",
    [
        ("v5e", "is none: give a chip and how many, such as v5e:16x16"),
        ("v9:2x2", "no chip is called v9: take v4; v5e; v5p"),
        ("cpu:99", "JAX has 1 CPU devices in this process already: start the command anew"),
    ],
)
def test_a_topology_that_is_none_is_refused(name, message):
    with pytest.raises(JaxvidError) as caught:
        topologies.find(name)
    assert f"--topology={name!r}" in str(caught.value) and message in str(caught.value)


@pytest.mark.parametrize(
    "name, extra", [("v5e:2x4", "'jaxvid[tpu]'"), ("h200:8", "'jaxvid[cuda]'")]
)
def test_what_compiles_for_a_chip_is_named_where_it_is_missing(name, extra, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(JaxvidError, match="which is not installed") as caught:
        topologies.find(name)
    assert extra in str(caught.value)


@pytest.fixture(scope="module")
def found():
    made = config.from_row("tsm_test", runlocal=True)
    made.train.update({"batch_size": 8, "ema_decay": 0.9})
    topology = Topology("v5e:1x1", jax.devices()[:1], "cpu", by_name("v5e"))
    return measure.measure(handed.frozen(made), topology, with_test=False)


def test_the_state_is_counted_part_by_part(found):
    params = sum(leaf.nbytes for leaf in jax.tree.leaves(found.plan.init().variables))
    assert found.params_bytes == params == found.copy_bytes
    assert found.clips == 8 and found.test is None


def test_operations_are_those_of_three_passes(found):
    video = jax.ShapeDtypeStruct((8, *found.plan.batch["video"].shape[1:]), "float32")
    program = jax.make_jaxpr(lambda v, x: found.plan.model.apply(v, x, train=False)[0])(
        found.plan.state.variables, video
    )
    # The first layer has no gradient to hand on, and some ways to compute have steps of their own.
    assert 2.5 < found.flops / costs.count(program).flops < 3.2


def test_what_bounds_a_step_is_said(found):
    lines = report.as_lines(found)
    assert lines[0].startswith("tsm_test on v5e:1x1: 1 devices, 8 clips of 8 x 64 x 64 a device")
    assert any("step fits: " in line and "of 16.00 GiB" in line for line in lines)
    assert any("bound by memory: at most" in line for line in lines)
    assert any("averaged copy" in line for line in lines)
    assert not any("what makes it fit" in line for line in lines)


def test_ways_out_are_said_where_it_does_not_fit(found):
    taken = measure._refused(
        "RESOURCE_EXHAUSTED: Ran out of memory. Used 28.30G of 15.75G hbm. Exceeded by 12.55G.",
        (found.plan.state, found.plan.batch),
        1.0,
    )
    assert not taken.fits and taken.needed_bytes == int(28.3 * 2**30)
    assert taken.temporary_bytes == taken.needed_bytes - taken.argument_bytes
    worse = dataclasses.replace(found, step=taken)
    ways = report.ways_out(worse)
    assert ways[0].startswith("--config.train.remat=True")
    assert any(way.startswith("--config.train.batch_size=4 ") for way in ways)
    lines = report.as_lines(worse)
    assert "step does not fit: 28.30 GiB of 16.00 GiB of a device's memory" in lines
    assert report.as_json(worse)["fits"] is False and report.as_json(worse)["bytes"] is None


def test_parts_of_a_state_are_counted_as_they_lie():
    mesh = placement.make_mesh()
    leaf = jax.ShapeDtypeStruct((4, 6), "float32", sharding=placement.replicated(mesh))
    assert measure.held({"a": leaf, "b": leaf}) == 2 * 96
