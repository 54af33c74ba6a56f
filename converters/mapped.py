"""A file as memory: arrays say where they lie in it, so nothing is allocated on its word."""

import hashlib
import math
import mmap
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxvid.base import paths, regular
from jaxvid.base.errors import JaxvidError

MAX_DIMENSIONS = 32
# Bytes are read once each, and those that must be rewritten to be used (swapped, decoded) copied
# once more; a file that wants more than that points at the same bytes over and over.
_MAX_COPIES = 3
_SMALL = 64 << 20
_CHUNK = 16 << 20
_AT_ONCE = 1 << 30  # What some systems read in one call at most.
_LARGE = 1 << 20
# Eight digits of a sum, as OpenMMLab and torchvision write it; dates look like it, but are dates.
_SUM = re.compile(r"[-_]((?!20[0-3]\d[01]\d[0-3]\d\.)[0-9a-f]{8})\.\w+$")


class _FileMap(mmap.mmap):
    """The map of a file: it says where arrays lie, and what they hold is read by `fetch`.

    To touch it would end the process without a word where the file was cut meanwhile.
    """

    file: "Mapped"


class Mapped:
    """A file that is read where it lies. `memory` stands for all of it; `size` is in bytes.

    What lies in `memory` is described there and fetched by `read` and `fetch`, so that a file that
    is cut or written to meanwhile is an error and not the end of the process.
    """

    def __init__(self, path: str | Path):
        self.path = paths.local(path, "path")
        try:
            self._file = regular.open_to_read(self.path)
            self._found = self._state()
            self.size = self._found[0]
            if not self.size:
                raise JaxvidError(f"{path} is empty: download it again")
            self._map = _FileMap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
        except (FileNotFoundError, IsADirectoryError):
            raise JaxvidError(f"there is no file {path}: check --checkpoint") from None
        except (OSError, ValueError) as error:
            if isinstance(error, JaxvidError):
                raise
            reason = getattr(error, "strerror", None) or error
            raise JaxvidError(f"cannot read {path} ({reason}): check --checkpoint") from error
        self._map.file = self
        self.memory = memoryview(self._map)
        self._lock = threading.Lock()
        self._copied = 0
        self._sha256 = ""
        self._checks: list[Callable[[], None]] = []

    def read(self, start: int, size: int) -> memoryview:
        """Returns bytes of the file, as many as there are at `start`, in memory of their own."""
        size = max(0, min(size, self.size - start)) if start >= 0 else 0
        data = empty(size)
        self._fill(data, start)
        return memoryview(data)

    def fetch(self, data: memoryview) -> memoryview:
        """Returns a copy of part of `memory`; what is in memory already is returned as it is."""
        if not isinstance(data.obj, _FileMap):
            return data
        return self.read(self._start(data), len(data))

    def _fill(self, data: np.ndarray, start: int) -> None:
        """Reads until the bytes `data` are full; the file should not change meanwhile."""
        filled = 0
        while filled < len(data):
            piece = memoryview(data)[filled : filled + _AT_ONCE]
            try:
                count = self._read_into(piece, start + filled)
            except OSError as error:
                raise JaxvidError(f"cannot read {self.path} ({error.strerror})") from error
            if not count:
                raise self._changed()
            filled += count

    def _read_into(self, piece: memoryview, start: int) -> int:
        if hasattr(os, "preadv"):
            return os.preadv(self._file.fileno(), [piece], start)
        with self._lock:  # Windows, where a file has one place at which all threads read.
            self._file.seek(start)
            return self._file.readinto(piece)

    def _start(self, data: memoryview) -> int:
        """Returns where in the file part of `memory` lies."""
        return _address(data) - _address(self.memory) if len(data) else 0

    def _state(self) -> tuple[int, int]:
        found = os.fstat(self._file.fileno())
        return found.st_size, found.st_mtime_ns

    def _changed(self) -> JaxvidError:
        return JaxvidError(
            f"{self.path} was written to or cut while it was read: wait until it is whole, then "
            "give it again"
        )

    def sha256(self) -> str:
        """Returns the sum of the whole file, in hexadecimal digits."""
        if not self._sha256:
            digest = hashlib.sha256()
            for chunk in self.chunks(self.memory):
                digest.update(chunk)
            self._sha256 = digest.hexdigest()
        return self._sha256

    def chunks(self, data: memoryview, size: int = _CHUNK) -> Iterator[memoryview]:
        """Yields what part of `memory` holds in pieces, each gone when the next one comes."""
        start, scratch = self._start(data), np.empty(min(len(data), size), np.uint8)
        for at in range(0, len(data), size):
            piece = scratch[: len(data) - at]
            self._fill(piece, start + at)
            yield memoryview(piece)

    def check_later(self, check: Callable[[], None]) -> None:
        """Leaves it to `verify` to call `check`, which raises where a part of the file is wrong."""
        self._checks.append(check)

    def verify(self) -> bool | None:
        """Says whether the file has the sum that its name says; None where it says none.

        Unless it has, the parts are checked: raises the `JaxvidError` of one that is wrong, or of a
        file that is not any more what it was when it was opened.
        """
        named = sum_in(self.path.name)
        as_named = None if named is None else self.sha256().startswith(named)
        while self._checks and not as_named:
            self._checks.pop(0)()
        if self._state() != self._found:
            raise self._changed()
        return as_named

    def damaged(self, reason: str) -> JaxvidError:
        """Returns the error for a file that contradicts itself."""
        return JaxvidError(f"{self.path} is damaged ({reason}): download it again")

    def array(
        self,
        data: memoryview,
        dtype: np.dtype,
        shape: Sequence[int],
        strides: Sequence[int] | None = None,
        offset: int = 0,
    ) -> np.ndarray:
        """Returns a read-only array over part of `data`; `strides` and `offset` count elements.

        Without `strides` the last axis varies fastest. Raises `JaxvidError` unless every element
        lies within `data`.
        """
        if len(shape) > MAX_DIMENSIONS:
            raise self.damaged(f"a tensor has more than {MAX_DIMENSIONS} dimensions")
        if strides is None:
            strides = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
        sound = all(type(n) is int and 0 <= n < 1 << 48 for n in (offset, *shape, *strides))
        # Numpy multiplies all sizes but those of 0, and so would not let these pass.
        if not sound or len(shape) != len(strides) or math.prod(filter(None, shape)) >= 1 << 48:
            raise self.damaged("a tensor's shape makes no sense")
        elements = math.prod(shape)
        # A stride of 0 could claim any size; no real tensor is larger than what it lies in.
        if elements * dtype.itemsize > max(self.size, len(data)):
            raise self.damaged("a tensor claims to be larger than the file")
        if elements == 0:
            return np.zeros(shape, dtype)
        steps = zip(shape, strides, strict=True)
        last = offset + sum((size - 1) * stride for size, stride in steps)
        if (last + 1) * dtype.itemsize > len(data):
            raise self.damaged("a tensor reaches beyond its data")
        strides = tuple(stride * dtype.itemsize for stride in strides)
        return np.ndarray(shape, dtype, data, offset * dtype.itemsize, strides)

    def native(self, data: memoryview, dtype: np.dtype, byteorder: str = "little") -> memoryview:
        """Returns the bytes as this machine wants them, the same memory wherever it can be."""
        if byteorder != sys.byteorder and dtype.itemsize > 1:
            self.count(len(data))
            data = self.fetch(data)
            word = dtype.itemsize // 2 if dtype.kind == "c" else dtype.itemsize
            return memoryview(np.frombuffer(data, f"u{word}").byteswap()).cast("B")
        if dtype == np.bool_:
            # Any byte but 0 means true to PyTorch; numpy must never see another than 0 and 1.
            self.count(len(data))
            flags = np.frombuffer(self.fetch(data), np.uint8)
            return memoryview((flags != 0).view(np.uint8))
        return data

    def count(self, copied: int) -> None:
        """Counts bytes that are copied out of the file; refuses more than it can have reason to."""
        self._copied += copied
        if self._copied > _SMALL + _MAX_COPIES * self.size:
            raise self.damaged("its tensors take far more memory than the file is long")


def sum_in(name: str) -> str | None:
    """Returns the first digits of a file's sha256 that its name ends with, or None."""
    found = _SUM.search(name)
    return found[1] if found else None


def fetched(array: np.ndarray) -> np.ndarray:
    """Returns an array that `Mapped` described with what it holds, read from the file just now.

    One that is in memory already is returned as it is.
    """
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, memoryview):
        base = base.obj
    if not isinstance(base, _FileMap) or not array.size:
        return array
    first, end = np.lib.array_utils.byte_bounds(array)
    file = base.file
    file.count(end - first)
    data = file.read(first - _address(file.memory), end - first)
    at = array.ctypes.data - first
    return np.ndarray(array.shape, array.dtype, data, at, array.strides)


def _address(data: memoryview) -> int:
    return np.frombuffer(data, np.uint8).ctypes.data


def empty(size: int) -> np.ndarray:
    """Returns so many bytes to be written, of memory that is taken page by page as that happens.

    Numpy asks for huge pages, which a system whose memory is in pieces is slow to find.
    """
    if size < _LARGE or not hasattr(mmap, "MAP_ANONYMOUS"):  # Windows has neither.
        return np.empty(size, np.uint8)
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return np.frombuffer(memory, np.uint8)
