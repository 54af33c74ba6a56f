"""From PyTorch checkpoints of the zoo's tables to ours and back, without PyTorch."""

import sys
from typing import TYPE_CHECKING, Any

if sys.argv[:1] == ["-m"]:  # It is about to be run as a command.
    from jaxvid.base.interrupts import leave_quietly_when_interrupted

    leave_quietly_when_interrupted()
if TYPE_CHECKING:
    from converters.checkpoints import convert, to_torch
    from converters.images import inflate

__all__ = ["convert", "inflate", "to_torch"]


def __getattr__(name: str) -> Any:
    """Loads a public name on first use, so that `import converters` itself costs nothing."""
    if name not in __all__:
        raise AttributeError(f"module 'converters' has no attribute {name!r}")
    from converters import checkpoints, images

    return getattr(images if name == "inflate" else checkpoints, name)
