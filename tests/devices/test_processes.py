"""Several processes: what their environment says, and that they train as one does."""

import contextlib
import json
import os
import pathlib
import secrets
import signal
import subprocess
import sys

import numpy as np
import pytest

from jaxvid import checkpoint
from jaxvid.base import arrays, locks, paths, stores
from jaxvid.base.errors import JaxvidError, Stopped
from jaxvid.data import build, toy
from jaxvid.devices import processes
from tests import store

ROOT = pathlib.Path(__file__).parents[2]

TWO = {
    "JAXVID_COORDINATOR": "127.0.0.1:2345",
    "JAXVID_PROCESSES": "2",
    "JAXVID_PROCESS": "1",
}
SLURM = {"SLURM_STEP_NODELIST": "node[1-2]", "SLURM_NTASKS": "2"}


@pytest.fixture
def joined(monkeypatch):
    """The arguments of every call of `jax.distributed.initialize`."""
    calls = []
    monkeypatch.setattr("jax.distributed.initialize", lambda **given: calls.append(given))
    monkeypatch.setattr("jax.config.update", lambda *_: None)
    return calls


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"JAXVID_DISTRIBUTED": "off"} | TWO,
        {"JAXVID_DISTRIBUTED": "off"} | SLURM,
        {"JAXVID_COORDINATOR": ""},
        {"SLURM_STEP_NODELIST": "node1", "SLURM_NTASKS": "1"},
        {"SLURM_NTASKS": "2"},  # a batch script, outside of srun
        {"TPU_WORKER_HOSTNAMES": "localhost"},
    ],
)
def test_a_process_stays_alone(environment, joined):
    processes.join_processes(environment)
    assert joined == []


@pytest.mark.parametrize(
    "environment",
    [SLURM, {"TPU_WORKER_HOSTNAMES": "host-0,host-1"}, {"JAXVID_DISTRIBUTED": "on"}],
)
def test_peers_are_found_by_jax(environment, joined):
    processes.join_processes(environment)
    assert joined == [{}]


def test_peers_are_named(joined):
    processes.join_processes(TWO | SLURM)
    assert joined == [
        {"coordinator_address": "127.0.0.1:2345", "num_processes": 2, "process_id": 1}
    ]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"JAXVID_DISTRIBUTED": "yes"}, "JAXVID_DISTRIBUTED='yes' is unknown: set it to on or off"),
        ({"JAXVID_PROCESS": ""}, "only JAXVID_COORDINATOR, JAXVID_PROCESSES is"),
        ({"JAXVID_COORDINATOR": "here"}, "JAXVID_COORDINATOR='here' must be host:port"),
        ({"JAXVID_PROCESS": "2"}, "JAXVID_PROCESS='2' of JAXVID_PROCESSES='2' must be one of 0, 1"),
        ({"JAXVID_PROCESS": "-1"}, "JAXVID_PROCESS='-1' of"),
        ({"JAXVID_PROCESSES": "two"}, "JAXVID_PROCESSES='two' must be one of"),
    ],
)
def test_an_environment_that_makes_no_sense_is_refused(change, message, joined):
    with pytest.raises(JaxvidError) as caught:
        processes.join_processes(TWO | change)
    assert message in str(caught.value)
    assert joined == []


def test_peers_that_cannot_be_found_are_one_sentence(monkeypatch):
    def initialize():
        raise ValueError("coordinator_address should be defined.\nmore")

    monkeypatch.setattr("jax.distributed.initialize", initialize)
    monkeypatch.setattr("jax.config.update", lambda *_: None)
    with pytest.raises(JaxvidError, match=r"\(coordinator_address should be defined\.\): start"):
        processes.join_processes({"JAXVID_DISTRIBUTED": "on"})


