"""What commands with a config say beside their answers."""

import subprocess
import sys

import pytest

SAYS = """
import logging
from jaxvid.config import command

def main(argv):
    logging.getLogger("jaxvid.layers.position").info("a table was resized")
    logging.getLogger("somebody.else").info("a note to itself")
    logging.getLogger("somebody.else").warning("a warning")

command.run(main, "a_command", [])
"""


@pytest.mark.parametrize(
    "flags, heard", [([], [True, False, True]), (["--verbosity=0"], [True, True, True])]
)
def test_others_are_heard_where_they_warn(flags, heard):
    done = subprocess.run(
        [sys.executable, "-c", SAYS, *flags], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    said = ["a table was resized", "a note to itself", "a warning"]
    assert [words in done.stderr for words in said] == heard
