"""Writes a `.pth` file that `torch.load(weights_only=True)` opens, without PyTorch."""

import io
import struct
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, cast

import numpy as np

from converters.described import DTYPES, STORAGES
from converters.names import in_order
from jaxvid.base import locks, paths, whole
from jaxvid.base.errors import JaxvidError

_ROOT = "checkpoint"
# PyTorch lays storages on this boundary, so that they can be mapped and used where they are.
_ALIGNMENT = 64
_LOCAL_HEADER_SIZE = 30
_STORAGE_NAMES = {np.dtype(STORAGES[name]): name for name in STORAGES if "Untyped" not in name}
_YOUNG_NAMES = {np.dtype(dtype): name for name, dtype in DTYPES.items()}


def write(
    path: str | Path,
    state_dict: Mapping[str, np.ndarray],
    meta: Mapping[str, Any],
    *,
    overwrite: bool = False,
) -> None:
    """Writes `{"state_dict": state_dict, "meta": meta}` to the file `path`, whole or not at all.

    `meta` holds strings, numbers, None, and lists and dicts of them. Raises `JaxvidError` where the
    file exists and `overwrite` is false, or cannot be written.
    """
    path = check_free(path, overwrite=overwrite)
    description = _describe(state_dict, meta)
    with locks.hold(path, "--out", beside=True):
        check_free(path, overwrite=overwrite)  # Another process may have written it meanwhile.
        try:
            with whole.file(path, durable=True) as file, zipfile.ZipFile(file, "w") as archive:
                _add(archive, "data.pkl", description)
                _add(archive, "byteorder", sys.byteorder.encode("ascii"))
                for number, array in enumerate(state_dict.values()):
                    _add(archive, f"data/{number}", _bytes(array))
                _add(archive, "version", b"3\n")
        except OSError as error:
            raise JaxvidError(
                f"cannot write {path} ({error.strerror}): make room or choose another --out"
            ) from error


def check_free(path: str | Path, *, overwrite: bool = False) -> Path:
    """Refuses a file that `write` could not write, before the work whose result it would hold."""
    path = paths.writable_file(path, "--out")
    if path.exists() and not overwrite:
        raise JaxvidError(f"{path} exists already: choose another --out or pass --overwrite")
    return path


def _add(archive: zipfile.ZipFile, name: str, data: bytes | memoryview) -> None:
    # A fixed date, so that the same weights make the same file.
    info = zipfile.ZipInfo(f"{_ROOT}/{name}", (1980, 1, 1, 0, 0, 0))
    start = cast(IO[bytes], archive.fp).tell() + _LOCAL_HEADER_SIZE + len(info.filename) + 4
    padding = -start % _ALIGNMENT
    info.extra = struct.pack("<2sH", b"FB", padding) + bytes(padding)
    archive.writestr(info, data)


def _bytes(array: np.ndarray) -> memoryview:
    if not array.size:
        return memoryview(b"")
    native = array.dtype.newbyteorder("=")
    if not array.flags.c_contiguous or array.dtype != native:
        array = in_order(array, native)
    return memoryview(array.reshape(-1).view(np.uint8))


def _describe(state_dict: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> bytes:
    """Returns the pickle of the file, in the few opcodes of protocol 2 that it takes."""
    out = io.BytesIO()
    out.write(b"\x80\x02}(")
    _put(out, "state_dict")
    out.write(b"ccollections\nOrderedDict\n)R(")
    for number, (key, array) in enumerate(state_dict.items()):
        _put(out, key)
        _put_tensor(out, number, array)
    out.write(b"u")
    _put(out, "meta")
    _put(out, dict(meta))
    out.write(b"u.")
    return out.getvalue()


def _put_tensor(out: io.BytesIO, number: int, array: np.ndarray) -> None:
    """Writes the call that PyTorch answers with a contiguous tensor over storage `number`."""
    dtype = array.dtype.newbyteorder("=")
    young = _YOUNG_NAMES.get(dtype)
    storage = "torch.storage.UntypedStorage" if young else _STORAGE_NAMES.get(dtype)
    if storage is None:
        raise JaxvidError(f"PyTorch has no tensors of type {array.dtype}")
    strides = [1]
    for size in reversed(array.shape[1:]):
        strides.insert(0, strides[0] * max(size, 1))
    _put_global(out, f"torch._utils._rebuild_tensor_v{3 if young else 2}")
    out.write(b"((")
    _put(out, "storage")
    _put_global(out, storage)
    _put(out, str(number))
    _put(out, "cpu")
    _put(out, array.nbytes if young else array.size)
    out.write(b"tQ")
    _put(out, 0)
    _put(out, tuple(array.shape))
    _put(out, tuple(strides[: array.ndim]))
    out.write(b"\x89ccollections\nOrderedDict\n)R")
    if young:
        _put_global(out, young)
    out.write(b"tR")


def _put_global(out: io.BytesIO, name: str) -> None:
    module, _, attribute = name.rpartition(".")
    out.write(f"c{module}\n{attribute}\n".encode("ascii"))


def _put(out: io.BytesIO, value: Any) -> None:
    match value:
        case None:
            out.write(b"N")
        case bool():
            out.write(b"\x88" if value else b"\x89")
        case int():
            data = value.to_bytes(9, "little", signed=True)
            out.write(b"\x8a\x09" + data)
        case float():
            out.write(b"G" + struct.pack(">d", value))
        case str():
            data = value.encode("utf-8", "surrogatepass")
            out.write(b"X" + struct.pack("<I", len(data)) + data)
        case tuple() | list():
            out.write(b"(" if isinstance(value, tuple) else b"](")
            for item in value:
                _put(out, item)
            out.write(b"t" if isinstance(value, tuple) else b"e")
        case dict():
            out.write(b"}(")
            for key, item in value.items():
                _put(out, key)
                _put(out, item)
            out.write(b"u")
        case _:
            raise TypeError(f"meta may not hold a {type(value).__name__}")