@pytest.mark.parametrize(
    "error, code",
    [(SystemExit(1), 1), (SystemExit(7), 7), (RuntimeError("x"), 1), (KeyboardInterrupt(), 1)],
)
def test_a_process_that_fails_does_not_wait_for_its_peers(error, code, monkeypatch):
    class Left(Exception):
        pass

    def leave(code):
        raise Left(code)

    monkeypatch.setattr("os._exit", leave)
    monkeypatch.setattr("jax.distributed.is_initialized", lambda: True)
    with pytest.raises(Left, match=str(code)), processes.failing_at_once():
        raise error


@pytest.mark.parametrize(
    "error, peers",
    [
        (SystemExit(0), True),
        (Stopped(143), True),  # all of them stop
        (SystemExit(1), False),
        (ValueError("x"), False),
    ],
)
def test_other_ends_are_ordinary(error, peers, monkeypatch):
    monkeypatch.setattr("jax.distributed.is_initialized", lambda: peers)
    with pytest.raises(type(error)) as caught, processes.failing_at_once():
        raise error
    assert caught.value is error


def test_a_single_process_needs_no_shared_folder(tmp_path):
    processes.check_shared(tmp_path / "nowhere")


@pytest.mark.parametrize("process", [0, 1])
@pytest.mark.parametrize("free", [True, False])
def test_process_0_takes_a_lock_for_all_and_its_refusal_ends_all(
    process, free, monkeypatch, tmp_path
):
    monkeypatch.setattr("jax.process_count", lambda: 2)
    monkeypatch.setattr("jax.process_index", lambda: process)
    told = []

    def broadcast(failed):
        told.append(bool(failed))
        return failed if process == 0 else np.array(not free)

    monkeypatch.setattr("jax.experimental.multihost_utils.broadcast_one_to_all", broadcast)
    with contextlib.ExitStack() as stack:
        if not free:
            stack.enter_context(locks.hold(tmp_path, "--workdir"))
            said = "is being written by" if process == 0 else "process 0 was refused"
            stack.enter_context(pytest.raises(JaxvidError, match=said))
        with processes.in_first(locks.hold(tmp_path, "--workdir")):
            assert free and (tmp_path / locks.NAME).exists() == (process == 0)
    assert told == [process == 0 and not free]


# ---- real processes


@pytest.fixture(scope="module")
def flags(tmp_path_factory):
    """What makes `jaxvid.main` train for six steps on a few toy clips."""
    folder = tmp_path_factory.mktemp("mini")
    toy.make(folder, toy.Settings(train=4, test=1, height=48, width=48, frames=(8, 10)))
    for split in ("train", "test"):
        build.build(folder / "videos", folder / f"{split}.csv", folder, workers=1)
    fields = {
        "data.crop": 32,
        "data.sampling.num_clips": 4,
        "test.crop": 32,
        "test.short_side": 32,
        "test.sampling.num_clips": 4,
        "test.batch_size": 8,
        "train.batch_size": 8,
        "train.log_steps": 1,
        "train.checkpoint_steps": 2,
    }
    config = f"--config={ROOT}/configs/tsm_r50.py:runlocal,dataset=mini,data_dir={folder}"
    return [config, *(f"--config.{name}={value}" for name, value in fields.items())]


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    return os.environ | {
        "PYTHON": sys.executable,
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path_factory.mktemp("xla")),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # compiling takes nearly all the time
    }


