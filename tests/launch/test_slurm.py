"""The Slurm script: the command that it starts, and what it does with signals."""

import shlex
import signal
import time

import pytest

from tests.launch.stand_in import Stage

FLAGS = ["--config=configs/tsm_r50.py:dataset=a b", "--workdir=it's/$HOME", "--x=*"]
JOB = {"SLURM_JOB_ID": "42"}
SRUN = """#!/usr/bin/env bash
trap 'echo ended by SIGTERM; sleep 0.3; exit {code}' TERM
echo "$@" >"{folder}/started"
for ((i = 0; i < 300; i++)); do sleep 0.1; done
"""


@pytest.fixture
def stage(tmp_path):
    stage = Stage(tmp_path)
    stage.stand_in("srun", "scontrol")
    return stage


PLAIN = ["srun", "--kill-on-bad-exit=1", "--label"]
RUN = ["python", "-m", "jaxvid.main", *FLAGS]


@pytest.mark.parametrize(
    "variables, words",
    [
        ({}, PLAIN),
        ({"SLURM_CPUS_PER_TASK": "8"}, [*PLAIN, "--cpus-per-task=8"]),
        ({"SLURM_GPUS_ON_NODE": "8", "SLURM_NTASKS_PER_NODE": "8"}, PLAIN),
        ({"SLURM_GPUS_ON_NODE": "1", "SLURM_NTASKS_PER_NODE": "1"}, PLAIN),
        ({"SLURM_GPUS_ON_NODE": "4"}, [*PLAIN, "env", "JAX_LOCAL_DEVICE_IDS=0,1,2,3"]),
    ],
)
def test_the_command_is_what_a_dry_run_prints(stage, variables, words):
    printed = stage.run("slurm.sh", "--dry-run", *FLAGS, **variables)
    assert printed.returncode == 0 and stage.calls == []
    assert shlex.split(printed.stdout) == words + RUN
    assert stage.run("slurm.sh", *FLAGS, **JOB, **variables).returncode == 0
    assert stage.calls == [words + RUN]


def test_a_run_that_fails_is_not_repeated(stage):
    stage.answer(("srun", 5, ""))
    assert stage.run("slurm.sh", *FLAGS, **JOB).returncode == 5
    assert [call[0] for call in stage.calls] == ["srun"]


def signalled(stage, number, code):
    stage.stand_in("srun", script=SRUN.format(folder=stage.folder, code=code))
    process = stage.start("slurm.sh", *FLAGS, **JOB)
    started = stage.folder / "started"
    end = time.monotonic() + 20
    while not started.exists() and time.monotonic() < end:
        time.sleep(0.02)
    process.send_signal(number)
    out, errors = process.communicate(timeout=20)
    assert "ended by SIGTERM" in out
    return process.returncode, out + errors


def test_a_job_whose_time_is_up_is_queued_again(stage):
    code, said = signalled(stage, signal.SIGUSR1, 143)
    assert code == 143 and "queueing job 42 again" in said
    assert stage.calls == [["scontrol", "requeue", "42"]]


def test_a_job_that_ended_well_in_time_is_not_queued_again(stage):
    code, _ = signalled(stage, signal.SIGUSR1, 0)
    assert code == 0 and stage.calls == []


def test_a_job_that_was_cancelled_is_not_queued_again(stage):
    code, _ = signalled(stage, signal.SIGTERM, 9)
    assert code == 9 and stage.calls == []


def test_a_job_that_cannot_be_queued_again_says_what_to_do(stage):
    stage.answer(("scontrol", 1, ""))
    code, said = signalled(stage, signal.SIGUSR1, 143)
    assert code == 1 and "error: scontrol cannot queue the job again: submit the same" in said


@pytest.mark.parametrize(
    "flags, variables, says",
    [
        ([], JOB, "say what to run"),
        (FLAGS, {}, "this is no Slurm job: submit it with sbatch"),
        (FLAGS, JOB | {"SLURM_GPUS_PER_TASK": "1"}, "--gpus-per-task hides GPUs"),
        (
            FLAGS,
            JOB | {"SLURM_GPUS_ON_NODE": "8", "SLURM_NTASKS_PER_NODE": "2"},
            "--ntasks-per-node=2 must be 1 or the 8 GPUs of a node",
        ),
    ],
)
def test_wrong_jobs_are_one_sentence(stage, flags, variables, says):
    done = stage.run("slurm.sh", *flags, **variables)
    assert done.returncode == 1 and stage.calls == []
    assert done.stderr.startswith(f"error: {says}") and done.stderr.count("\n") == 1


def test_help_stands_alone(stage):
    done = stage.run("slurm.sh", "--help")
    assert done.returncode == 0 and "--ntasks-per-node" in done.stdout
    assert "SBATCH" not in done.stdout
