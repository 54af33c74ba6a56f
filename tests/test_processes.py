"""Several processes: what their environment says, and that they train as one does."""

import pytest

from jaxvid import sharding
from jaxvid.errors import JaxvidError

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
    sharding.join_processes(environment)
    assert joined == []


@pytest.mark.parametrize(
    "environment",
    [SLURM, {"TPU_WORKER_HOSTNAMES": "host-0,host-1"}, {"JAXVID_DISTRIBUTED": "on"}],
)
def test_peers_are_found_by_jax(environment, joined):
    sharding.join_processes(environment)
    assert joined == [{}]


def test_peers_are_named(joined):
    sharding.join_processes(TWO | SLURM)
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
        sharding.join_processes(TWO | change)
    assert message in str(caught.value)
    assert joined == []


def test_peers_that_cannot_be_found_are_one_sentence(monkeypatch):
    def initialize():
        raise ValueError("coordinator_address should be defined.\nmore")

    monkeypatch.setattr("jax.distributed.initialize", initialize)
    monkeypatch.setattr("jax.config.update", lambda *_: None)
    with pytest.raises(JaxvidError, match=r"\(coordinator_address should be defined\.\): start"):
        sharding.join_processes({"JAXVID_DISTRIBUTED": "on"})


@pytest.mark.parametrize(
    "error, code",
    [(SystemExit(1), 1), (SystemExit(7), 1), (RuntimeError("x"), 1), (KeyboardInterrupt(), 1)],
)
def test_a_process_that_fails_does_not_wait_for_its_peers(error, code, monkeypatch):
    class Left(Exception):
        pass

    def leave(code):
        raise Left(code)

    monkeypatch.setattr("os._exit", leave)
    monkeypatch.setattr("jax.distributed.is_initialized", lambda: True)
    with pytest.raises(Left, match=str(code)), sharding.failing_at_once():
        raise error


@pytest.mark.parametrize(
    "error, peers", [(SystemExit(0), True), (SystemExit(1), False), (ValueError("x"), False)]
)
def test_other_ends_are_ordinary(error, peers, monkeypatch):
    monkeypatch.setattr("jax.distributed.is_initialized", lambda: peers)
    with pytest.raises(type(error)) as caught, sharding.failing_at_once():
        raise error
    assert caught.value is error
