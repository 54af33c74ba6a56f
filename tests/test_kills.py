"""Runs that are stopped, killed or out of room: the same command ends with the same bits."""

import json
import os
import pathlib
import random
import resource
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from jaxvid import checkpoint, config
from jaxvid.base.errors import JaxvidError
from jaxvid.data import build as building
from jaxvid.data import toy
from jaxvid.inference import scoring
from jaxvid.training import loop as training

# Some runs are processes of their own, and all must come to the same bits.
pytestmark = pytest.mark.users_compiler
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
    "train.epochs": 5.0,  # of 4 steps
    "train.eval_epochs": 3.0,
    "train.checkpoint_steps": 4,
}


@pytest.fixture(scope="module")
def environment():
    """That of a process that shares the compilations of this one."""
    return os.environ | {
        "PYTHONPATH": str(ROOT),
        "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.5",
    }


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """40 toy clips and the lists of those to train on and to test on."""
    folder = tmp_path_factory.mktemp("videos")
    toy.make(folder, toy.Settings(train=4, test=1, height=48, width=48, frames=(8, 10)))
    return folder


@pytest.fixture(scope="module")
def records(videos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("records")
    for split in ("train", "test"):
        building.build(videos / "videos", videos / f"{split}.csv", folder, workers=1)
    return folder


def make_config(records):
    c = config.from_row("tsm_r50_8f", dataset="mini", data_dir=str(records), runlocal=True)
    c.update_from_flattened_dict(FIELDS)
    return c


@pytest.fixture(scope="module")
def undisturbed(records, tmp_path_factory):
    """A run of 20 steps."""
    workdir = tmp_path_factory.mktemp("undisturbed")
    training.train(make_config(records), workdir)
    return workdir


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


def wait_for(condition, process):
    """Returns at once when it holds, or when the process has ended."""
    while not condition() and process.poll() is None:
        time.sleep(0.0005)


def is_whole(folder):
    return (folder / checkpoint.RECORD).exists()


def checkpoints(workdir):
    return checkpoint.Checkpoints(workdir / "checkpoints")


def assert_same_end(one, other):
    """Both runs keep the same checkpoints of the same bits, and logged each step once."""
    assert checkpoints(one).steps() == checkpoints(other).steps()
    assert checkpoints(one).best_step() == checkpoints(other).best_step()
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


def test_a_run_that_is_stopped_and_killed_ends_as_an_undisturbed_one(
    records, undisturbed, environment, tmp_path
):
    words = train(records, tmp_path)
    process = start(words, environment)
    for line in process.stdout:
        if line.startswith("step 2/20 "):
            process.send_signal(signal.SIGTERM)
        if line.startswith("stopped by SIGTERM at step "):
            stopped = int(line.split()[5].rstrip(":"))
    assert "SIGTERM: saving first; once more ends at once" in process.communicate()[1]
    assert process.returncode == 128 + signal.SIGTERM
    assert 2 <= stopped < 20 and checkpoints(tmp_path).latest_step() == stopped

    process = start(words, environment)
    for line in process.stdout:
        if line.startswith("resumed"):
            assert line.startswith(f"resumed from step {stopped} ")
        if line.startswith(f"step {max(11, stopped + 1)}/20 "):
            process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL

    training.train(make_config(records), tmp_path)
    assert_same_end(undisturbed, tmp_path)


def test_a_full_disk_stops_a_run_that_then_goes_on(records, undisturbed, tmp_path, monkeypatch):
    """A limit on the size of files stands for the disk: the system refuses in the same way."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    save = checkpoint.Checkpoints.save

    def save_until_full(self, step, *arguments):
        if step == 12:
            self.wait()  # for the one before, which a thread may still be writing
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
        save(self, step, *arguments)

    try:
        with monkeypatch.context() as patch:
            patch.setattr(checkpoint.Checkpoints, "save", save_until_full)
            with pytest.raises(JaxvidError) as caught:
                training.train(make_config(records), tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert str(caught.value) == (
        f"cannot write the checkpoint {tmp_path}/checkpoints/step_00000012 (File too large): make "
        "room or choose another folder; what was saved before is untouched"
    )
    assert checkpoints(tmp_path).steps() == [8]
    training.train(make_config(records), tmp_path)
    assert_same_end(undisturbed, tmp_path)


def test_a_run_that_ended_before_a_test_makes_up_for_it(
    records, undisturbed, tmp_path, monkeypatch
):
    class Killed(BaseException):
        pass

    def die(*_):
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(scoring, "score_batches", die)
        training.train(make_config(records), tmp_path)
    assert checkpoints(tmp_path).latest_step() == 12
    assert checkpoints(tmp_path).metric(12) is None
    training.train(make_config(records), tmp_path)
    assert_same_end(undisturbed, tmp_path)


@pytest.mark.slow("kills")
def test_twenty_kills_at_random_moments_change_nothing(videos, environment, tmp_path):
    """Six while records are built, fourteen while a network trains on them and is saved."""
    rng = random.Random(20)
    fields = {"train.epochs": 60.0, "train.eval_epochs": 10.0, "train.checkpoint_steps": 3}
    for split in ("train", "test"):
        run([*build(videos, tmp_path / "whole", split), "--shards=8"], environment)
    run(train(tmp_path / "whole", tmp_path / "undisturbed", **fields), environment)

    kills = []

    def kill(process, number):
        process.send_signal(number)
        said, errors = process.communicate(timeout=300)
        ended = [128 + number, -number] if number == signal.SIGTERM else [-number]
        assert process.returncode in ended, said + errors
        return process.returncode

    for split in ("train", "test"):
        words = [*build(videos, tmp_path / "cut", split), "--shards=8"]
        place = tmp_path / "cut" / f".build-{split}"
        signals = rng.sample([signal.SIGKILL, signal.SIGTERM, signal.SIGKILL], 3)
        for number, whole in zip(signals, sorted(rng.sample(range(6), 3)), strict=True):
            process = start(words, environment)
            begun = f"*.{process.pid}.part"
            wait_for(lambda p=place, g=begun: list(p.glob(g)), process)
            wait_for(lambda p=place, n=whole: len(list(p.glob("*.json"))) >= n, process)
            time.sleep(rng.uniform(0, 0.02))
            kills.append(("build", split, number.name, kill(process, number)))
        assert "going on with a build" in run(words, environment)
        for path in (tmp_path / "whole").glob(f"{split}*"):
            assert path.read_bytes() == (tmp_path / "cut" / path.name).read_bytes(), path.name

    workdir = tmp_path / "killed"
    words = train(tmp_path / "cut", workdir, **fields)
    for life in range(14):
        number = signal.SIGKILL if life % 2 else signal.SIGTERM
        process = start(words, environment)
        if life % 7 == 6:  # before the first step, perhaps before anything
            time.sleep(rng.uniform(0, 3))
        else:
            steps = rng.randrange(1, 9)
            while steps:
                line = process.stdout.readline()
                assert line, process.communicate()[1]
                steps -= line.startswith("step ")
            time.sleep(rng.uniform(0, 0.1))
            if life % 3 == 0:  # in the middle of a save
                wait_for(lambda: not all(map(is_whole, workdir.glob("checkpoints/*"))), process)
        code = kill(process, number)
        kills.append(("train", number.name, code, checkpoints(workdir).latest_step()))
    print("", *kills, sep="\n")
    assert len(kills) == 20 and 0 < checkpoints(workdir).latest_step() < 240
    run(words, environment)
    assert_same_end(tmp_path / "undisturbed", workdir)
