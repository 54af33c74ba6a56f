"""`--help` of every command says what it does without loading what the command works with."""

import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
COMMANDS = [
    *("jaxvid.main", "jaxvid.predict", "jaxvid.export", "jaxvid.plan", "jaxvid.bench"),
    *("jaxvid.zoo", "jaxvid.fuse", "jaxvid.probe"),
    *("jaxvid.data.build", "jaxvid.data.bench", "jaxvid.data.prepare", "jaxvid.data.verify"),
    *("jaxvid.data.view", "converters"),
]
HEAVY = ("jax", "tensorflow", "flax", "orbax", "matplotlib")
CODE = """
import runpy, sys
sys.argv = [sys.argv[1], "--help"]
try:
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
finally:
    print(sorted({name.partition(".")[0] for name in sys.modules}), file=sys.stderr)
"""


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_quick(command):
    words = [sys.executable, "-c", CODE, command]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert "--" in done.stdout, done.stderr
    loaded = set(eval(done.stderr.splitlines()[-1]))
    assert not loaded & set(HEAVY)
