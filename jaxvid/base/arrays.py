"""Numpy's `.npz` files from anywhere: nothing in one is believed before it is checked."""

import io
import math
import os
import pathlib
import zipfile
from typing import IO, Literal

import numpy as np

from jaxvid.base import stores

_TABLE = 1 << 20  # of what a zip file says of its members, and of each piece that is read of one
_SLACK, _RATIO = 64 << 20, 4  # what a file may inflate to: so many bytes, and so many times its own
_KINDS = "biufU"


class _Pieces(io.FileIO):
    """A file that is read in pieces: whoever asks for much at once follows a number in the file."""

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(_TABLE + 1 if size is None or size < 0 else min(size, _TABLE + 1))
        if len(data) > _TABLE:
            raise ValueError("its table of contents is longer than a megabyte")
        return data


def read_npz(path: str | os.PathLike, most: int) -> dict[str, np.ndarray]:
    """Reads all arrays of an `.npz`: numbers and text, stored or deflated, checksums checked.

    Raises `ValueError` with the reason where it is none, has Python objects, or is larger than
    `most` bytes, before that memory is taken; `FileNotFoundError` where there is none.
    """
    if isinstance(path, stores.StorePath):
        with stores.at_hand(path) as local:
            return read_npz(local, most)
    path = pathlib.Path(path)
    if not os.path.isfile(path):
        if os.path.lexists(path):
            raise ValueError("it is no file")
        raise FileNotFoundError(path)
    try:
        with _Pieces(path) as file, zipfile.ZipFile(file) as archive:
            room = min(most, _SLACK + _RATIO * path.stat().st_size)
            found: dict[str, np.ndarray] = {}
            for member in archive.infolist():
                name = member.filename.removesuffix(".npy")
                if name in found:
                    raise ValueError(f"it has {name!r:.80} twice")
                found[name] = _read_member(archive, member, room)
                room -= found[name].nbytes
            return found
    except MemoryError:
        raise ValueError("it does not fit into memory") from None
    except Exception as error:  # numpy, zipfile and zlib raise many kinds on a damaged file
        line = next(iter(str(error).splitlines()), "")
        raise ValueError(line or type(error).__name__) from None


def _read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, room: int) -> np.ndarray:
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{info.filename!r:.80} is compressed in a way that numpy does not")
    with archive.open(info) as member:
        shape, dtype, order = read_header(member, info.filename, info.file_size, room)
        array = np.empty(shape, dtype, order)
        flat = array.ravel(order="K")
        into, place = memoryview(flat.view(np.uint8) if array.nbytes else b""), 0
        while place < len(into):
            data = member.read(min(_TABLE, len(into) - place))
            if not data:
                raise ValueError(f"{info.filename!r:.80} is cut short")
            into[place : place + len(data)] = data
            place += len(data)
        if member.read(1):  # which also compares the checksum
            raise ValueError(f"{info.filename!r:.80} is longer than it says")
    if array.dtype.kind == "U" and array.nbytes and flat.view(np.uint32).max() > 0x10FFFF:
        raise ValueError(f"{info.filename!r:.80} has text that is none")
    return array


def read_header(
    file: IO[bytes], name: str, size: int, room: int
) -> tuple[tuple[int, ...], np.dtype, Literal["C", "F"]]:
    """Reads the head of an `.npy` file of `size` bytes: shape, dtype in native order, and order.

    Raises `ValueError` where the array would not fill the file, or take more than `room` bytes.
    """
    try:
        version = np.lib.format.read_magic(file)
        described = np.lib.format.read_array_header_1_0(file) if version == (1, 0) else None
    except Exception as error:  # it is parsed as Python, whose parsers raise many kinds
        raise ValueError(f"{name!r:.80} has a damaged head ({type(error).__name__})") from None
    if described is None:
        raise ValueError(f"{name!r:.80} is of another version of numpy's format")
    shape, fortran, dtype = described
    if dtype.hasobject:
        raise ValueError(f"{name!r:.80} holds Python objects, and allow_pickle is off")
    if dtype.kind not in _KINDS or not dtype.isnative or any(length < 0 for length in shape):
        raise ValueError(f"{name!r:.80} is of the kind {dtype}")
    count = math.prod(shape)
    head = file.tell()
    if head + count * dtype.itemsize != size:
        raise ValueError(f"{name!r:.80} is not as long as its shape {list(shape)!r:.80} says")
    if max(count, size) > room:
        raise ValueError(f"{name!r:.80} of {max(count, size)} bytes is more than may be read")
    return shape, dtype, "F" if fortran else "C"
