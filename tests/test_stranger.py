"""A stranger's checkpoint: what it says of itself is held to a config's rules, in a sentence."""

import copy
import json
import os

import jax
import numpy as np
import pytest
from flax import traverse_util

from converters import checkpoints, networks
from jaxvid import checkpoint, export, zoo
from jaxvid.base.errors import JaxvidError
from jaxvid.inference.predictor import Predictor

CLASSES = ["left", "right", "up"]


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    """A sound checkpoint's folder and record."""
    folder = tmp_path_factory.mktemp("checkpoint")
    row = zoo.starting_row("tsm_test")
    leaves = networks.leaves_of("tsm_test", row, 3, {})
    rng = np.random.default_rng(0)
    variables = traverse_util.unflatten_dict(
        {path: np.abs(rng.normal(size=x.shape)).astype(x.dtype) for path, x in leaves.items()},
        sep="/",
    )
    meta = {
        "row": "tsm_test",
        "num_classes": 3,
        "classes": CLASSES,
        "mean": [100.0, 110.0, 120.0],
        "std": [50.0, 50.0, 50.0],
        "channel_order": "rgb",
        "overrides": {},
        "test": {"sampling": {"num_clips": 8}, "crop": 32, "short_side": 32},
        "cast": {},
        "prefix": "",
        "respelt": {},
        "dropped": {},
    }
    checkpoint.save(folder, variables, meta)
    return folder, json.loads((folder / checkpoint.RECORD).read_text())


def written(record, **changes):
    """Puts changed meta in place; a name with dots is a field of a field."""
    folder, changed = record[0], copy.deepcopy(record[1])
    for name, value in changes.items():
        *groups, last = name.split(".")
        inside = changed["meta"]
        for group in groups:
            inside = inside[group]
        inside[last] = value
    (folder / checkpoint.RECORD).write_text(json.dumps(changed))
    return folder


def refused(call, match):
    with pytest.raises(JaxvidError, match=match) as error:
        call()
    assert "\n" not in str(error.value) and len(str(error.value)) < 1000


@pytest.mark.parametrize(
    "field, value, match",
    [
        ("test.sampling.num_clips", 10**9, "num_clips=1000000000 must be at most"),
        ("test.sampling.num_clips", -1, "num_clips=-1 must be at least 1"),
        ("test.sampling.num_clips", 0, "num_clips=0 must be at least 1"),
        ("test.sampling.clip_len", 10**9, "clip_len=1000000000 must be at most"),
        ("test.sampling.nope", 1, "nope is unknown"),
        ("test.sampling.frame_interval", -3, "frame_interval=-3 must be at least 1"),
        ("test.sampling.frame_interval", 0, "frame_interval=0 must be at least 1"),
        ("test.sampling.target_fps", -1, "target_fps=-1 must be above 0"),
        ("test.sampling", [1], "test.sampling"),
        ("test.crop", 100_000, "crop=100000 must be at most"),
        ("test.crop", 10_000, "GiB: lower"),
        ("test.short_side", "x", "short_side='x' must be a whole number"),
        ("test.views_per_step", -1, "views_per_step=-1 must be at least 1"),
        ("test.weights", "nope", "weights='nope' must be"),
        ("test.nope", 1, "nope is unknown"),
        ("test", [1], "test = .* must be an object"),
        ("num_classes", 10**12, "num_classes = .* must be a whole number in"),
        ("num_classes", "3", "num_classes = .* must be a whole number in"),
        ("classes", [1, 2, 3], "classes = .* must be a list"),
        ("classes", "abc", "classes = .* must be a list"),
        ("classes", {"a": 1}, "classes = .* must be a list"),
        ("classes", ["\ud800x", "b", "c"], "what is not UTF-8"),
        ("classes", ["\x1b]0;PWN\x07left", "b", "c"], "cannot be seen"),
        ("classes", ["a\nb", "b", "c"], "a line break"),
        ("loss", [1], "loss = .* must be a name"),
        ("loss", "nope", "loss='nope' must be"),
        ("mean", "abc", "mean = .* must be numbers"),
        ("mean", [1.0], "mean has 1 numbers"),
        ("std", [1.0, 0.0, 1.0], "std = .* must be numbers above 0"),
        ("short_side", "x", "short_side = .* must be a whole number"),
        ("short_side", 10**9, "short_side = .* must be a whole number"),
        ("overrides", [1], "overrides = .* must be an object"),
        ("overrides", {"width": "x"}, "width"),
        ("overrides", {"width": -1}, "width"),
        ("overrides", {"width": 10**9}, "width"),
        ("overrides", {"blocks": [10**9]}, "blocks"),
        ("overrides", {"nope": 1}, "nope"),
        ("overrides", {"dtype": None}, "dtype"),
        ("overrides", {"num_classes": None}, "num_classes"),
        ("new", ["a"], "holds a trunk without a classifier"),
        ("row", 3, "row = .* must be a name"),
        ("row", "nope", "nope"),
        ("channel_order", "xyz", "channel_order='xyz' must be"),
    ],
)
def test_a_field_that_no_config_may_have_is_refused(record, tmp_path, field, value, match):
    folder = written(record, **{field: value})
    refused(lambda: Predictor(folder), match)
    refused(lambda: export.export(folder, tmp_path / "out"), match)
    assert not (tmp_path / "out").exists()


