"""Two commands at once in one place: see `races.py`, which these run."""

import os
import pathlib
import subprocess
import sys

import jax
import pytest

HERE = pathlib.Path(__file__).parent


def race(*arguments):
    environment = os.environ | {
        "PYTHONPATH": str(HERE.parent),
        "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir,
    }
    words = [sys.executable, HERE / "races.py", *arguments]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=3000)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_of_two_writers_one_is_told():
    said = race("--only=build, other;checkpoint, replaced;--to=torch", "--each=1")
    assert "3 races, 0 of them wrong" in said


@pytest.mark.slow("races")
def test_fifty_races_tear_nothing():
    assert " races, 0 of them wrong" in race()
