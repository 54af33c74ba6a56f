"""Every published video-recognition network on JAX, with its weights and its test protocol."""

import sys
from typing import TYPE_CHECKING, Any

if sys.argv[:1] == ["-m"]:  # One of its modules is about to be run as a command.
    from jaxvid.base.interrupts import leave_quietly_when_interrupted

    leave_quietly_when_interrupted()
if TYPE_CHECKING:
    from jaxvid.checkpoint import load as load_checkpoint
    from jaxvid.zoo import create_model, get_row, list_models

__version__ = "0.1.0"
__all__ = ["create_model", "get_row", "list_models", "load_checkpoint"]

_HOMES = {
    "create_model": ("jaxvid.zoo", "create_model"),
    "get_row": ("jaxvid.zoo", "get_row"),
    "list_models": ("jaxvid.zoo", "list_models"),
    "load_checkpoint": ("jaxvid.checkpoint", "load"),
}


def __getattr__(name: str) -> Any:
    """Loads a public name on first use, so that `import jaxvid` itself costs nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module 'jaxvid' has no attribute {name!r}")
    import importlib

    module, attribute = _HOMES[name]
    return getattr(importlib.import_module(module), attribute)
