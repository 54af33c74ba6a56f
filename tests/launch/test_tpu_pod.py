"""The TPU script against a gcloud that fails at each step, and its lines on a worker."""

import os
import shlex
import signal
import subprocess
import time

import pytest

from tests.launch.stand_in import Stage

WHICH = ["--name=pod", "--zone=us-east5-b"]
ASK = [*WHICH, "--accelerator=v6e-16"]
FLAGS = ["--config=configs/tsm_r50.py:dataset=a b", "--workdir=/mnt/it's/$HOME", "--x=*"]
RUN = ["--", *FLAGS]
GONE = ("queued-resources describe", 1, "ERROR: NOT_FOUND: no such thing")
OUTPUT = "tail -n +1"  # what only the line that follows a run has in it
START = "setsid"


@pytest.fixture
def stage(tmp_path):
    stage = Stage(tmp_path)
    stage.stand_in("gcloud", "git")
    stage.stand_in("sleep", script="#!/bin/sh\nexec /bin/sleep 0.1\n")
    return stage


def steps(stage):
    """The calls of gcloud in short, without the questions of how things are."""
    short = []
    for call in stage.calls:
        line = " ".join(call)
        if call[0] != "gcloud" or " describe " in line or " list " in line:
            continue
        for name, sign in {
            "create": "queued-resources create",
            "delete": "queued-resources delete",
            "copy": "tpu-vm scp",
            "clone": "git clone",
            "unpack": "tar -xzf",
            "environment": "uv pip install",
            "mount": "mountpoint",
            "start": START,
            "follow": OUTPUT,
            "fine?": 'jaxvid.code 2>/dev/null)" = 0',
            "alive?": "--command=kill -0",
        }.items():
            if sign in line:
                short.append(name)
                break
        else:
            raise AssertionError(line)
    return short


INSTALL = ["copy", "unpack", "environment"]
ALL = ["create", *INSTALL, "start", "follow", "delete"]


def state(name):
    return ("queued-resources describe", 0, name)


# ---- the whole way


def test_all_goes_from_nothing_to_nothing(stage):
    done = stage.run("tpu_pod.sh", "all", *ASK, "--bucket=own", *RUN)
    assert done.returncode == 0, done.stderr
    assert steps(stage) == ["create", *INSTALL, "mount", "start", "follow", "delete"]
    assert "may cost money" not in done.stderr


@pytest.mark.parametrize("command", ["all", "create", "wait", "install", "run", "logs", "delete"])
def test_a_dry_run_prints_what_a_run_does(stage, command):
    arguments = [command, *ASK, "--project=p", "--service-account=a@b", "--spot", "--bucket=own"]
    printed = stage.run("tpu_pod.sh", *arguments, "--dry-run", *RUN)
    assert printed.returncode == 0 and stage.calls == []
    lines = [shlex.split(line) for line in printed.stdout.splitlines()]
    done = stage.run("tpu_pod.sh", *arguments, *RUN)
    assert done.returncode == 0, done.stderr
    calls = [call for call in stage.calls if "status" not in call]
    assert [line for line in lines if line[0] != "mkdir"] == calls
    assert all("--zone=us-east5-b" in call for call in calls if call[0] == "gcloud")
    assert all("--project=p" in call for call in calls if call[0] == "gcloud")


def test_a_dry_run_of_resume_shows_the_longest_way(stage):
    printed = stage.run("tpu_pod.sh", "resume", *ASK, "--dry-run", *RUN)
    words = ["queued-resources delete", "queued-resources create", "scp", "uv pip", START, OUTPUT]
    places = [printed.stdout.index(word) for word in words]
    assert places == sorted(places) and stage.calls == []


def test_the_request_says_what_was_asked_for(stage):
    stage.run("tpu_pod.sh", "create", *ASK, "--spot", "--service-account=me@x", "--runtime=own")
    assert stage.calls == [
        ["gcloud", "compute", "tpus", "queued-resources", "create", "pod", "--node-id=pod"]
        + ["--zone=us-east5-b", "--accelerator-type=v6e-16", "--runtime-version=own"]
        + ["--service-account=me@x", "--spot", "--quiet"]
    ]


