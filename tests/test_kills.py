"""Runs that are killed: whatever is cut short, the same command ends with the same bits."""

import json
import os
import pathlib
import signal
import subprocess
import sys

import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from jaxvid import checkpoint
from jaxvid.data import toy

ROOT = pathlib.Path(__file__).parent.parent
FIELDS = {
    "data.crop": 32,
    "data.sampling.num_clips": 4,
    "test.crop": 32,
    "test.short_side": 32,
    "test.sampling.num_clips": 4,
    "test.batch_size": 4,
    "train.batch_size": 8,
    "train.log_steps": 1,
}


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    return os.environ | {
        "PYTHONPATH": str(ROOT),
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path_factory.mktemp("xla")),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """40 toy clips and the lists of those to train on and to test on."""
    folder = tmp_path_factory.mktemp("videos")
    toy.make(folder, toy.Settings(train=4, test=1, height=48, width=48, frames=(8, 10)))
    return folder


def build(videos, records, split):
    words = [f"--videos={videos / 'videos'}", f"--labels={videos / f'{split}.csv'}"]
    return [sys.executable, "-m", "jaxvid.data.build", *words, f"--out={records}", "--workers=1"]


def train(records, workdir, **fields):
    """The command that trains on `records`; with `steps` in an epoch of 4."""
    config = f"--config={ROOT}/configs/tsm_r50.py:runlocal,dataset=mini,data_dir={records}"
    fields = [f"--config.{name}={value}" for name, value in (FIELDS | fields).items()]
    return [sys.executable, "-m", "jaxvid.main", config, f"--workdir={workdir}", *fields]


def run(words, environment):
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout


def start(words, environment):
    return subprocess.Popen(
        words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def checkpoints(workdir):
    return checkpoint.Checkpoints(workdir / "checkpoints")


def assert_same_end(one, other):
    """Both runs keep the same checkpoints of the same bits, and logged each step once."""
    assert checkpoints(one).steps() == checkpoints(other).steps()
    for step in checkpoints(one).steps():
        of_one, of_other = (
            flatten_dict(checkpoint.load(checkpoints(workdir).folder(step)), sep="/")
            for workdir in (one, other)
        )
        assert of_one.keys() == of_other.keys()
        for name in of_one:
            np.testing.assert_array_equal(of_one[name], of_other[name], err_msg=name)
    logs = [
        [json.loads(line) for line in (workdir / "metrics.jsonl").open()]
        for workdir in (one, other)
    ]
    for key in ("step", "loss", "test_top1"):
        assert [line.get(key) for line in logs[0]] == [line.get(key) for line in logs[1]]


def test_a_run_that_is_stopped_and_killed_ends_as_an_undisturbed_one(videos, environment, tmp_path):
    fields = {"train.epochs": 5.0, "train.eval_epochs": 3.0, "train.checkpoint_steps": 4}
    for split in ("train", "test"):
        run(build(videos, tmp_path / "records", split), environment)
    run(train(tmp_path / "records", tmp_path / "undisturbed", **fields), environment)
    words = train(tmp_path / "records", tmp_path / "killed", **fields)

    process = start(words, environment)
    for line in process.stdout:
        if line.startswith("step 2/20 "):
            process.send_signal(signal.SIGTERM)
        if line.startswith("stopped by SIGTERM at step "):
            stopped = int(line.split()[5].rstrip(":"))
    assert "SIGTERM: saving first; once more ends at once" in process.communicate()[1]
    assert process.returncode == 128 + signal.SIGTERM
    assert 2 <= stopped < 20 and checkpoints(tmp_path / "killed").latest_step() == stopped

    process = start(words, environment)
    for line in process.stdout:
        if line.startswith("resumed"):
            assert line.startswith(f"resumed from step {stopped} ")
        if line.startswith("step 11/20 "):
            process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert checkpoints(tmp_path / "killed").latest_step() < 20

    run(words, environment)
    assert_same_end(tmp_path / "undisturbed", tmp_path / "killed")
