"""Mutated and hostile files of every format, in a process of their own; see `fuzz.py`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "count, seed",
    [(300, 0), *(pytest.param(2000, n, marks=pytest.mark.slow("fuzz")) for n in (1, 2))],
)
def test_hostile_files_give_tensors_or_one_sentence_and_run_nothing(tmp_path, count, seed):
    command = [sys.executable, "-m", "tests.converters.fuzz", str(count), f"--seed={seed}"]
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"{count} files" in done.stdout
    assert ": read" in done.stdout
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    "count, seed",
    [(100, 0), *(pytest.param(2000, n, marks=pytest.mark.slow("fuzz")) for n in (1, 2))],
)
def test_hostile_words_are_read_as_they_were_or_refused(tmp_path, count, seed):
    command = [sys.executable, "-m", "tests.converters.fuzz_words", str(count), f"--seed={seed}"]
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"{count} words" in done.stdout