def test_what_a_trunk_lacks_may_be_said_of_the_network_only(record):
    # As nothing is missing, what it calls new is of no network, and nobody needs it.
    with pytest.raises(JaxvidError, match="holds a trunk without a classifier"):
        Predictor(written(record, new=["params/head/nowhere"])).require_classifier()


BOMB = {"dtype": "uint8", "shape": [1 << 32], "zlib": "eJztwQEBAAAAgiD/r25IQAEAAAAA"}


@pytest.mark.parametrize(
    "field, value",
    [
        ("dropped", {"a": BOMB}),
        ("dropped", {"a": BOMB | {"shape": [0] * 40}}),
        ("dropped", {"a": BOMB | {"shape": [-1]}}),
        ("dropped", {"a": BOMB | {"dtype": "object"}}),
        ("dropped", {"a": 10**19}),
        ("dropped", [1]),
        ("cast", {"fc.weight": "nosuch"}),
        ("cast", [1]),
        ("respelt", [1]),
        ("respelt", {"a": 5}),
        ("prefix", 5),
        ("classes", [10**18]),
    ],
)
def test_the_way_back_unpacks_no_more_than_conversion_packs(record, field, value):
    folder = written(record, **{field: value})
    refused(
        lambda: checkpoints.to_torch(
            "tsm_test", checkpoint.load(folder), checkpoint.load_meta(folder)
        ),
        "jaxvid.json|classes",
    )


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"format": 1, "arrays": "arrays-0", "leaves": {}, "meta": {"a": ' + "9" * 5000 + "}}",
        '{"format": 1, "arrays": "arrays-0", "leaves": {"a": "x[1]", "a/b": "x[1]"}, "meta": {}}',
        '{"format": 1, "arrays": "arrays-' + "9" * 5000 + '", "leaves": {}, "meta": {}}',
        '{"format": 1, "arrays": "arrays-0", "leaves": {}, "meta": {}, "metric": "x"}',
        '{"format": 1, "arrays": "arrays-0", "leaves": {}, "meta": {"a": NaN}}',
        "[]",
        "3",
    ],
)
def test_a_record_out_of_bounds_is_damaged(tmp_path, text):
    (tmp_path / checkpoint.RECORD).write_text(text)
    refused(lambda: checkpoint.load(tmp_path), "is damaged")


def test_a_record_that_is_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / checkpoint.RECORD)
    refused(lambda: checkpoint.load(tmp_path), "no regular file")


def test_weights_that_are_no_numbers_are_refused_by_name(record, tmp_path):
    variables, meta = checkpoint.load(written(record)), checkpoint.load_meta(record[0])
    leaves, structure = jax.tree.flatten(variables)
    name = jax.tree_util.tree_flatten_with_path(variables)[0][0][0][-1].key
    leaves[0] = np.full_like(leaves[0], np.inf)
    checkpoint.save(tmp_path / "bad", jax.tree.unflatten(structure, leaves), meta)
    checkpoint.load(tmp_path / "bad")  # As it is, bit for bit.
    for call in (
        lambda: Predictor(tmp_path / "bad"),
        lambda: export.export(tmp_path / "bad", tmp_path / "out"),
        lambda: checkpoint.load_finite(tmp_path / "bad"),
        lambda: checkpoints.to_torch("tsm_test", checkpoint.load(tmp_path / "bad"), meta),
    ):
        refused(call, "no finite float32")
    with pytest.raises(JaxvidError, match=name):
        checkpoint.load_finite(tmp_path / "bad")


def test_an_answer_that_is_no_number_is_refused(record):
    predictor = Predictor(written(record))
    predictor._score = lambda variables, video: np.array([[np.nan, 0.5, 0.5]])
    refused(lambda: predictor.predict(np.zeros((8, 64, 64, 3), np.uint8)), "is not finite .1 of 3")
