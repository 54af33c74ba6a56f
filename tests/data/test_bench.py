"""The measurement of the input pipeline."""

import pathlib
import sys
import time
import types

import numpy as np
import pytest

from jaxvid.base.errors import JaxvidError
from jaxvid.data import bench, build
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
