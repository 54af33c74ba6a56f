"""Reads `.safetensors` files: a JSON description in front, then the bytes of the tensors.

The format is small enough to be read here, as views of the mapped file. Its own library, beside
which `tests/converters/test_safetensors.py` holds this, copies each tensor and takes a name twice.
"""

import math
from typing import Any

import ml_dtypes
import numpy as np

from converters.mapped import MAX_DIMENSIONS, Mapped
from jaxvid.base import jsons
from jaxvid.base.errors import JaxvidError

DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U64": np.uint64,
    "U32": np.uint32,
    "U16": np.uint16,
    "U8": np.uint8,
    "BOOL": np.bool_,
    "C64": np.complex64,
}
# A tensor takes about 100 bytes of description; the format itself allows 100 MB.
MAX_HEADER = 16 << 20


def is_safetensors(head: bytes) -> bool:
    """Says whether a file that begins with these 9 bytes or more may be of this format."""
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 40


def read(file: Mapped) -> dict[str, np.ndarray]:
    """Returns the tensors by name, views of the file in the order of its description.

    Raises `JaxvidError` where tensors overlap, leave gaps or reach beyond the file, as the format
    forbids.
    """
    size = int.from_bytes(file.read(0, 8), "little")
    if size > file.size - 8:
        raise file.damaged("its description is cut off")
    if size > MAX_HEADER:
        raise file.damaged(f"its description is {size >> 20} MiB long")
    try:
        header = jsons.parse(bytes(file.read(8, size)))
        if not isinstance(header, dict):
            raise ValueError("it is no object")
    except ValueError as error:
        raise file.damaged(f"its description makes no sense: {error}") from error
    header.pop("__metadata__", None)
    data = file.memory[8 + size :]
    tensors, ranges = {}, []
    for name, described in header.items():
        dtype, shape, start, end = _entry(file, name, described)
        if not 0 <= start <= end <= len(data) or math.prod(shape) * dtype.itemsize != end - start:
            raise file.damaged(f"{name[:100]!r} does not lie where its shape says")
        ranges.append((start, end))
        tensors[name] = file.array(file.native(data[start:end], dtype), dtype, shape)
    position = 0
    for start, end in sorted(ranges):
        if start != position:
            raise file.damaged("its tensors overlap or leave gaps")
        position = end
    if position != len(data):
        raise file.damaged("its tensors end before the file does")
    return tensors


def _entry(file: Mapped, name: str, described: Any) -> tuple[np.dtype, list[int], int, int]:
    try:
        kind, shape, offsets = (described[key] for key in ("dtype", "shape", "data_offsets"))
        start, end = offsets
        numbers = [*shape, start, end]
    except (LookupError, TypeError, ValueError) as error:
        raise file.damaged(f"the description of {name[:100]!r} makes no sense") from error
    if len(shape) > MAX_DIMENSIONS:
        raise file.damaged(f"{name[:100]!r} has more than {MAX_DIMENSIONS} dimensions")
    if not all(type(number) is int and 0 <= number < 1 << 48 for number in numbers):
        raise file.damaged(f"the description of {name[:100]!r} makes no sense")
    if not isinstance(kind, str) or kind not in DTYPES:
        raise JaxvidError(
            f"{name[:100]!r} of {file.path} is of type {str(kind)[:20]!r}, which is not read: save "
            "it as F32"
        )
    return np.dtype(DTYPES[kind]), list(shape), start, end
