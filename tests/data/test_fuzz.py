"""Mutated and hostile records and videos, in a process of their own; see `fuzz.py`."""

import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.parametrize(
    "what, count, seed",
    [
        ("records", 40, 0),
        ("videos", 15, 0),
        ("streams", 15, 0),
        pytest.param("records", 2000, 2, marks=pytest.mark.slow("fuzz")),
        pytest.param("videos", 500, 2, marks=pytest.mark.slow("fuzz")),
        pytest.param("streams", 500, 2, marks=pytest.mark.slow("fuzz")),
        pytest.param("lists", 1000, 2, marks=pytest.mark.slow("fuzz")),
        pytest.param("scores", 1000, 2, marks=pytest.mark.slow("fuzz")),
    ],
)
def test_hostile_files_give_clips_or_one_sentence_and_run_nothing(tmp_path, what, count, seed):
    command = [sys.executable, "-m", "tests.data.fuzz", what, str(count), f"--seed={seed}"]
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"{count} {what}, slowest" in done.stdout
    assert ": read" in done.stdout and ": refused" in done.stdout
    assert not any(tmp_path.iterdir())
