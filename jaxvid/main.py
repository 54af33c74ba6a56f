"""The one command: train or test what a config says.

python -m jaxvid.main --config=configs/tsm_r50.py:runlocal --workdir=runs/tsm
python -m jaxvid.main --config=configs/zoo_row.py:name=NAME,init=DIR --mode=eval --workdir=runs/test
"""

import re
from typing import cast

import ml_collections
from absl import app, flags, logging
from ml_collections import config_flags

from jaxvid.base.errors import JaxvidError
from jaxvid.base.exits import exit_on_error
from jaxvid.config import loading
from jaxvid.devices import compiled, processes

_CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "A config file, with its arguments: configs/FILE.py:name=value,...; those of the library are "
    "found from any folder.",
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
    processes.join_processes()
    kept = compiled.keep()
    if kept:
        processes.log(f"compiled programs are kept in {kept}")
    workdir = cast(str, _WORKDIR.value)  # `run` requires it
    if _MODE.value == "eval":
        from jaxvid.inference.evaluate import evaluate

        evaluate(_CONFIG.value, workdir)
    else:
        from jaxvid.training.loop import train

        train(_CONFIG.value, workdir, _PROFILE.value)


def parse(argv: list[str]) -> list[str]:
    """Reads the flags as absl does, but says in one sentence what is wrong with them.

    Raises:
      JaxvidError: a flag or a field of the config does not exist, or its value is of another type.
    """
    argv, config = with_config(argv)
    try:
        return flags.FLAGS(argv)
    except JaxvidError:
        raise
    # Of a field that does not exist, ml_collections says so by one of Python's own errors.
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        reason = config and wrong_field(argv, config)
        if reason is None and not isinstance(error, flags.Error):
            raise
        said = str(error).splitlines()[0].rstrip(".")
        raise JaxvidError(reason or f"{said}: see python -m jaxvid.main --help") from error


def with_config(argv: list[str]) -> tuple[list[str], ml_collections.ConfigDict | None]:
    """The flags with the config's file as it is found, and the config as that file gives it."""
    given, config = list(argv), None
    for i, arg in enumerate(given):
        match = re.fullmatch("(--?config=)(.*)", arg, re.DOTALL)
        # `--config FILE` is absl's other spelling.
        if match or i and re.fullmatch("--?config", given[i - 1]):
            prefix, text = match.groups() if match else ("", arg)
            config = loading.load(text)
            path, argument = loading.find(text)
            given[i] = f"{prefix}{path}" + ("" if argument is None else f":{argument}")
    return given, config


def wrong_field(argv: list[str], config: ml_collections.ConfigDict) -> str | None:
    """What is wrong with the first field in `argv` that is not one of the config's."""
    from jaxvid.config import fields

    known = fields.names(config)
    matches = [re.match(r"--?config\.([^=]+)", arg) for arg in argv]
    for field in (match[1] for match in matches if match):
        group = [name for name in known if name.startswith(f"{field}.")]
        if group:
            return f"config.{field} is a group of fields: set one, such as config.{group[0]}"
        if field not in known and not field.startswith("model.overrides."):
            return fields.unknown(field, known)
    return None


def run() -> None:
    """The command's entry: wrong input ends it with one sentence and exit code 1."""
    flags.mark_flags_as_required(["config", "workdir"])
    # absl's own default shows what JAX notes to itself, such as that there is no TPU.
    flags.FLAGS["verbosity"].value = logging.WARNING
    with processes.failing_at_once(), exit_on_error():
        app.run(main, flags_parser=parse)


if __name__ == "__main__":
    run()
