"""Tensors that a network has no use for, kept in jaxvid.json for the way back to PyTorch."""

import base64
import math
import zlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from converters.mapped import MAX_DIMENSIONS, fetched
from jaxvid.base.errors import JaxvidError

# What may be kept, before and after it was compressed.
MAX_DROPPED_BYTES = 64 << 20
MAX_PACKED_BYTES = 16 << 20
AGAIN = "copy the checkpoint or convert it again"
"""What to do where jaxvid.json is damaged."""


def pack(tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Returns dropped tensors as JSON: integers as they are, others as compressed text."""
    size = sum(tensor.nbytes for tensor in tensors.values())
    if size > MAX_DROPPED_BYTES:
        raise JaxvidError(f"{size >> 20} MiB of tensors would be dropped: check --model")
    packed: dict[str, Any] = {}
    left = MAX_PACKED_BYTES
    for key, tensor in tensors.items():
        tensor = fetched(tensor)
        if tensor.shape == () and tensor.dtype == np.int64:
            packed[key] = int(tensor)
            continue
        data = base64.b64encode(zlib.compress(np.ascontiguousarray(tensor).tobytes()))
        left -= len(data)
        if left < 0:
            raise JaxvidError(
                f"over {MAX_PACKED_BYTES >> 20} MiB of tensors would be dropped: check --model"
            )
        shape = list(tensor.shape)
        packed[key] = {"dtype": tensor.dtype.name, "shape": shape, "zlib": data.decode("ascii")}
    return packed


def unpack(packed: Any) -> dict[str, np.ndarray]:
    """Returns what `pack` was given, and unpacks no more than it would have taken."""
    if not isinstance(packed, dict):
        raise JaxvidError(f"jaxvid.json is damaged (dropped): {AGAIN}")
    tensors, left = {}, MAX_DROPPED_BYTES
    for key, value in packed.items():
        try:
            if type(value) is int:
                tensors[key] = np.array(value, np.int64)
                continue
            dtype, shape = jax.numpy.dtype(value["dtype"]), tuple(value["shape"])
            if len(shape) > MAX_DIMENSIONS or not all(type(n) is int and n >= 0 for n in shape):
                raise ValueError("a shape that is none")
            size = dtype.itemsize * math.prod(shape)
            left -= size
            if left < 0:
                raise ValueError("too large")
            unpacker = zlib.decompressobj()
            data = unpacker.decompress(base64.b64decode(value["zlib"]), size + 1)
            tensors[key] = np.frombuffer(data, dtype).reshape(shape)
        except (LookupError, TypeError, ValueError, OverflowError, zlib.error) as error:
            raise JaxvidError(
                f"the dropped tensor {key[:200]!r} in jaxvid.json is damaged: {AGAIN}"
            ) from error
    return tensors
