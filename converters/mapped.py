"""A file as memory: arrays are views of the mapped file, so nothing is allocated on its word."""

import hashlib
import math
import mmap
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from jaxvid import paths
from jaxvid.errors import JaxvidError

MAX_DIMENSIONS = 32
# Bytes that must be rewritten to be used (swapped, decoded) are copied once each; a file that wants
# more than that points at the same bytes over and over.
_MAX_COPIES = 2
_SMALL = 64 << 20
_CHUNK = 16 << 20
# Eight digits of a sum, as OpenMMLab and torchvision write it; dates look like it, but are dates.
_SUM = re.compile(r"[-_]((?!20[0-3]\d[01]\d[0-3]\d\.)[0-9a-f]{8})\.\w+$")


class _FileMap(mmap.mmap):
    """The map of a file that is only read: what is dropped of its memory comes back."""


class Mapped:
    """A file that is read where it lies. `memory` is all of it; `size` is in bytes."""

    def __init__(self, path: str | Path):
        self.path = paths.local(path, "path")
        if not self.path.is_file():
            raise JaxvidError(f"there is no file {path}: check --checkpoint")
        try:
            with self.path.open("rb") as file:
                if os.fstat(file.fileno()).st_size == 0:
                    raise JaxvidError(f"{path} is empty: download it again")
                self.memory = memoryview(_FileMap(file.fileno(), 0, access=mmap.ACCESS_READ))
        except OSError as error:
            raise JaxvidError(f"cannot read {path} ({error.strerror})") from error
        self.size = len(self.memory)
        self._copied = 0
        self._sha256 = ""
        self._checks: list[Callable[[], None]] = []

    def sha256(self) -> str:
        """Returns the sum of the whole file, in hexadecimal digits."""
        if not self._sha256:
            digest = hashlib.sha256()
            for chunk in self.chunks(self.memory):
                digest.update(chunk)
            self._sha256 = digest.hexdigest()
        return self._sha256

    def chunks(self, data: memoryview) -> Iterator[memoryview]:
        """Yields `data`, part of this file, in pieces that leave the memory once they were used."""
        for start in range(0, len(data), _CHUNK):
            chunk = data[start : start + _CHUNK]
            yield chunk
            forget(np.frombuffer(chunk, np.uint8))

    def check_later(self, check: Callable[[], None]) -> None:
        """Leaves it to `verify` to call `check`, which raises where a part of the file is wrong."""
        self._checks.append(check)

    def verify(self) -> bool | None:
        """Says whether the file has the sum that its name says; None where it says none.

        Unless it has, the parts are checked: raises the `JaxvidError` of one that is wrong.
        """
        named = sum_in(self.path.name)
        as_named = None if named is None else self.sha256().startswith(named)
        while self._checks and not as_named:
            self._checks.pop(0)()
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
        if strides is None:
            strides = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
        sound = all(type(n) is int and 0 <= n < 1 << 48 for n in (offset, *shape, *strides))
        if not sound or len(shape) != len(strides) or len(shape) > MAX_DIMENSIONS:
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
            word = dtype.itemsize // 2 if dtype.kind == "c" else dtype.itemsize
            return memoryview(np.frombuffer(data, f"u{word}").byteswap()).cast("B")
        if dtype == np.bool_:
            # Any byte but 0 means true to PyTorch; numpy must never see another than 0 and 1.
            flags = np.frombuffer(data, np.uint8)
            if flags.max(initial=0) > 1:
                self.count(len(data))
                return memoryview((flags != 0).view(np.uint8))
        return data

    def count(self, copied: int) -> None:
        """Counts bytes that are copied out of the file; refuses more than it can have reason to."""
        self._copied += copied
        if self._copied > _SMALL + _MAX_COPIES * self.size:
            raise self.damaged("its tensors take far more memory than the file is long")

    def forget(self) -> None:
        """Gives back the memory of all that was read so far; what is read again comes back."""
        forget(np.frombuffer(self.memory, np.uint8))


def sum_in(name: str) -> str | None:
    """Returns the first digits of a file's sha256 that its name ends with, or None."""
    found = _SUM.search(name)
    return found[1] if found else None


def forget(array: np.ndarray) -> None:
    """Gives back the memory that an array's part of a file takes, where it is part of one."""
    base = array
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, memoryview):
        base = base.obj
    # Windows has no such call, and trims the memory of mapped files by itself.
    if not isinstance(base, _FileMap) or not hasattr(mmap, "MADV_DONTNEED"):
        return
    first = np.frombuffer(base, np.uint8).ctypes.data
    start, end = (address - first for address in np.lib.array_utils.byte_bounds(array))
    start -= start % mmap.PAGESIZE
    base.madvise(mmap.MADV_DONTNEED, start, end - start)
