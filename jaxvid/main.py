"""The one command: train or test what a config says.

python -m jaxvid.main --config=configs/tsm_r50.py:runlocal --workdir=runs/tsm
python -m jaxvid.main --config=configs/zoo_row.py:name=NAME,init=DIR --mode=eval --workdir=runs/test
"""

import sys

from absl import app, flags, logging
from ml_collections import config_flags

from jaxvid import sharding
from jaxvid.errors import exit_on_error

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "A config file, with its arguments: configs/FILE.py:name=value,..."
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder for checkpoints, logs and results; a run found there goes on."
)
_MODE = flags.DEFINE_enum(
    "mode",
    "train",
    ["train", "eval"],
    "train (and test as it goes), or test config.init, else the workdir's best checkpoint.",
)


def main(argv: list[str]) -> None:
    """Reads the flags and calls the room that does the work."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {' '.join(argv[1:])}")
    sharding.join_processes()
    if _MODE.value == "eval":
        from jaxvid.evaluate import evaluate as work
    else:
        from jaxvid.train import train as work
    work(_CONFIG.value, _WORKDIR.value)


def run() -> None:
    """The command's entry: wrong input ends it with one sentence and exit code 1."""
    flags.mark_flags_as_required(["config", "workdir"])
    # absl's own default shows what JAX notes to itself, such as that there is no TPU.
    flags.FLAGS.verbosity = logging.WARNING
    with sharding.failing_at_once(), exit_on_error():
        app.run(main)


if __name__ == "__main__":
    sys.exit(run())