def train(words, flags, environment, workdir, steps):
    flags = [*flags, f"--workdir={workdir}", f"--config.train.stop_at_step={steps}"]
    done = subprocess.run(
        [*words, *flags], env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").open()]
    scores = arrays.read_npz(workdir / "eval" / "scores.npz", 1 << 20)["scores"]
    return [line["loss"] for line in lines if "loss" in line], scores, done.stdout


ONE = [sys.executable, "-m", "jaxvid.main"]


def local(*options):
    return [ROOT / "launch" / "local.sh", *options, "--"]


@pytest.mark.slow("devices")
def test_any_processes_and_devices_train_as_one(flags, environment, tmp_path):
    losses, scores, _ = train(ONE, flags, environment, tmp_path / "one", 4)
    assert len(losses) == 4 and losses[0] != losses[3]
    eight = environment | {"XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    for name, words, environ in (
        ("eight", ONE, eight),
        ("two", local("--processes=2", "--devices=1"), environment),
        ("four", local("--processes=2", "--devices=2"), environment),
    ):
        others, other_scores, said = train(words, flags, environ, tmp_path / name, 4)
        np.testing.assert_allclose(others, losses, rtol=1e-5, err_msg=name)
        np.testing.assert_allclose(other_scores, scores, atol=1e-4, err_msg=name)
        assert said.count("step 4/4 loss") == 1
    # Half by two processes, the rest by one, and the other way round.
    two = local("--processes=2", "--devices=1")
    for first, then in ((two, ONE), (ONE, two)):
        workdir = tmp_path / f"half-{first is two}"
        train(first, flags, environment, workdir, 2)
        others, _, said = train(then, flags, environment, workdir, 4)
        assert "resumed from step 2" in said
        np.testing.assert_allclose(others, losses, rtol=1e-5)


@pytest.mark.slow("devices")
def test_processes_train_in_a_store_as_one_on_a_disk(flags, environment, tmp_path, monkeypatch):
    pytest.importorskip("s3fs", reason="object stores need s3fs: pip install 'jaxvid[stores]'")
    losses, scores, _ = train(ONE, flags, environment, tmp_path / "one", 4)
    two = local("--processes=2", "--devices=2")
    flags = [*flags, "--config.train.sharding=fsdp"]
    with store.running(errors=0.01, stalls=0.002, seed=5) as address:
        for name, value in store.environment(address).items():
            monkeypatch.setenv(name, value)
        environment = environment | store.environment(address)
        stores._client_of.cache_clear()
        for order in ((two, two), (two, ONE), (ONE, two)):
            workdir = paths.anywhere(f"s3://bucket/{secrets.token_hex(4)}", "--workdir")
            train(order[0], flags, environment, workdir, 2)
            others, other_scores, said = train(order[1], flags, environment, workdir, 4)
            assert "resumed from step 2" in said
            np.testing.assert_allclose(others, losses, rtol=1e-5)
            np.testing.assert_allclose(other_scores, scores, atol=1e-4)
    stores._client_of.cache_clear()


def started(flags, environment, workdirs, port):
    """Starts one process of two for each workdir."""
    for number, workdir in enumerate(workdirs):
        places = {
            "JAXVID_COORDINATOR": f"127.0.0.1:{port}",
            "JAXVID_PROCESSES": "2",
            "JAXVID_PROCESS": str(number),
        }
        yield subprocess.Popen(
            [*ONE, *flags, f"--workdir={workdir}"],
            env=environment | places,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


@pytest.mark.slow("devices")
def test_a_workdir_that_is_not_shared_is_refused(flags, environment, tmp_path):
    workdirs = [tmp_path / "a", tmp_path / "b"]
    for process in list(started(flags, environment, workdirs, 28471)):
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 1
        assert "is another folder for process 1 than for process 0: give --workdir" in errors
    assert not list(tmp_path.glob("?/.shared-*"))


@pytest.mark.slow("devices")
@pytest.mark.parametrize("told", [0, 1])
def test_a_signal_to_one_process_stops_all_after_the_same_step(told, flags, environment, tmp_path):
    flags = [*flags, "--config.train.sharding=fsdp", "--config.train.checkpoint_steps=100"]
    running = list(started(flags, environment, [tmp_path] * 2, 28473 + told))
    for line in running[0].stdout:
        if line.startswith("step 6/"):
            running[told].send_signal(signal.SIGTERM)
        if line.startswith("stopped by SIGTERM at step "):
            stopped = int(line.split()[5].rstrip(":"))
    for process in running:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 128 + signal.SIGTERM, errors
    assert stopped >= 6
    assert checkpoint.Checkpoints(tmp_path / "checkpoints").latest_step() == stopped
    _, _, said = train(ONE, flags, environment, tmp_path, stopped + 2)
    assert f"resumed from step {stopped} " in said
