"""Config files: where one lies, in a clone or an installed package, and what it gives."""

import pathlib
import runpy
import traceback

import ml_collections

from jaxvid.base import paths
from jaxvid.base.errors import JaxvidError

_PACKAGE = pathlib.Path(__file__).parents[1]
# Installed, configs lie in the package; in a clone, beside it.
_SHIPPED = (_PACKAGE / "configs", _PACKAGE.parent / "configs")


def find(text: str) -> tuple[pathlib.Path, str | None]:
    """The file that `FILE.py:name=value,...` names, and what stands after its colon.

    `configs/FILE.py` is one of the library's own, from any folder, unless there is such a file.

    Raises:
      JaxvidError: there is no such file.
    """
    name, colon, argument = text.partition(":")
    path = paths.local(name, "--config")
    if path.suffix == ".py" and path.is_file():
        return path, argument if colon else None
    if path.suffix == ".py" and path.parent == pathlib.Path("configs"):
        for folder in _SHIPPED:
            if (folder / path.name).is_file():
                return folder / path.name, argument if colon else None
    shipped = {f"configs/{file.name}" for folder in _SHIPPED for file in folder.glob("[!_]*.py")}
    raise JaxvidError(
        f"--config={name} is no config file: give one of your own or one of the library's, "
        f"{', '.join(sorted(shipped))}"
    )


def load(text: str) -> ml_collections.ConfigDict:
    """The config that `FILE.py:name=value,...` gives.

    Raises:
      JaxvidError: there is no such file, or it fails; the line at which it did is named.
    """
    path, argument = find(text)
    try:
        names = runpy.run_path(str(path))
        if "get_config" not in names:
            raise JaxvidError(f"--config={path} has no function get_config: write one")
        config = names["get_config"](*([] if argument is None else [argument]))
    except JaxvidError:
        raise
    except Exception as error:
        raise _failed(path, error) from error
    if not isinstance(config, ml_collections.ConfigDict):
        raise JaxvidError(
            f"get_config of --config={path} gives a {type(config).__name__}: let it return a "
            "ConfigDict, such as that of jaxvid.config.from_row"
        )
    return config


def _failed(path: pathlib.Path, error: Exception) -> JaxvidError:
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename == str(path)
    ]
    line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else None
    where = f" at its line {line}" if line else ""
    reason = str(error.msg if isinstance(error, SyntaxError) else error) or "no reason given"
    return JaxvidError(
        f"--config={path} fails{where} with {type(error).__name__} ({reason.splitlines()[0]}): "
        "correct it there"
    )
