"""The command line: what is wrong with its flags is said in one sentence."""

import pathlib
import subprocess
import sys

import pytest

from jaxvid.config import command

ROOT = pathlib.Path(__file__).parent.parent
CONFIG = f"--config={ROOT}/configs/tsm_r50.py:runlocal"


@pytest.mark.parametrize(
    "flag, words",
    [
        ("--config.optim.lrr=1", "config.optim.lrr is unknown: did you mean config.optim.lr?"),
        ("-config.optim.lrr=1", "config.optim.lrr is unknown: did you mean config.optim.lr?"),
        ("--config.batch_size=4", "config.batch_size is unknown: did you mean config.test.batch_s"),
        ("--config.optim=sgd", "config.optim is a group of fields: set one, such as config.optim."),
    ],
)
def test_fields_that_do_not_exist(flag, words):
    assert command.wrong_field(*command.with_config(["main", CONFIG, flag])).startswith(words)


def test_fields_that_exist():
    flags = ["--config.optim.lr=1", "--config.model.overrides.width=8", "--workdir=x"]
    assert command.wrong_field(*command.with_config(["main", CONFIG, *flags])) is None
    assert command.with_config(["main", "--workdir=x"]) == (["main", "--workdir=x"], None)


@pytest.mark.parametrize("given", [["--config=F:name=a"], ["-config", "F:name=a"], ["--config=F"]])
def test_a_config_is_found_however_it_is_spelt(given, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from jaxvid.config import from_row\n"
        "def get_config(arg='none'): return from_row('tsm_test', init=arg)\n"
    )
    argv = ["main", *(arg.replace("F", str(file)) for arg in given), "--workdir=x"]
    found, config = command.with_config(argv)
    assert found == argv and config.init == ("name=a" if ":" in given[-1] else "none")


@pytest.mark.parametrize(
    "flag, words",
    [
        ("--config.optim.lrr=1", "error: config.optim.lrr is unknown: did you mean config.optim."),
        ("--config.optim.lr=fast", "error: flag --config.optim.lr=fast: could not convert string"),
        ("--config.optim.lr=-1", "error: config.optim.lr=-1.0 must be at least 0"),
    ],
)
def test_the_command_ends_with_one_line(flag, words, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "jaxvid.main", CONFIG, f"--workdir={tmp_path}/run", flag],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=300,
    )
    lines = done.stderr.strip().splitlines()
    assert done.returncode == 1 and lines[-1].startswith(words), done.stderr
    assert "Traceback" not in done.stderr and not (tmp_path / "run").exists()


def test_a_profile_of_a_test_is_refused(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "jaxvid.main", CONFIG, f"--workdir={tmp_path}/run"]
        + ["--mode=eval", "--profile=1:2"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=300,
    )
    assert done.returncode == 1
    assert done.stderr == (
        "error: --profile is of the steps of a training: leave out --mode=eval, or it\n"
    )


def test_fields_of_the_network_are_set_where_the_config_has_none_yet():
    flags = ["main", "--config.model.overrides.scan_blocks=True", "--workdir=x"]
    assert command.without_overrides(flags) == (["main", "--workdir=x"], {"scan_blocks": True})
    assert command.without_overrides(["-config.model.overrides.attention=joint"])[1] == {
        "attention": "joint"
    }
