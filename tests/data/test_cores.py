"""The cores that a process may use are those that it was given, not the machine's."""

import os
import subprocess
import sys

import pytest

from jaxvid.data.cores import usable_cores

CODE = "from jaxvid.data.cores import usable_cores; print(usable_cores())"


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system cannot be asked")
def test_a_process_that_is_held_to_one_core_has_one():
    done = subprocess.run(
        [sys.executable, "-c", CODE],
        preexec_fn=lambda: os.sched_setaffinity(0, [min(os.sched_getaffinity(0))]),
        capture_output=True,
        text=True,
    )
    assert done.stdout == "1\n", done.stderr


@pytest.mark.parametrize("count, cores", [(3, 3), (None, 1)])
def test_a_system_without_affinity_has_all(monkeypatch, count, cores):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: count)
    assert usable_cores() == cores
