"""Reads the files of `torch.save` without PyTorch, and runs nothing that they name.

Since version 1.6 such a file is a zip archive: a pickle that says which tensors there are, and one
member of raw bytes per storage. Before, from 0.1.10 on, it is a row of pickles with the raw bytes
of the storages behind them. Either way tensors are views of the mapped file.
"""

import io
import itertools
import os
import struct
import sys
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from converters import pickles
from converters.described import STORAGES, Storage
from converters.mapped import Mapped
from jaxvid.base import regular
from jaxvid.base.errors import JaxvidError

MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001
# A member takes about 100 bytes of a zip file's table, and ten times that in memory.
MAX_TABLE = 16 << 20
_LOCAL_HEADER = struct.Struct("<4s5H3L2H")


def read_archive(file: Mapped, members: Mapping[str, zipfile.ZipInfo]) -> Any:
    """Returns what a zip file of `torch.save` describes, with tensors not yet read."""
    roots = [name[: -len("data.pkl")] for name in members if is_description(name)]
    if len(roots) != 1:
        raise file.damaged(f"{len(roots)} of its members are descriptions")
    root = roots[0]
    byteorder = "little"
    if root + "byteorder" in members:
        data = member_bytes(file, members[root + "byteorder"])[:10]
        byteorder = bytes(file.fetch(data)).decode("latin-1").strip()
    if byteorder not in ("little", "big"):
        raise file.damaged("its byte order is neither little nor big")
    storages: dict[tuple[str, str], memoryview] = {}

    def load(kind: str, key: str, count: int) -> memoryview:
        if (kind, key) not in storages:
            member = members.get(f"{root}data/{key}")
            if member is None:
                raise file.damaged(f"it lacks {f'data/{key}'[:100]!r}")
            data = member_bytes(file, member, check_later=True)
            dtype = np.dtype(STORAGES[kind])
            if count < 0 or count * dtype.itemsize > len(data):
                raise file.damaged(f"{f'data/{key}'[:100]!r} is shorter than its tensors need")
            storages[kind, key] = file.native(data[: count * dtype.itemsize], dtype, byteorder)
        return storages[kind, key]

    def storage(identity: tuple) -> Storage:
        kind, key, _, count, *_ = identity
        swapped = byteorder != sys.byteorder
        return Storage(kind, swapped, lambda: load(kind, key, count))

    description = member_bytes(file, members[root + "data.pkl"])
    return pickles.load(file, description, storage)[0]


def is_description(name: str) -> bool:
    """Says whether a zip member is the pickle of a file that `torch.save` wrote."""
    return name.count("/") == 1 and name.endswith("/data.pkl")


def read_pickles(file: Mapped) -> Any:
    """Returns what a plain pickle or PyTorch's format from before 1.6 describes."""
    content, end = pickles.load(file, file.memory)
    if content != MAGIC_NUMBER:
        return content
    head = []
    for _ in range(2):
        value, size = pickles.load(file, file.memory[end:])
        head.append(value)
        end += size
    protocol, system = head
    if protocol != PROTOCOL:
        raise JaxvidError(f"{file.path} is in a format of PyTorch's that is not known here")
    little = isinstance(system, dict) and system.get("little_endian", True) is not False
    return _Legacy(file, end, "little" if little else "big").read()


