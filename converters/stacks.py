"""Layers that a file of Flax holds as one: arrays of all, one behind another, by scanned modules.

`KEY[3]` is the fourth layer's part of KEY.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

# What Praxis calls the module that it scans over.
_SCANNED = re.compile(r"(.+/)?x_layers/.+")
_LAYER = re.compile(r"(.+)\[(\d{1,4})\]")


def apart(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the tensors with those of scanned layers apart, as views."""
    found: dict[str, Any] = {}
    for key, tensor in tensors.items():
        if _SCANNED.fullmatch(key) and np.ndim(tensor):
            found |= {f"{key}[{layer}]": part for layer, part in enumerate(np.asarray(tensor))}
        else:
            found[key] = tensor
    return found


def together(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the tensors with those of scanned layers put together: the way back of `apart`."""
    layers: dict[str, dict[int, np.ndarray]] = {}
    found = {}
    for key, tensor in tensors.items():
        part = _LAYER.fullmatch(key)
        if part and _SCANNED.fullmatch(part[1]):
            layers.setdefault(part[1], {})[int(part[2])] = tensor
        else:
            found[key] = tensor
    return found | {key: np.stack([of[i] for i in sorted(of)]) for key, of in layers.items()}