@pytest.mark.parametrize(
    "step, before, says",
    [
        ("queued-resources create", [], "the request for pod was refused"),
        ("archive", ["create"], "not all workers could be installed, though pod is there"),
        ("tpu-vm scp", ["create"], "not all workers could be installed, though pod is there"),
        ("tar -xzf", ["create", "copy"], "not all workers could be installed"),
        ("uv pip", ["create", "copy", "unpack"], "not all workers could be installed"),
        ("mountpoint", ["create", *INSTALL], "not all workers could be installed"),
        (START, ["create", *INSTALL, "mount"], "the run did not end well, though pod is there"),
        (OUTPUT, ["create", *INSTALL, "mount", "start"], "the run did not end well"),
        (
            "queued-resources delete",
            ["create", *INSTALL, "mount", "start", "follow"],
            "pod could not be deleted and may go on costing money: delete it again",
        ),
    ],
)
def test_a_step_that_fails_ends_it_all(stage, step, before, says):
    stage.answer((step, 1, ""), ('jaxvid.code 2>/dev/null)" = 0', 1, ""))
    done = stage.run("tpu_pod.sh", "all", *ASK, "--bucket=own", *RUN)
    assert done.returncode == 1
    assert [line for line in done.stderr.splitlines() if line.startswith(f"error: {says}")]
    assert "launch/tpu_pod.sh delete --name=pod --zone=us-east5-b" in done.stderr
    assert steps(stage)[: len(before)] == before
    assert set(steps(stage)[len(before) + 1 :]) <= {"fine?"}


# ---- waiting


def test_waiting_ends_when_the_tpu_is_there(stage):
    stage.answer(*map(state, ("ACCEPTED", "WAITING_FOR_RESOURCES", "PROVISIONING")))
    done = stage.run("tpu_pod.sh", "wait", *WHICH)
    assert done.returncode == 0
    assert "pod is PROVISIONING\npod is ACTIVE\n" in done.stderr
    assert stage.unused == []


def test_warnings_of_gcloud_are_not_states(stage):
    stage.answer(state("WARNING: update me\nPROVISIONING"), state("WARNING: update me\nACTIVE"))
    assert stage.run("tpu_pod.sh", "wait", *WHICH).returncode == 0
    assert stage.unused == []


@pytest.mark.parametrize(
    "answer, says",
    [
        (state("FAILED"), "pod is FAILED and does not become active: resume it, or delete it"),
        (GONE, "pod is NONE and does not become active"),
        (state("SUSPENDED"), "pod was taken away: go on with resume"),
        (("tpu-vm describe", 0, "PREEMPTED"), "pod was taken away: go on with resume"),
    ],
)
def test_waiting_in_vain_is_an_error(stage, answer, says):
    stage.answer(answer)
    done = stage.run("tpu_pod.sh", "wait", *WHICH)
    assert done.returncode == 1 and f"error: {says}" in done.stderr


def test_waiting_ends_after_its_time(stage):
    stage.answer(*[state("WAITING_FOR_RESOURCES")] * 50)
    done = stage.run("tpu_pod.sh", "wait", *WHICH, "--timeout=1")
    assert done.returncode == 1
    assert "error: pod is still WAITING_FOR_RESOURCES after 1 s: wait again" in done.stderr


@pytest.mark.parametrize("times, code", [(9, 0), (10, 1)])
def test_a_lost_connection_is_endured_for_a_while(stage, times, code):
    stage.answer(*[("queued-resources describe", 1, "no network")] * times)
    done = stage.run("tpu_pod.sh", "wait", *WHICH)
    assert done.returncode == code
    assert ("error: gcloud cannot say how pod is: no network" in done.stderr) == bool(code)


# ---- preemption


@pytest.mark.parametrize(
    "signs",
    [
        [state("SUSPENDED")] * 3,
        [state("SUSPENDING")] * 3 + [state("SUSPENDED")],
        [("tpu-vm describe", 0, "PREEMPTED")] * 3,
        [("tpu-vm describe", 1, "NOT_FOUND")] * 3,
    ],
)
def test_all_goes_on_after_a_preemption(stage, signs):
    ready = ("tpu-vm describe", 0, "READY")
    active = state("ACTIVE")
    first = ready if signs[0][0] == ready[0] else active
    stage.answer((OUTPUT, 255, ""), first, *signs)
    done = stage.run("tpu_pod.sh", "all", *ASK, *RUN)
    assert done.returncode == 0, done.stderr
    once = ALL[:-1]
    assert steps(stage) == [*once, "delete", *once, "delete"]
    starts = [call for call in stage.calls if START in " ".join(call)]
    assert starts[0] == starts[1]


