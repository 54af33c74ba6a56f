"""A run as a value: what is planned is what is run, and planning touches nothing."""

import dataclasses

import jax
import numpy as np
import pytest

from jaxvid import config as configs
from jaxvid.base.errors import JaxvidError
from jaxvid.config import fields, parts
from jaxvid.data import datasets
from jaxvid.devices import placement
from jaxvid.training import plan as plans
from tests import handed

CLASSES = ["left", "right", "up"]


def make_config(name="tsm_test", **train):
    config = configs.from_row(name, runlocal=True)
    config.data.crop = 32
    config.train.update({"batch_size": 2} | train)
    return fields.freeze(config)


@pytest.fixture(scope="module")
def planned():
    return plans.plan(make_config(), placement.make_mesh(), CLASSES, videos=10)


def described(tree):
    return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype.name), tree)


def test_nothing_is_on_a_device_before_the_run(planned):
    leaves = jax.tree.leaves((planned.state, planned.batch))
    assert leaves and all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in leaves)
    assert all(leaf.sharding is not None for leaf in leaves)


def test_planning_fills_no_memory_and_opens_nothing(monkeypatch):
    def never(*_, **__):
        raise AssertionError("a plan reads no videos")

    monkeypatch.setattr(datasets, "open_split", never)
    before = sum(array.nbytes for array in jax.live_arrays())
    plan = plans.plan(make_config(ema_decay=0.9), placement.make_mesh(), CLASSES)
    after = sum(array.nbytes for array in jax.live_arrays())
    planned = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(plan.state))
    assert after - before < 1000 < planned / 100  # A schedule's numbers are all there is.


def test_the_state_is_the_one_that_was_planned(planned):
    state = planned.init()
    assert described(state) == described(planned.state)
    places = jax.tree.map(
        lambda leaf, planned: leaf.sharding == planned.sharding, state, planned.state
    )
    assert all(jax.tree.leaves(places))


def test_the_program_takes_what_the_pipeline_gives(planned, tmp_path):
    program = planned.step.lower(planned.state, planned.batch).compile()
    config = planned.config
    rng = np.random.default_rng(0)
    batch = {
        "video": rng.integers(0, 256, (2, 8, 32, 32, 3), np.uint8),
        "label": np.array([0, 2], np.int32),
        "index": np.array([4, 5], np.int64),
    }
    batch = placement.put_batch(batch, planned.mesh)
    assert described(batch) == described(planned.batch)
    state, measured = program(planned.init(), batch)
    assert int(state.step) == 1 and np.isfinite(measured["loss"])
    assert described(state) == described(planned.state)
    assert config.train.batch_size == 2


def test_batches_of_the_pipeline_are_those_of_the_plan(tmp_path):
    config = configs.from_row("tsm_test", data_dir=str(tmp_path), runlocal=True)
    config.train.batch_size = 4
    for loss in ("softmax", "sigmoid"):
        config.train.loss = loss
        frozen = fields.freeze(config)
        split = datasets.open_split(frozen.data, "test")
        plan = plans.plan(frozen, placement.make_mesh(), split.classes)
        batches = handed.train_batches(split, frozen)
        batch = placement.put_batch(next(batches), plan.mesh)
        batches.close()
        assert described(batch) == described(plan.batch)


def test_the_length_follows_from_the_videos():
    config = make_config(epochs=3.0)
    assert plans.length_of(config, 10)[:2] == (5, 15)
    assert plans.plan(config, placement.make_mesh(), CLASSES).length[:2] == (1, 3)


@pytest.mark.parametrize(
    "changes, words",
    [
        (
            {"batch_size": 6, "accumulate_steps": 4},
            "must divide by config.train.accumulate_steps=4",
        ),
        ({"remat": True}, "numbered blocks, of which this network has none"),
    ],
)
def test_what_cannot_be_run_is_not_planned(changes, words):
    with pytest.raises(JaxvidError, match=words):
        plans.plan(make_config("c3d_test", **changes), placement.make_mesh(), CLASSES)


# ---- the config as it is handed on


@pytest.mark.parametrize("name", ["tsm_test", "mvitv2_s", "videomae_pretrain_vit_b"])
def test_every_field_is_handed_on_and_comes_back(name):
    config = configs.from_row(name)
    frozen = fields.freeze(config)
    assert parts.from_dict(frozen.to_dict()) == frozen
    assert set(fields.flat(frozen.to_dict())) == set(fields.flat(config))
    assert fields.flat(frozen.to_dict()) == {
        name: parts._frozen(value) for name, value in fields.flat(config.to_dict()).items()
    }
    assert fields.freeze(frozen) is frozen


def test_what_is_handed_on_cannot_be_changed():
    frozen = make_config()
    for part, field in ((frozen, "seed"), (frozen.train, "batch_size"), (frozen.data, "crop")):
        with pytest.raises(AttributeError):
            setattr(part, field, 1)


def test_a_config_is_checked_before_it_is_handed_on():
    config = configs.from_row("tsm_test")
    config.train.batch_size = 0
    with pytest.raises(JaxvidError, match="config.train.batch_size=0 must be at least 1"):
        fields.freeze(config)


@pytest.mark.parametrize("precision, said", [("", False), ("float32", True)])
def test_products_are_as_precise_as_the_config_says(precision, said):
    made = make_config("c3d_test")
    made = dataclasses.replace(
        made, model=dataclasses.replace(made.model, matmul_precision=precision)
    )
    plan = plans.plan(made, placement.make_mesh(), CLASSES)
    program = str(plan.step.trace(plan.state, plan.batch).jaxpr)
    assert ("HIGHEST" in program) == said
