"""Every command under the same faults: one sentence or a quiet end, and nothing torn."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from jaxvid.base.exits import exit_on_error
from tests import faults

ROOT = pathlib.Path(__file__).parent.parent
# What of the table the default set tries: each fault once, each command that is quick.
DIAGONAL = [
    ("zoo list", "| head"),
    ("zoo list", "full stdout"),
    ("zoo show", "closed stdout"),
    ("zoo show", "SIGTERM"),
    ("zoo_page", "disk fills up"),
    ("zoo_page", "Ctrl-C at once"),
    ("fuse", "full disk"),
    ("fuse", "file in the way"),
    ("fuse", "output not UTF-8"),
    ("data.build", "read-only folder"),
    ("data.build", "disk fills up"),
    ("data.build", "no HOME"),
    ("data.build", "~ output"),
    ("data.prepare", "file in the way"),
    ("data.prepare", "disk fills up"),
    ("data.bench", "no such config"),
    ("converters", "missing input"),
    ("converters torch", "read-only folder"),
    ("converters torch", "input not UTF-8"),
    ("converters", "disk fills up"),
    ("export", "az:// output"),
    ("export savedmodel", "disk fills up"),
    ("export savedmodel", "output not UTF-8"),
    ("bench", "file in the way"),
    ("probe", "missing input"),
    ("main train", "read-only folder"),
    ("main eval", "no such config"),
]
ALL = [(command, fault) for command in faults.COMMANDS for fault in faults.FAULTS]


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    house = faults.House(tmp_path_factory.mktemp("house"))
    yield house
    house.close()


def check(house, command, fault):
    outcome = house.run(command, fault)
    if outcome is None:
        pytest.skip(f"{fault} does not concern {command}")
    said = faults.verdict(fault, outcome)
    assert not said.startswith("WRONG"), f"{said}\n{outcome.out[-2000:]}\n{outcome.err[-2000:]}"


@pytest.mark.parametrize(("command", "fault"), DIAGONAL)
def test_a_fault_is_one_sentence(house, command, fault):
    check(house, command, fault)


@pytest.mark.slow("faults")
@pytest.mark.parametrize(("command", "fault"), ALL)
def test_every_fault_of_every_command_is_one_sentence(house, command, fault):
    check(house, command, fault)


def test_every_fault_and_most_commands_are_in_the_default_set():
    tried = {fault for _, fault in DIAGONAL}
    assert faults.FAULTS.keys() - tried == {"nothing", "Ctrl-C in the middle"}
    assert len({command for command, _ in DIAGONAL}) >= len(faults.COMMANDS) - 6


@pytest.mark.parametrize(
    "words",
    [
        ["jaxvid.fuse", "--help"],
        # Its flags are read before it loads what works with them.
        ["jaxvid.export", "--checkpoint=none", "--out=none"],
    ],
)
def test_a_command_that_is_still_imported_ends_quietly(words):
    process = subprocess.Popen(
        [sys.executable, "-m", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    # The package is what is imported first, JAX long after it.
    maps = pathlib.Path(f"/proc/{process.pid}/maps")
    while maps.exists() and process.poll() is None and "numpy" not in maps.read_text():
        time.sleep(0.001)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=100)
    assert (process.returncode, out, err) == (130, "", "")


# ---- the end of a command, in this process


def end_of(error, capsys):
    with pytest.raises(SystemExit) as end, exit_on_error():
        raise error
    return end.value.code, capsys.readouterr().err


def test_what_the_system_refuses_is_one_line(capsys):
    error = PermissionError(13, "Permission denied", "/a/\x1b[31mb")
    assert end_of(error, capsys) == (
        1,
        "error: /a/\\x1b[31mb: Permission denied: make room, or give another path\n",
    )
    code, said = end_of(OSError(28, "No space left on device"), capsys)
    assert code == 1 and "No space left on device" in said and said.count("\n") == 1


@pytest.mark.parametrize(
    "error", [KeyError("a"), OSError(9, "Bad file descriptor"), OSError("no number"), TypeError()]
)
def test_a_mistake_of_the_program_shows_where_it_is(error):
    with pytest.raises(type(error)), exit_on_error():
        raise error


def test_ctrl_c_ends_with_its_code_whatever_a_library_makes_of_it(capsys):
    try:
        assert end_of(KeyboardInterrupt(), capsys) == (130, "interrupted\n")
        wrapped = ImportError("initialisation failed")
        wrapped.__cause__ = KeyboardInterrupt()
        assert end_of(wrapped, capsys) == (130, "interrupted\n")
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def test_ctrl_c_in_a_finaliser_is_not_lost(monkeypatch):
    monkeypatch.setattr(sys, "unraisablehook", sys.__unraisablehook__)

    class Finalised:
        def __del__(self):
            raise KeyboardInterrupt

    try:
        with pytest.raises(SystemExit) as end, exit_on_error():
            Finalised()
            time.sleep(30)
        assert end.value.code == 130
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def test_a_broken_pipe_of_its_own_is_a_mistake_of_the_program():
    ours, theirs = os.pipe()
    os.close(ours)
    with pytest.raises(BrokenPipeError), exit_on_error():
        try:
            os.write(theirs, b"x")
        finally:
            os.close(theirs)