def test_all_gives_up_after_so_many_restarts(stage):
    taken = [(OUTPUT, 255, ""), state("ACTIVE"), *[state("SUSPENDED")] * 3] * 3
    stage.answer(*taken)
    done = stage.run("tpu_pod.sh", "all", *ASK, "--restarts=2", *RUN)
    assert done.returncode == 1 and "taken away once more after 2 restarts" in done.stderr
    assert steps(stage).count("create") == 3


def test_a_lost_connection_is_no_preemption(stage):
    stage.answer((OUTPUT, 255, ""))
    done = stage.run("tpu_pod.sh", "run", *WHICH, *RUN)
    assert done.returncode == 0, done.stderr
    assert steps(stage) == ["start", "follow", "fine?", "follow"]


@pytest.mark.parametrize(
    "answers, expected",
    [
        ([], ["alive?", "follow"]),
        ([("--command=kill -0", 1, "")], ["alive?", *INSTALL, "start", "follow"]),
        ([state("PROVISIONING")], [*INSTALL, "start", "follow"]),
        ([GONE], ["create", *INSTALL, "start", "follow"]),
        ([state("SUSPENDED")] * 2, ["delete", "create", *INSTALL, "start", "follow"]),
        ([state("FAILED")] * 2, ["delete", "create", *INSTALL, "start", "follow"]),
    ],
)
def test_resume_goes_on_from_what_is_there(stage, answers, expected):
    stage.answer(*answers)
    done = stage.run("tpu_pod.sh", "resume", *ASK, *RUN)
    assert done.returncode == 0, done.stderr
    assert steps(stage) == expected


def test_nothing_is_deleted_in_the_dark(stage):
    stage.answer(("queued-resources describe", 1, "no network"))
    done = stage.run("tpu_pod.sh", "resume", *ASK, *RUN)
    assert done.returncode == 1 and steps(stage) == []
    assert "error: gcloud cannot say how pod is: no network" in done.stderr


def test_deleting_what_is_not_there_is_a_success(stage):
    stage.answer(GONE)
    done = stage.run("tpu_pod.sh", "delete", *WHICH)
    assert done.returncode == 0 and "there is no pod" in done.stderr and steps(stage) == []


# ---- several slices

SLICES = [*ASK, "--slices=2"]
EACH = ["pod-0", "pod-1"]


def reached(stage, sign):
    """The machines that calls with a sign name, each once."""
    calls = [call for call in stage.calls if sign in " ".join(call)]
    return sorted({word for call in calls for word in call if word in ("pod", *EACH)})


def test_slices_are_asked_for_together(stage):
    assert stage.run("tpu_pod.sh", "create", *SLICES).returncode == 0
    (call,) = stage.calls
    assert {"pod", "--node-count=2", "--node-prefix=pod"} <= set(call)
    assert not [word for word in call if word.startswith("--node-id")]


def test_every_step_reaches_every_slice(stage):
    done = stage.run("tpu_pod.sh", "all", *SLICES, "--bucket=own", *RUN)
    assert done.returncode == 0, done.stderr
    for sign in ("tpu-vm describe", "tar -xzf", "uv pip install", "mountpoint", START, OUTPUT):
        assert reached(stage, sign) == EACH, sign
    copies = [call for call in stage.calls if "scp" in call]
    assert sorted(call[6] for call in copies) == [f"{name}:jaxvid.tar.gz" for name in EACH]
    (deleted,) = [call for call in stage.calls if "delete" in call]
    assert "pod" in deleted


def test_a_dry_run_of_slices_prints_what_a_run_does(stage):
    printed = stage.run("tpu_pod.sh", "all", *SLICES, "--dry-run", *RUN)
    assert printed.returncode == 0 and stage.calls == []
    lines = [shlex.split(line) for line in printed.stdout.splitlines()]
    assert stage.run("tpu_pod.sh", "all", *SLICES, *RUN).returncode == 0
    calls = [call for call in stage.calls if "status" not in call]
    assert sorted(line for line in lines if line[0] != "mkdir") == sorted(calls)


