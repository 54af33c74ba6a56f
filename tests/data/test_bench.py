"""The measurement of the input pipeline."""

import pathlib
import re
import sys
import time
import types

import numpy as np
import pytest

from jaxvid.base.errors import JaxvidError
from jaxvid.config import fields, loading
from jaxvid.data import bench, build, datasets, shares
from tests.data import clips
from tests.data.test_imports import Factory

ROOT = pathlib.Path(__file__).parents[2]


def slow_batches(count):
    for _ in range(count):
        time.sleep(0.02)
        yield {"video": np.zeros((2, 3, 5, 4, 4, 3), np.uint8)}


def test_rates():
    speed = bench.measure(slow_batches(6), 4)
    assert 0 < speed.clips <= 6 / 0.02
    assert speed.frames == pytest.approx(5 * speed.clips)
    assert speed.megabytes == pytest.approx(speed.frames * 48 / 1e6)
    assert speed.first_batch >= 0.02


def test_one_batch_is_not_enough():
    with pytest.raises(JaxvidError, match="only one batch"):
        bench.measure(slow_batches(1), 4)


def test_missing_config(capsys):
    with pytest.raises(SystemExit, match="1"):
        bench.main(["--config=nowhere.py"])
    error = capsys.readouterr().err
    assert error.startswith(
        "error: --config=nowhere.py is no config file: give one of your own or "
    )
    assert error.count("\n") == 1


@pytest.fixture(scope="module")
def clips_and_records(tmp_path_factory):
    """Three clips in a folder with their list, and records of them."""
    folder = tmp_path_factory.mktemp("clips")
    for number in range(3):
        clips.encode(folder / f"{number}.mp4")
    lines = [f"{number}.mp4,{number % 2}" for number in range(3)]
    (folder / "train.csv").write_text("\n".join(["path,label", *lines]) + "\n")
    (folder / "test.csv").write_text("\n".join(["path,label", *lines]) + "\n")
    for split in ("train", "test"):
        build.build(folder, folder / f"{split}.csv", folder / "records", workers=1)
    return folder


@pytest.mark.parametrize("options", [[], ["--test"]])
@pytest.mark.parametrize("source", ["files", "records", "import"])
def test_every_kind_of_source_is_measured(clips_and_records, source, options, monkeypatch, capsys):
    made = types.ModuleType("some_module")
    shards = sorted(map(str, (clips_and_records / "records").glob("train-*.tfrecord")))
    made.make = lambda split: Factory(shards).configure(num_frames=2)
    monkeypatch.setitem(sys.modules, "some_module", made)
    name, folder = {
        "files": ("files", clips_and_records),
        "records": ("mine", clips_and_records / "records"),
        "import": ("some_module:make", clips_and_records / "imported"),
    }[source]
    argument = f"runlocal,dataset={name},data_dir={folder}"
    config = f"--config={ROOT}/configs/tsm_r50.py:{argument}"
    bench.main([config, "--batches=1", "--batch_size=1", "--workers=1", *options])
    said = capsys.readouterr().out
    assert said.startswith(f"{name} {'test' if options else 'train'}: ") and "clips/s" in said
    first = {"files": ["read,", "crop"]}.get(source, ["read", "checks", "decode"])
    after = ["resize", "mirror,", "batch,", "to"]
    parts = [line.split()[0] for line in said.splitlines() if line.startswith("  ")]
    assert parts == ([] if options else ["plan", *first, *after])


def config_of(folder, dataset):
    argument = f"runlocal,dataset={dataset},data_dir={folder}"
    return f"--config={ROOT}/configs/tsm_r50.py:{argument}"


def test_sources_take_turns_and_the_step_is_what_they_are_beside(clips_and_records, capsys):
    bench.main(
        [
            config_of(clips_and_records / "records", "mine"),
            config_of(clips_and_records, "files"),
            *("--step", "--batches=1", "--batch_size=1", "--workers=1"),
        ]
    )
    said = capsys.readouterr().out
    number = r"\d+\.\d+"
    assert re.search(f"mine train: a clip takes {number} ms of a processor\n", said)
    spread = rf"\({number} to {number}\)"
    beside = (
        f"files train: a clip takes {number} ms of a processor, {number} times that of mine train"
    )
    assert re.search(f"{beside} {spread}\n", said)
    assert re.search(f"the step with its input cached: {number} clips/s on [18] x", said)


def test_the_step_is_of_training(capsys):
    with pytest.raises(SystemExit, match="1"):
        bench.main([f"--config={ROOT}/configs/tsm_r50.py:runlocal", "--test", "--step"])
    assert capsys.readouterr().err == "error: --step is of training: leave --test out\n"


def test_shares_add_up_to_what_a_clip_takes(clips_and_records, monkeypatch):
    config = loading.load(config_of(clips_and_records / "records", "mine").partition("=")[2])
    c = fields.freeze(config)
    split = datasets.open_split(c.data, "train")
    # A clock on which reading takes one second, and nothing else any.
    now = [0]
    frames = split.source.frames

    def slow(number, indices):
        now[0] += 1
        return frames(number, indices)

    monkeypatch.setattr(split.source, "frames", slow)
    monkeypatch.setattr(shares.time, "process_time", lambda: float(now[0]))
    monkeypatch.setattr(shares.pipeline, "train_batches", lambda *_, **__: Made())
    spent = shares.measure(split, c.data, c.train.loss, c.seed)
    assert spent.pop("read") == 1 and set(spent.values()) == {0}


class Made:
    """Batches that are there."""

    def __next__(self):
        return {"video": np.zeros((8, 1), np.uint8)}

    def close(self):
        pass


def test_bars_are_as_long_as_shares():
    lines = shares.lines({"read": 0.001, "decode": 0.003, "to the device": 0.0})
    assert lines == [
        "  read               1.00 ms  25% " + "#" * 13,
        "  decode             3.00 ms  75% " + "#" * 40,
        "  to the device      0.00 ms   0%",
    ]
