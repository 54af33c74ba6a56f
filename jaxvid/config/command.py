"""The flags of commands that take `--config=FILE.py:...` and `--config.FIELD=...`."""

import ast
import functools
import logging
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

import ml_collections
from absl import app, flags
from absl import logging as absl_logging
from ml_collections import config_flags

from jaxvid.base.errors import JaxvidError
from jaxvid.config import loading


def config_flag() -> flags.FlagHolder[ml_collections.ConfigDict]:
    """Defines `--config`, and `--config.FIELD` for all of its fields."""
    return config_flags.DEFINE_config_file(
        "config",
        None,
        "A config file, with its arguments: configs/FILE.py:name=value,...; those of the library "
        "are found from any folder.",
    )


def run(main: Callable[[list[str]], None], name: str, required: Sequence[str]) -> None:
    """Runs the command `name`, which cannot do without the flags `required`."""
    flags.mark_flags_as_required(required)
    # absl's own default shows what others note to themselves, such as JAX that there is no TPU. It
    # takes that up again after parsing, unless this seems to have been given.
    flags.FLAGS["verbosity"].value = absl_logging.WARNING
    flags.FLAGS["verbosity"].using_default_value = False
    logging.getLogger("jaxvid").setLevel(logging.INFO)
    app.run(main, flags_parser=functools.partial(parse, name=name))


def parse(argv: list[str], name: str) -> list[str]:
    """Reads the flags of the command `name` as absl does, but says in one sentence what is wrong.

    Raises:
      JaxvidError: a flag or a field of the config does not exist, or its value is of another type.
    """
    argv, config = with_config(argv)
    argv, overrides = without_overrides(argv)
    started, sys.argv = sys.argv, argv  # where ml_collections looks for fields
    try:
        left = flags.FLAGS(argv)
    except JaxvidError:
        raise
    # Of a field that does not exist, ml_collections says so by one of Python's own errors.
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        reason = config and wrong_field(argv, config)
        if reason is None and not isinstance(error, flags.Error):
            raise
        said = str(error).splitlines()[0].rstrip(".")
        raise JaxvidError(reason or f"{said}: see python -m {name} --help") from error
    finally:
        sys.argv = started
    if overrides:
        with flags.FLAGS.config.unlocked():
            flags.FLAGS.config.model.overrides.update(overrides)
    return left


def without_overrides(argv: list[str]) -> tuple[list[str], dict[str, Any]]:
    """The flags but for `--config.model.overrides.FIELD=VALUE`, and the values of these.

    They are fields of the network, which a config need not name before one is set.
    """
    left, overrides = [], {}
    for arg in argv:
        match = re.fullmatch(r"--?config\.model\.overrides\.(\w+)=(.*)", arg, re.DOTALL)
        if not match:
            left.append(arg)
            continue
        try:
            overrides[match[1]] = ast.literal_eval(match[2])
        except (SyntaxError, ValueError):
            overrides[match[1]] = match[2]
    return left, overrides


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
    # Here, because it reads the zoo, which `--help` can do without.
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