@pytest.mark.parametrize("name", EACH)
def test_a_step_that_fails_on_one_slice_ends_it_all(stage, name):
    stage.answer((f"ssh {name} ", 1, ""))
    done = stage.run("tpu_pod.sh", "install", *WHICH, "--slices=2")
    assert done.returncode == 1
    assert "error: not all workers are installed" in done.stderr


@pytest.mark.parametrize("name", EACH)
def test_one_slice_that_is_gone_is_a_preemption(stage, name):
    stage.answer((f"tpu-vm describe {name} ", 0, "PREEMPTED"))
    done = stage.run("tpu_pod.sh", "wait", *WHICH, "--slices=2")
    assert done.returncode == 1 and "error: pod was taken away: go on with" in done.stderr


def test_slices_that_were_forgotten_are_not_deleted(stage):
    stage.answer(("tpu-vm describe pod ", 1, "NOT_FOUND"), ("tpu-vm list", 0, "pod-0"))
    done = stage.run("tpu_pod.sh", "resume", *ASK, *RUN)
    assert done.returncode == 1 and steps(stage) == []
    assert "error: pod has several slices: say by --slices how many" in done.stderr


def test_slices_are_followed_at_once_and_left_at_once(stage):
    script = f'''#!/usr/bin/env bash
case "$*" in
    *"{OUTPUT}"*) echo "$BASHPID" >>"{stage.folder}/following"; sleep 600 ;;
    *" describe "*) echo ACTIVE ;;
esac
'''
    stage.stand_in("gcloud", script=script)
    stage.stand_in("sleep", script="#!/bin/sh\nexec /bin/sleep 30\n")
    process = stage.start("tpu_pod.sh", "logs", *WHICH, "--slices=2")
    following = stage.folder / "following"
    numbers: list[int] = []
    end = time.monotonic() + 20
    while len(numbers) < 2 and time.monotonic() < end:
        time.sleep(0.05)
        numbers = list(map(int, following.read_text().split())) if following.exists() else []
    assert len(numbers) == 2
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    assert process.returncode in (-signal.SIGINT, 130)
    for number in numbers:
        stat = subprocess.run(["ps", "-o", "stat=", "-p", str(number)], capture_output=True)
        assert not stat.stdout.strip() or stat.stdout.startswith(b"Z")


# ---- installing


def test_a_ref_is_installed_from_its_repository(stage):
    stage.answer(("remote get-url origin", 0, "https://example.org/it's.git"))
    done = stage.run("tpu_pod.sh", "install", *WHICH, "--ref=v1;rm")
    assert done.returncode == 0, done.stderr
    assert steps(stage) == ["clone", "environment"]
    line = next(call[-1] for call in stage.calls if call[0] == "gcloud")
    words = shlex.split(line.removeprefix("--command="))
    assert "https://example.org/it's.git" in words and words[-1] == "v1;rm"


def test_changes_that_are_not_committed_are_said(stage):
    stage.answer(("status --porcelain", 0, " M jaxvid/training/loop.py"))
    assert (
        "without changes that are not committed"
        in stage.run("tpu_pod.sh", "install", *WHICH).stderr
    )


# ---- the workers' lines, run by a shell


@pytest.fixture
def worker(stage):
    """A home folder in which the lines of `start` and `logs` can run."""
    home = stage.folder / "home"
    (home / "jaxvid").mkdir(parents=True)
    (home / "jaxvid-venv" / "bin").mkdir(parents=True)
    python = home / "jaxvid-venv" / "bin" / "python"
    python.write_text(
        '#!/bin/sh\necho "$JAXVID_DISTRIBUTED $PWD"\nprintf \'<%s>\\n\' "$@"\n'
        'while [ -e "$HOME/wait" ]; do /bin/sleep 0.05; done\nexit 7\n'
    )
    python.chmod(0o755)
    stage.stand_in("curl", script="#!/bin/sh\necho 3\n")
    return home


def test_a_worker_of_several_slices_says_of_which_it_is(stage, worker):
    stage.answer(("queued-resources describe", 0, "FAILED"))
    stage.run("tpu_pod.sh", "run", *WHICH, "--slices=2", *RUN)
    assert on_worker(stage, worker, START).returncode == 0
    said = {
        line.split()[0]
        for sign in EACH
        for line in on_worker(stage, worker, f"ssh {sign} ", OUTPUT).stdout.splitlines()
    }
    assert said == {"[0.3]", "[1.3]"}


