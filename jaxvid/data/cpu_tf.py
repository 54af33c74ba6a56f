"""TensorFlow as the input pipeline uses it: on the CPU, leaving the accelerators to JAX.

It is loaded when it is first used, as that takes seconds: a prediction does without.
"""

import functools
import importlib.util
import os
from types import ModuleType
from typing import TYPE_CHECKING, Any

from jaxvid.base.errors import JaxvidError

if importlib.util.find_spec("tensorflow") is None:
    raise JaxvidError(
        "reading videos needs TensorFlow, which is not installed: install the extra, "
        "pip install 'jaxvid[data]'"
    )


@functools.cache
def load() -> ModuleType:
    """TensorFlow itself, with its settings.

    Raises:
      JaxvidError: it is installed and cannot be loaded.
    """
    # JAX sets 1, where it is imported first: then TensorFlow logs what it also raises.
    if os.environ.get("TF_CPP_MIN_LOG_LEVEL", "1") == "1":
        os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
    # oneDNN speeds up nothing that is used here and prints a notice on every start.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    try:
        import tensorflow  # its settings are read while importing
    except ImportError as error:
        raise JaxvidError(
            f"reading videos needs TensorFlow ({error}): install it again, "
            "pip install --force-reinstall 'jaxvid[data]'"
        ) from error
    tensorflow.config.set_visible_devices([], "GPU")
    return tensorflow


class _Late:
    """What TensorFlow has, from when it is first asked for."""

    def __getattr__(self, name: str) -> Any:
        value = getattr(load(), name)
        setattr(self, name, value)  # so that Python finds it by itself from now on
        return value


if TYPE_CHECKING:
    import tensorflow as tf
else:
    tf = _Late()

__all__ = ["load", "tf"]
