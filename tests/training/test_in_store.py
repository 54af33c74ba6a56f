"""Records, lists, workdir and checkpoints in an object store that fails: the bits of a disk."""

import json
import os

import numpy as np
import pytest

from jaxvid import checkpoint
from jaxvid.base import arrays, paths, stores
from jaxvid.base.errors import JaxvidError
from jaxvid.data import build, datasets, records, toy
from jaxvid.export import export
from jaxvid.inference import evaluate
from jaxvid.training import loop
from tests import handed, store
from tests.training.test_loop import assert_same, make_config

pytest.importorskip("s3fs", reason="object stores need s3fs: pip install 'jaxvid[stores]'")


@pytest.fixture(scope="module", autouse=True)
def address(tmp_path_factory):
    """A store in which of a hundred requests two fail or stall."""
    with (
        store.running(errors=0.015, stalls=0.005, seed=2) as found,
        pytest.MonkeyPatch.context() as m,
    ):
        for name, value in store.environment(found).items():
            m.setenv(name, value)
        m.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        m.setattr(stores, "_STALL", 1.0)
        stores._client_of.cache_clear()
        yield found
        stores._client_of.cache_clear()


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """The same records on the disk and in the store, each built there."""
    folder = tmp_path_factory.mktemp("videos")
    toy.make(folder, toy.Settings(train=4, test=1, height=48, width=48, frames=(8, 10)))
    there = paths.anywhere("s3://bucket/records", "--out")
    for split in ("train", "test"):
        given = there.parent / "lists" / f"{split}.csv"
        given.write_bytes((folder / f"{split}.csv").read_bytes())
        build.build(folder / "videos", folder / f"{split}.csv", folder / "records", workers=1)
        build.build(folder / "videos", given, there, workers=1)
    return folder / "records", there


def test_a_build_in_a_store_is_the_build_on_a_disk(places):
    here, there = places
    assert {path.name: path.read_bytes() for path in here.iterdir()} == {
        path.name: path.read_bytes() for path in there.iterdir()
    }


def test_batches_are_those_of_the_disk(places):
    def batches(folder):
        c = make_config(folder)
        split = datasets.open_split(c.data, "train")
        made = handed.train_batches(split, c)
        return [next(made) for _ in range(6)]

    for one, other in zip(*map(batches, places), strict=True):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


def test_what_is_damaged_there_is_bad_and_a_store_that_is_away_is_not(
    places, monkeypatch, tmp_path
):
    _, there = places
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    opened = records.Records(there, "train")
    monkeypatch.setattr(stores, "_TRIES", 1)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    stores._client_of.cache_clear()
    with pytest.raises(stores.Unreachable, match="cannot be read .*see to the store"):
        opened.frames(0, [0])
    c = make_config(there)
    c.data.max_bad_records = 20
    split = datasets.Split(opened, tuple("abcdefgh"))
    made = handed.train_batches(split, c)
    with pytest.raises(JaxvidError, match="see to the store"):
        next(made)
    stores._client_of.cache_clear()


def lines(workdir):
    """What a run measured, but for how long it took."""
    text = (workdir / "metrics.jsonl").read_text(encoding="utf-8")
    timed = ("clips_per_second", "input_wait")
    return [
        {name: value for name, value in json.loads(line).items() if name not in timed}
        for line in text.splitlines()
    ]


def test_a_run_in_a_store_that_was_killed_ends_as_one_on_a_disk(places, tmp_path, monkeypatch):
    here, there = places
    workdir = there.parent / "run"
    loop.train(make_config(here), tmp_path)

    class Killed(Exception):
        pass

    def until(step):
        take = loop.Run.take_step

        def take_step(run):
            take(run)
            if run.step == step:
                raise Killed

        return take_step

    with monkeypatch.context() as m, pytest.raises(Killed):
        m.setattr(loop.Run, "take_step", until(14))
        loop.train(make_config(there), workdir)
    loop.train(make_config(there), str(workdir))
    assert_same(tmp_path, workdir)
    assert lines(tmp_path) == lines(workdir)
    for step in checkpoint.Checkpoints(tmp_path / "checkpoints").steps():
        name = f"checkpoints/step_{step:08d}"
        assert_same(tmp_path / name, workdir / name)

    def names(folder):
        return {path.name for path in folder.iterdir() if "tfevents" not in path.name}

    for folder in ("", "eval", "checkpoints"):
        assert names(tmp_path / folder) == names(workdir / folder)
    one, other = (arrays.read_npz(f / "eval" / "scores.npz", 1 << 20) for f in (tmp_path, workdir))
    np.testing.assert_array_equal(one["scores"], other["scores"])
    c = make_config(there)
    c.init = str(workdir)
    assert evaluate.evaluate(c, there.parent / "test").figures
    counts = store.counts(os.environ["AWS_ENDPOINT_URL"])
    assert counts["error"] and counts["stall"]
    card = export(workdir, there.parent / "exported", platforms=("cpu",))
    assert json.loads((there.parent / "exported" / "model.json").read_text()) == card
    assert (there.parent / "exported" / "model.jax").stat().st_size > 1000
    with pytest.raises(JaxvidError, match="exists: choose a new folder"):
        export(workdir, there.parent / "exported", platforms=("cpu",))


def test_a_checkpoint_in_a_store_is_replaced_at_once_and_its_damage_is_seen(places):
    folder = places[1].parent / "weights"
    variables = {"params": {"a": np.arange(6.0).reshape(2, 3), "none": np.zeros((0, 2))}}
    checkpoint.save(folder, variables, {"row": "x"})
    with pytest.raises(JaxvidError, match="already holds a checkpoint"):
        checkpoint.save(folder, variables, {})
    variables["params"]["a"] += 1
    checkpoint.save(folder, variables, {"row": "y"}, overwrite=True)
    assert checkpoint.load_meta(folder)["row"] == "y"
    np.testing.assert_array_equal(checkpoint.load(folder)["params"]["a"], variables["params"]["a"])
    assert {path.name for path in folder.iterdir()} == {"jaxvid.json", "arrays-1"}
    (folder / "arrays-1" / "state" / "manifest.ocdbt").unlink()
    with pytest.raises(JaxvidError, match=f"the arrays of {folder} cannot be read"):
        checkpoint.load(folder)
