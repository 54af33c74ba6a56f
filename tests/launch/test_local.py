"""Several processes on one machine: their environment, output and ends."""

import shlex
import signal
import subprocess
import sys
import time

import pytest

from tests.launch.stand_in import Stage

FLAGS = ["--config=configs/tsm_r50.py:dataset=a b", "--workdir=it's/$HOME", "--x=*"]
# What the processes do: process N runs the file do.N where there is one.
PYTHON = """#!/usr/bin/env bash
[ "$1" = -c ] && exec "{python}" "$@"
me=$JAXVID_PROCESS
printf '%s\\n' "$JAXVID_COORDINATOR" "$JAXVID_PROCESSES" >"{folder}/got.$me"
printf '<%s>\\n' "$@" >>"{folder}/got.$me"
echo $$ >"{folder}/pid.$me"
[ ! -e "{folder}/do.$me" ] || . "{folder}/do.$me"
"""
STAY = "for ((i = 0; i < 300; i++)); do sleep 0.1; done\n"


@pytest.fixture
def stage(tmp_path):
    stage = Stage(tmp_path)
    script = PYTHON.format(folder=tmp_path, python=sys.executable)
    stage.stand_in("python", script=script)
    return stage


def ready(stage, number):
    return f"touch {stage.folder}/ready.{number}; "


def until_ready(stage, number):
    return f"until [ -e {stage.folder}/ready.{number} ]; do sleep 0.05; done; "


def play(stage, *parts):
    for number, part in enumerate(parts):
        (stage.folder / f"do.{number}").write_text(part)


def are_gone(stage, *names):
    for name in names:
        pid = (stage.folder / name).read_text().strip()
        state = subprocess.run(["ps", "-o", "stat=", "-p", pid], capture_output=True, text=True)
        # One whose parent was killed too stays a zombie until the system looks after it.
        assert not state.stdout.strip() or state.stdout.startswith("Z"), (name, state.stdout)
    return True


def test_each_process_knows_its_place_and_the_flags(stage):
    done = stage.run("local.sh", "--processes=3", "--port=4321", "--", *FLAGS)
    assert done.returncode == 0, done.stderr
    for number in range(3):
        got = (stage.folder / f"got.{number}").read_text().splitlines()
        flags = [f"<{flag}>" for flag in ("-m", "jaxvid.main", *FLAGS)]
        assert got == ["127.0.0.1:4321", "3", *flags]


def test_a_free_port_is_found(stage):
    stage.run("local.sh", "--processes=1", "--", *FLAGS)
    host, port = (stage.folder / "got.0").read_text().split()[0].split(":")
    assert host == "127.0.0.1" and 1024 <= int(port) < 65536


@pytest.mark.parametrize(
    "options, variables, settings",
    [
        ([], {}, {"JAX_LOCAL_DEVICE_IDS": "1"}),
        (
            ["--devices=4"],
            {"XLA_FLAGS": "--a --b"},
            {
                "JAX_PLATFORMS": "cpu",
                "XLA_FLAGS": "--a --b --xla_force_host_platform_device_count=4",
            },
        ),
    ],
)
def test_a_dry_run_prints_what_would_be_run(stage, options, variables, settings):
    done = stage.run("local.sh", "--port=1234", *options, "--dry-run", "--", *FLAGS, **variables)
    lines = [shlex.split(line) for line in done.stdout.splitlines()]
    assert len(lines) == 2 and not (stage.folder / "got.0").exists()
    places = {
        "JAXVID_COORDINATOR": "127.0.0.1:1234",
        "JAXVID_PROCESSES": "2",
        "JAXVID_PROCESS": "1",
    }
    given = [f"{name}={value}" for name, value in (places | settings).items()]
    assert lines[1] == ["env", *given, "python", "-m", "jaxvid.main", *FLAGS]


def test_every_line_says_whose_it_is(stage):
    play(stage, "echo one; echo two >&2; printf three", "echo four")
    done = stage.run("local.sh", "--", *FLAGS)
    assert sorted(done.stdout.splitlines()) == ["[0] one", "[0] three", "[0] two", "[1] four"]
    assert done.stderr == ""


def test_when_one_fails_all_end_and_its_code_is_the_answer(stage):
    child = f"sleep 30 & echo $! >{stage.folder}/pid.child; {ready(stage, 0)} wait"
    polite = f"trap 'echo last words; exit 3' TERM; {ready(stage, 2)} {STAY}"
    fails = until_ready(stage, 0) + until_ready(stage, 2) + "exit 7"
    play(stage, child, fails, polite)
    done = stage.run("local.sh", "--processes=3", "--", *FLAGS)
    assert done.returncode == 7
    assert done.stderr == "process 1 ended with code 7: ending the others\n"
    assert "[2] last words" in done.stdout
    assert are_gone(stage, "pid.0", "pid.1", "pid.2", "pid.child")


def test_a_process_that_ignores_sigterm_is_killed(stage):
    play(stage, f"trap '' TERM; {ready(stage, 0)} {STAY}", until_ready(stage, 0) + "exit 4")
    begin = time.monotonic()
    assert stage.run("local.sh", "--grace=1", "--", *FLAGS).returncode == 4
    assert time.monotonic() - begin < 15 and are_gone(stage, "pid.0")


def test_a_process_that_is_killed_counts_as_failed(stage):
    play(stage, STAY, "kill -KILL $$")
    done = stage.run("local.sh", "--", *FLAGS)
    assert done.returncode == 137 and "process 1 ended with code 137" in done.stderr


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_all(stage, number, code):
    polite = f"trap 'echo saved; exit 0' TERM; {ready(stage, 1)} {STAY}"
    play(stage, ready(stage, 0) + STAY, polite)
    process = stage.start("local.sh", "--", *FLAGS)
    end = time.monotonic() + 20
    while time.monotonic() < end:
        if all((stage.folder / f"ready.{number}").exists() for number in (0, 1)):
            break
        time.sleep(0.02)
    process.send_signal(number)
    out, errors = process.communicate(timeout=20)
    assert process.returncode == code and errors == "interrupted: ending all processes\n"
    assert "[1] saved" in out and are_gone(stage, "pid.0", "pid.1")


@pytest.mark.parametrize(
    "arguments, says",
    [
        ([], "say what to run"),
        (["--"], "say what to run"),
        (["--config=x"], "--config=x is unknown: see --help; flags of jaxvid.main come after --"),
        (["--processes=0", "--", "x"], "--processes=0 must be a whole number from 1"),
        (["--devices=two", "--", "x"], "--devices=two must be a whole number from 1"),
    ],
)
def test_wrong_arguments_are_one_sentence(stage, arguments, says):
    done = stage.run("local.sh", *arguments)
    assert done.returncode == 1 and done.stderr.startswith(f"error: {says}")
    assert done.stderr.count("\n") == 1


def test_an_interpreter_that_is_not_there_is_named(stage):
    done = stage.run("local.sh", "--", *FLAGS, PYTHON="no-python")
    assert done.returncode == 1 and done.stderr.startswith("error: no-python is not a program")


def test_help_stands_alone(stage):
    done = stage.run("local.sh", "--help")
    assert done.returncode == 0 and "--grace=N" in done.stdout and "set -euo" not in done.stdout