def on_worker(stage, home, *signs):
    line = next(c[-1] for c in stage.calls if all(sign in " ".join(c) for sign in signs))
    return subprocess.run(
        ["bash", "-c", line.removeprefix("--command=")],
        env=stage.environment(HOME=str(home)),
        cwd=home,
        capture_output=True,
        text=True,
        timeout=30,
    )


def test_a_worker_runs_the_flags_as_they_were_given(stage, worker):
    stage.run("tpu_pod.sh", "run", *WHICH, *RUN)
    assert on_worker(stage, worker, START).returncode == 0
    said = on_worker(stage, worker, OUTPUT)
    assert said.returncode == 7
    assert said.stdout.splitlines() == [
        f"[3] {line}"
        for line in (f"on {worker}/jaxvid", "<-m>", "<jaxvid.main>", *(f"<{x}>" for x in FLAGS))
    ]


def test_a_worker_runs_one_at_a_time(stage, worker):
    stage.answer(*[(OUTPUT, 1, "")] * 2, ('jaxvid.code 2>/dev/null)" = 0', 1, ""))
    stage.run("tpu_pod.sh", "run", *WHICH, *RUN)
    (worker / "wait").touch()
    assert on_worker(stage, worker, START).returncode == 0
    assert on_worker(stage, worker, "= 0").returncode == 0
    again = on_worker(stage, worker, START)
    assert again.returncode == 1 and "a run is going on here" in again.stderr
    (worker / "wait").unlink()
    assert on_worker(stage, worker, OUTPUT).returncode == 7
    assert on_worker(stage, worker, "= 0").returncode == 1
    (worker / "jaxvid.code").write_text("0\n")
    assert on_worker(stage, worker, "= 0").returncode == 0


def test_a_worker_without_a_run_says_so(stage, worker):
    stage.run("tpu_pod.sh", "logs", *WHICH)
    said = on_worker(stage, worker, OUTPUT)
    assert said.returncode == 1 and said.stderr == "no run was started here\n"


def test_every_line_for_the_workers_is_shell(stage):
    stage.run("tpu_pod.sh", "all", *ASK, "--bucket=own", *RUN)
    lines = [call[-1] for call in stage.calls if call[-1].startswith("--command=")]
    assert len(lines) == 5
    for line in lines:
        command = line.removeprefix("--command=")
        checked = subprocess.run(["bash", "-n", "-c", command], capture_output=True, text=True)
        assert checked.returncode == 0, checked.stderr


# ---- arguments


@pytest.mark.parametrize(
    "arguments, says",
    [
        ([], "'' is no command: take create, wait"),
        (["begin"], "'begin' is no command"),
        (["wait", "--zone=z"], "--name= must be small letters"),
        (["wait", "--name=Pod", "--zone=z"], "--name=Pod must be small letters"),
        (["wait", "--name=pod"], "--zone is missing"),
        (["create", *WHICH], "--accelerator is missing"),
        (["create", *WHICH, "--accelerator=v99-8"], "the software of v99-8 is not known here"),
        (["run", *WHICH], "say what to run"),
        (["run", *WHICH, "--config=x"], "--config=x is unknown: see --help; flags of jaxvid.main"),
        (["wait", *WHICH, "--slices=0"], "--slices=0 must be a whole number"),
        (["wait", *WHICH, "--timeout=soon"], "--timeout=soon must be a whole number"),
        (["install", *WHICH, "--bucket=gs://b"], "--bucket=gs://b must be the name alone"),
    ],
)
def test_wrong_arguments_are_one_sentence(stage, arguments, says):
    done = stage.run("tpu_pod.sh", *arguments)
    assert done.returncode == 1 and stage.calls == []
    assert done.stderr.startswith(f"error: {says}") and done.stderr.count("\n") == 1


def test_help_stands_alone(stage):
    done = stage.run("tpu_pod.sh", "--help")
    assert done.returncode == 0 and "--accelerator=TYPE" in done.stdout
    assert os.linesep * 3 not in done.stdout and "set -euo" not in done.stdout
