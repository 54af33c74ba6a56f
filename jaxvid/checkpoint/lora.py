"""Low-rank factors of kernels (LoRA), and the base that a checkpoint of them lies on.

See Hu et al., "LoRA: Low-rank adaptation of large language models", ICLR 2022. Beside the kernel W
at `.../kernel`, seen as a matrix [in, out], stand A [in, r] at `.../kernel_lora_a` and B [r, out]
at `.../kernel_lora_b`; the network's kernel is W + scale * A B.
"""

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jaxvid.checkpoint import sums

A, B = "_lora_a", "_lora_b"


def merged(
    arrays: Mapping[str, Any], scale: float, product: Callable[..., Any] = np.matmul
) -> dict[str, Any]:
    """Arrays by their paths, with factors put into their kernels: those of an ordinary network."""
    whole = {path: array for path, array in arrays.items() if not path.endswith((A, B))}
    for path in arrays:
        if path.endswith(A):
            name = path.removesuffix(A)
            change = product(arrays[path], arrays[name + B]).reshape(whole[name].shape)
            whole[name] = whole[name] + scale * change
    return whole


def digest(arrays: Mapping[str, np.ndarray]) -> str:
    """Digits that change with any bit of any of the arrays, and with their names."""
    total = hashlib.sha256()
    for name, found in sorted(sums.of(dict(arrays)).items()):
        total.update(f"{name} {found}\n".encode())
    return total.hexdigest()[:16]
