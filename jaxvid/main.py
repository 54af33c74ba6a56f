"""The one command: train or test what a config says.

python -m jaxvid.main --config=configs/tsm_r50.py:runlocal --workdir=runs/tsm
python -m jaxvid.main --config=configs/zoo_row.py:name=NAME,init=DIR --mode=eval --workdir=runs/test
"""

from typing import cast

from absl import app, flags

from jaxvid.base.errors import JaxvidError
from jaxvid.base.exits import exit_on_error
from jaxvid.config import command

_CONFIG = command.config_flag()
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder for checkpoints, logs and results; a run found there goes on."
)
_MODE = flags.DEFINE_enum(
    "mode",
    "train",
    ["train", "eval"],
    "train (and test as it goes), or test config.init, else the workdir's best checkpoint.",
)

_PROFILE = flags.DEFINE_string(
    "profile",
    "",
    "START:STOP, steps of a training of which a profile is written into the workdir, as the log "
    "numbers them.",
)


def main(argv: list[str]) -> None:
    """Reads the flags and calls the room that does the work."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {' '.join(argv[1:])}")
    if _MODE.value == "eval" and _PROFILE.value:
        raise JaxvidError("--profile is of the steps of a training: leave out --mode=eval, or it")
    from jaxvid.devices import compiled, processes  # JAX with them, which --help does without

    with processes.failing_at_once(), exit_on_error():
        processes.join_processes()
        kept = compiled.keep()
        if kept:
            processes.log(f"compiled programs are kept in {kept}")
        _work(cast(str, _WORKDIR.value))  # `run` requires it


def _work(workdir: str) -> None:
    if _MODE.value == "eval":
        from jaxvid.inference.evaluate import evaluate

        evaluate(_CONFIG.value, workdir)
    else:
        from jaxvid.training.loop import train

        train(_CONFIG.value, workdir, _PROFILE.value)


def run() -> None:
    """The command's entry: wrong input ends it with one sentence and exit code 1."""
    with exit_on_error():
        command.run(main, "jaxvid.main", ["config", "workdir"])


if __name__ == "__main__":
    run()