class _Legacy:
    """The storages behind the pickles: a count and that many elements each, in a stated order."""

    def __init__(self, file: Mapped, start: int, byteorder: Literal["little", "big"]):
        self._file = file
        self._start = start
        self._byteorder: Literal["little", "big"] = byteorder
        self._kinds: dict[str, str] = {}
        self._found: dict[str, memoryview] = {}
        self._native: dict[str, memoryview] = {}

    def read(self) -> Any:
        memory, end = self._file.memory, self._start
        content, size = pickles.load(self._file, memory[end:], self._storage)
        end += size
        keys, size = pickles.load(self._file, memory[end:])
        end += size
        if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
            raise self._file.damaged("its list of storages makes no sense")
        for key in keys:
            if key not in self._kinds:
                raise self._file.damaged(f"nothing describes its storage {key[:100]!r}")
            itemsize = np.dtype(STORAGES[self._kinds[key]]).itemsize
            count = int.from_bytes(self._file.read(end, 8), self._byteorder, signed=True)
            start, end = end + 8, end + 8 + count * itemsize
            if count < 0 or end > self._file.size:
                raise self._file.damaged(f"its storage {key[:100]!r} is cut off")
            self._found[key] = memory[start:end]
        return content

    def _storage(self, identity: tuple) -> Storage:
        kind, key, _, count, *view = identity
        if self._kinds.setdefault(key, kind) != kind:
            raise self._file.damaged(f"its storage {key[:100]!r} is of two types")
        first = 0
        if view and view[0] is not None:
            _, first, count = view[0]
        if not all(type(number) is int and number >= 0 for number in (first, count)):
            raise self._file.damaged(f"its storage {key[:100]!r} makes no sense")
        swapped = self._byteorder != sys.byteorder
        return Storage(kind, swapped, lambda: self._load(kind, key, first, count))

    def _load(self, kind: str, key: str, first: int, count: int) -> memoryview:
        dtype = np.dtype(STORAGES[kind])
        if key not in self._found:
            raise self._file.damaged(f"it lacks the storage {key[:100]!r}")
        if key not in self._native:
            self._native[key] = self._file.native(self._found[key], dtype, self._byteorder)
        data = self._native[key][first * dtype.itemsize : (first + count) * dtype.itemsize]
        if len(data) != count * dtype.itemsize:
            raise self._file.damaged(f"its storage {key[:100]!r} is shorter than its tensors need")
        return data


def table(file: Mapped) -> dict[str, zipfile.ZipInfo]:
    """Returns the members of a zip file by name, none of which overlaps another."""
    try:
        # Only the table of contents is used: `zipfile` would copy what it extracts.
        with _Table(regular.open_to_read(file.path)) as opened, zipfile.ZipFile(opened) as archive:
            members = sorted(archive.infolist(), key=lambda member: member.header_offset)
    # A hostile table makes `zipfile` raise nearly anything.
    except Exception as error:
        raise JaxvidError(f"{file.path} is cut off or damaged: download it again") from error
    for one, next_one in itertools.pairwise(members):
        if one.header_offset + _LOCAL_HEADER.size + one.compress_size > next_one.header_offset:
            raise file.damaged("its members overlap")
    return {member.filename: member for member in members}


class _Table(io.BufferedReader):
    """A zip file of which no more than a table of contents can be read at once."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0:
            size = os.fstat(self.fileno()).st_size - self.tell()
        if size > MAX_TABLE:
            raise ValueError("a table without end")
        return super().read(size)


def member_bytes(file: Mapped, member: zipfile.ZipInfo, *, check_later: bool = False) -> memoryview:
    """Returns the bytes of a member that is stored as it is, checked against their sum.

    With `check_later` it is `file.verify` that checks them.
    """
    name = member.filename.partition("/")[2][:100] or member.filename[:100]
    if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1:
        raise JaxvidError(
            f"{file.path} is compressed or encrypted inside, which torch.save never does: "
            "unpack it and save it again"
        )
    data = raw_bytes(file, member)
    if len(data) != member.file_size:
        raise file.damaged(f"{name!r} is cut off")

    def check() -> None:
        total = 0
        for chunk in file.chunks(data):
            total = zlib.crc32(chunk, total)
        if total != member.CRC:
            raise file.damaged(f"the sum of {name!r} is wrong")

    if member.CRC:  # PyTorch writes 0 where it was told not to compute sums.
        file.check_later(check) if check_later else check()
    return data


def raw_bytes(file: Mapped, member: zipfile.ZipInfo) -> memoryview:
    """Returns the bytes of a member as they lie in the file, compressed where it is."""
    start = member.header_offset
    header = file.read(start, _LOCAL_HEADER.size)
    if len(header) < _LOCAL_HEADER.size or bytes(header[:4]) != b"PK\3\4":
        raise file.damaged(f"{member.filename[:100]!r} is not where its table says")
    *_, name_length, extra_length = _LOCAL_HEADER.unpack(header)
    start += _LOCAL_HEADER.size + name_length + extra_length
    return file.memory[start : start + member.compress_size]
