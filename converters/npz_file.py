"""Reads numpy's `.npz` files: a zip archive with one array per member."""

import math
import re
import struct
import zipfile
import zlib
from collections.abc import Mapping

import numpy as np

from converters import torch_file
from converters.mapped import MAX_DIMENSIONS, Mapped
from jaxvid.base.errors import JaxvidError

# Python 2 wrote `3L` for a long 3.
_HEADER = re.compile(
    rb"\{'descr': '([<>|=]?)([^']{1,20})', 'fortran_order': (True|False), "
    rb"'shape': \(((?:\d{1,15}L?,? ?)*)\), ?\}\s*"
)
_TYPE = re.compile(r"b1|[iu][1248]|f[248]|c8|c16")
_MAX_HEADER = 1 << 16
# Weights hardly compress; what expands further than this is a bomb, or as good as one.
MAX_RATIO = 8
_SMALL = 64 << 20


def read(file: Mapped, members: Mapping[str, zipfile.ZipInfo]) -> dict[str, np.ndarray]:
    """Returns the arrays by name; views of the file where it is not compressed."""
    expanded = sum(m.file_size for m in members.values() if m.compress_type)
    if expanded > max(_SMALL, MAX_RATIO * file.size):
        raise JaxvidError(
            f"{file.path} would grow to {expanded >> 20} MiB, which weights never do: check where "
            "it comes from"
        )
    arrays = {}
    for name, member in members.items():
        if not name.endswith(".npy"):
            raise JaxvidError(f"{file.path} holds {name[:100]!r}, which is no array of numpy's")
        arrays[name.removesuffix(".npy")] = _array(file, name[:100], _member(file, member))
    return arrays


def _member(file: Mapped, member: zipfile.ZipInfo) -> memoryview:
    if member.compress_type != zipfile.ZIP_DEFLATED or member.flag_bits & 1:
        return torch_file.member_bytes(file, member)
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
    packed = file.fetch(torch_file.raw_bytes(file, member))
    try:
        data = unpacker.decompress(packed, member.file_size + 1)
    except zlib.error as error:
        raise file.damaged(f"{member.filename[:100]!r} cannot be unpacked") from error
    if len(data) != member.file_size or zlib.crc32(data) != member.CRC:
        raise file.damaged(f"the sum of {member.filename[:100]!r} is wrong")
    return memoryview(data)


def _array(file: Mapped, name: str, data: memoryview) -> np.ndarray:
    head = bytes(file.fetch(data[: 12 + _MAX_HEADER]))
    if head[:6] != b"\x93NUMPY" or head[6:7] not in (b"\1", b"\2", b"\3"):
        raise file.damaged(f"{name!r} does not begin as an array does")
    length = struct.Struct("<H" if head[6] == 1 else "<I")
    start = 8 + length.size
    size = length.unpack(head[8:start])[0] if len(head) >= start else 0
    header = _HEADER.fullmatch(head[start : start + min(size, _MAX_HEADER)])
    if header is None:
        raise file.damaged(f"the description of {name!r} makes no sense")
    order, kind, columns_first, sizes = (group.decode("latin-1") for group in header.groups())
    if not _TYPE.fullmatch(kind):
        raise JaxvidError(
            f"{name!r} of {file.path} is of type {kind!r}, which is not read: save numbers only"
        )
    dtype = np.dtype(kind)
    shape = [int(size) for size in re.findall(r"\d+", sizes)]
    if len(shape) > MAX_DIMENSIONS:
        raise file.damaged(f"{name!r} has more than {MAX_DIMENSIONS} dimensions")
    data = data[start + size :]
    if len(data) != math.prod(shape) * dtype.itemsize:
        raise file.damaged(f"{name!r} is not as long as its shape says")
    data = file.native(data, dtype, "big" if order == ">" else "little")
    if columns_first == "True":
        return file.array(data, dtype, shape[::-1]).T
    return file.array(data, dtype, shape)
